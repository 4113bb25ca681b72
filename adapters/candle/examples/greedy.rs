//! Greedy decoding of token ids, timed: `cargo run --release -p corolla-candle --example greedy -- MODEL COUNT ID...`
//! Environment: `THREADS`, `DTYPE` (`f32`, `bf16`), `ACTIVATIONS` (`f32`), `SCREEN` (`int8`,
//! `int4`), `KV_CACHE` (`bf16`, `q8`).

use std::{error::Error, time::Instant};

use corolla_candle::{Activations, Cpu, Target};
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{
    fit,
    model::{LogitRow, TokenId, Want},
    ports::{SessionNeed, StepInput},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("no model")?.into();
    let count: usize = args.next().ok_or("no count")?.parse()?;
    let prompt = args.map(|id| id.parse().map(TokenId)).collect::<Result<Vec<_>, _>>()?;
    let dtype = match std::env::var("DTYPE").as_deref() {
        Ok("f32") => fit::Dtype::F32,
        Ok("bf16") => fit::Dtype::Bf16,
        _ => fit::Dtype::Stored,
    };
    let started = Instant::now();
    let config = LoadConfig { id: "example".into(), path, ends: true, blocks: BlockChoice::All, cache_tokens: 8192 };
    let threads = std::env::var("THREADS").ok().map(|threads| threads.parse()).transpose()?;
    let activations = match std::env::var("ACTIVATIONS").as_deref() {
        Ok("f32") => Activations::F32,
        _ => Activations::Auto,
    };
    let named = std::env::var("SCREEN").ok();
    let screen = fit::Screen::ALL.into_iter().find(|screen| Some(screen.name()) == named.as_deref());
    let named = std::env::var("KV_CACHE").ok();
    let kv_type = fit::KvType::ALL.into_iter().find(|kv_type| Some(kv_type.name()) == named.as_deref());
    let kv_type = kv_type.unwrap_or_default();
    let cpu = Cpu { activations, screen, kv_type, threads, ..Cpu::new(dtype) };
    let model = corolla_candle::load(config, Target::Cpu(cpu)).await?;
    let (local, engine) = (model.local().ok_or("no ends")?, model.engine().ok_or("no blocks")?);
    println!("{:?} loaded in {:.2?}", local.spec(), started.elapsed());
    let need = SessionNeed { max_length: prompt.len() + count, batch: 1 };
    let mut session = engine.open(engine.hosted(), need).await?;
    let (mut input, mut tokens) = (prompt.clone(), Vec::new());
    let started = Instant::now();
    let mut decoding = Instant::now();
    for nth in 0..count {
        let hidden = session.step(StepInput::from(local.embed(vec![input]).await?)).await?;
        let rows = local.logits(hidden.last()?, Want::Top { k: 1, also: Vec::new() }).await?.rows;
        let best = rows.into_iter().flat_map(LogitRow::into_pairs).max_by(|a, b| a.1.total_cmp(&b.1));
        let (token, _) = best.ok_or("no scores")?;
        if nth == 0 {
            println!("prompt of {} in {:.6} s", prompt.len(), started.elapsed().as_secs_f64());
            decoding = Instant::now();
        }
        tokens.push(token.0);
        input = vec![token];
    }
    let speed = (count - 1) as f64 / decoding.elapsed().as_secs_f64();
    println!("{tokens:?}\n{speed:.1} tokens/s");
    Ok(())
}
