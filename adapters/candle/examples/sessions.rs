//! Sessions that decode together, against one alone, in turns of one run (`make bench-sessions`):
//! `cargo run --release -p corolla-candle --example sessions -- MODEL SESSIONS TOKENS ROUNDS`
//!
//! `DTYPE` is `f32`, `f16`, `bf16` or `q8_0`, else weights are as in the file; `THREADS` as many as there are cores if not set.
//! Prints tokens per second of all sessions together, medians of the rounds, and whether all said what one alone said.

use std::{error::Error, time::Instant};

use corolla_candle::{Cpu, Target};
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{
    fit::Dtype,
    model::{LogitRow, TokenId, Want},
    ports::{BlockEngine, LocalModel, SessionNeed},
};
use futures_util::future::try_join_all;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Positions of the prompts, each another one.
const PROMPT: usize = 16;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("no model")?.into();
    let mut number = |what: &str| -> Outcome<usize> { Ok(args.next().ok_or(format!("no {what}"))?.parse()?) };
    let (many, tokens, rounds) = (number("SESSIONS")?, number("TOKENS")?, number("ROUNDS")?);
    let dtype = match std::env::var("DTYPE").as_deref() {
        Ok("f32") => Dtype::F32,
        Ok("f16") => Dtype::F16,
        Ok("bf16") => Dtype::Bf16,
        Ok("q8_0") => Dtype::Q8_0,
        _ => Dtype::Stored,
    };
    let threads = std::env::var("THREADS").ok().map(|threads| threads.parse()).transpose()?;
    let config = LoadConfig { id: "example".into(), path, ends: true, blocks: BlockChoice::All, cache_tokens: 65_536 };
    let model = corolla_candle::load(config, Target::Cpu(Cpu { threads, ..Cpu::new(dtype) })).await?;
    let (local, engine) = (model.local().ok_or("no ends")?, model.engine().ok_or("no blocks")?);
    println!("{}, {} sessions of {tokens} tokens", local.spec().dtype, many);

    let (mut alone, mut together, mut equal) = (Vec::new(), Vec::new(), true);
    for round in 0..rounds {
        let (speed, wanted) = decode(&*local, &*engine, 1, tokens).await?;
        alone.push(speed);
        let (speed, found) = decode(&*local, &*engine, many, tokens).await?;
        together.push(speed);
        equal &= found[0] == wanted[0];
        println!("round {round}: {:.1} and {:.1} tokens/s", alone[round], together[round]);
    }
    let mut ratios: Vec<f64> = together.iter().zip(&alone).map(|(together, alone)| together / alone).collect();
    let [alone, together, ratio] = [&mut alone, &mut together, &mut ratios].map(|speeds| {
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    });
    println!("1: {alone:.1} tokens/s, {many}: {together:.1} tokens/s, ratio {ratio:.2}, same tokens: {equal}");
    Ok(())
}

/// Tokens per second of `many` sessions from their second token on, and what they said.
async fn decode(
    local: &dyn LocalModel,
    engine: &dyn BlockEngine,
    many: usize,
    tokens: usize,
) -> Outcome<(f64, Vec<Vec<TokenId>>)> {
    let mut sessions = Vec::new();
    for nth in 0..many {
        let need = SessionNeed { max_length: PROMPT + tokens, batch: 1 };
        let mut session = engine.open(engine.hosted(), need).await?;
        let prompt = (0..PROMPT).map(|at| TokenId((3 + 17 * at + 101 * nth) as u32)).collect();
        let hidden = session.step(local.embed(vec![prompt]).await?.into()).await?;
        sessions.push((session, best(local, hidden.last()?).await?));
    }
    let started = Instant::now();
    let said = sessions.into_iter().map(async |(mut session, first)| {
        let mut said = vec![first];
        while said.len() < tokens {
            let input = local.embed(vec![said[said.len() - 1..].to_vec()]).await?;
            let hidden = session.step(input.into()).await?;
            said.push(best(local, hidden).await?);
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(said)
    });
    let said = try_join_all(said).await?;
    Ok(((many * (tokens - 1)) as f64 / started.elapsed().as_secs_f64(), said))
}

async fn best(local: &dyn LocalModel, hidden: corolla_domain::model::Hidden) -> Outcome<TokenId> {
    let rows = local.logits(hidden, Want::Top { k: 1, also: Vec::new() }).await?.rows;
    let best = rows.into_iter().flat_map(LogitRow::into_pairs).max_by(|a, b| a.1.total_cmp(&b.1));
    Ok(best.ok_or("no scores")?.0)
}
