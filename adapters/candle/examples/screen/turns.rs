//! Turns with another program: a line comes in, one token is chosen, a line goes out.
//!
//! `exact greedy 7` asks for state 7 with the whole head, `screened greedy 7` with the screened one; `draw` in place of `greedy`
//! draws at temperature 1. The answer is `MILLISECONDS TOKEN`. `ready` is written when both are loaded.

use std::io::{BufRead, Write, stdin, stdout};

use corolla_domain::generation::Sampling;

use crate::{
    Outcome, load,
    pair::choose,
    states::{Hard, Noise},
};

/// Answers until the input ends.
pub(crate) async fn take(path: &str) -> Outcome<()> {
    let (plain, _) = load(path, false, false).await?;
    let (screened, _) = load(path, true, false).await?;
    let hard = Hard::new(path, &*plain).await?;
    println!("ready");
    stdout().flush()?;
    for line in stdin().lock().lines() {
        let line = line?;
        let [head, way, state] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("{line:?} is no turn").into());
        };
        let local = match head {
            "exact" => &plain,
            "screened" => &screened,
            _ => return Err(format!("{head:?} is no head").into()),
        };
        let sampling = if way == "draw" { Sampling::at_temperature(1.0) } else { Sampling::greedy() };
        let seed: u64 = state.parse()?;
        let state = hard.likely(&mut Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        let (token, _, time) = choose(&**local, &state, &sampling, seed).await?;
        println!("{time:.3} {token}");
        stdout().flush()?;
    }
    Ok(())
}
