//! Turns with another program: a line comes in, one token is chosen, a line goes out.
//!
//! `exact greedy 7` asks for state 7 with the whole head, mapped as it lies in the file; `int8 greedy 7` and `int4 greedy 7` with
//! screened ones; `draw` in place of `greedy` draws at temperature 1. The answer is `MILLISECONDS TOKEN`. `ready` is written
//! when all are loaded.

use std::{
    io::{BufRead, Write, stdin, stdout},
    time::Instant,
};

use corolla_domain::{
    generation::{Sampler, Sampling},
    model::{Hidden, TokenId, Want},
    ports::LocalModel,
};

use crate::{
    Outcome, load,
    pair::choose,
    screens,
    states::{Hard, Noise},
};

/// Answers until the input ends.
pub(crate) async fn take(path: &str) -> Outcome<()> {
    let mut heads = Vec::new();
    for screen in screens()? {
        heads.push((screen.name(), load(path, Some(screen), false).await?.0));
    }
    let hard = Hard::new(path, &*heads[0].1).await?;
    println!("ready");
    stdout().flush()?;
    for line in stdin().lock().lines() {
        let line = line?;
        let [head, way, state] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("{line:?} is no turn").into());
        };
        let screened = heads.iter().find(|(name, _)| *name == head);
        if screened.is_none() && head != "exact" {
            return Err(format!("{head:?} is no head").into());
        }
        let sampling = if way == "draw" { Sampling::at_temperature(1.0) } else { Sampling::greedy() };
        let seed: u64 = state.parse()?;
        let state = hard.likely(&mut Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        let (token, time) = match screened {
            Some((_, local)) => {
                choose(&**local, &state, &sampling, seed).await.map(|(token, _, time)| (token, time))?
            }
            None => from_all(&*heads[0].1, &state, &sampling, seed).await?,
        };
        println!("{time:.3} {token}");
        stdout().flush()?;
    }
    Ok(())
}

/// The token that is chosen from all scores, and the milliseconds that it took. They are computed without the screen.
async fn from_all(local: &dyn LocalModel, state: &[f32], sampling: &Sampling, seed: u64) -> Outcome<(TokenId, f64)> {
    let (hidden, mut sampler) =
        (Hidden::from_f32((1, 1, state.len()), state)?, Sampler::new(sampling.clone(), &[], seed));
    let started = Instant::now();
    let row = local.logits(hidden, Want::All).await?.rows.pop().ok_or("no scores")?;
    Ok((sampler.pick(row)?, started.elapsed().as_secs_f64() * 1e3))
}
