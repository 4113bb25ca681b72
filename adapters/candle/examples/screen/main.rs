//! Screened heads beside the exact one on many hidden states: whether all give the same scores, to the bit, and the same
//! tokens, and how long each takes: `cargo run --release -p corolla-candle --example screen -- MODEL STATES [ROUNDS]`
//!
//! Half of the states are the model's own, of text it makes up; the others are made to be hard: along a row of the head,
//! between two, away from one, along one coordinate, without a pattern, zero, and states of the model that are
//! scaled far up or down. With `ENDS` set the model's blocks stay on disk, and all states are of the second sort.
//!
//! For each state, the best token, the best 40 and some more by name are asked for, and one is drawn. `ROUNDS` (default
//! 200) single states, the model's own and such that have a likely token, are then timed in turns. With `STATES` 0 a
//! screened head alone is timed, and the memory told that it takes. With `turns` in their place, each line that comes in is
//! answered with one time, so that another program can take turns (see `turns.rs`).
//!
//! Environment: `SCREENS` (`int8,int4`; of the first alone the memory is told), `SEED` (a number; others make other states), `DTYPE`
//! (`f32`, `f16`, else `bf16`), `ACTIVATIONS` (`f32`), `THREADS`, `KERNELS`.

mod pair;
mod states;
mod turns;

use std::{error::Error, sync::Arc, time::Instant};

use corolla_candle::{Activations, Cpu, Target};
use corolla_checkpoint::Checkpoint;
use corolla_compute::{BlockChoice, LoadConfig, Model};
use corolla_domain::{
    fit::{Dtype, Kernels, Screen},
    generation::Sampling,
    ports::LocalModel,
};

use self::{
    pair::{FEW, Heads, choose, median},
    states::{Hard, Noise},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    tracing_subscriber::fmt().with_env_filter("corolla_candle=debug").with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("no model")?;
    let states = args.next().ok_or("no number of states")?;
    if states == "turns" {
        return turns::take(&path).await;
    }
    let states: usize = states.parse()?;
    let rounds: usize = args.next().map_or(Ok(200), |rounds| rounds.parse())?;
    let has_blocks = Checkpoint::open(path.as_ref())?.description()?.blocks > 0 && std::env::var("ENDS").is_err();
    if states == 0 {
        return alone(&path, rounds).await;
    }
    let (plain, model) = load(&path, None, has_blocks).await?;
    let mut screened = Vec::new();
    for screen in screens()? {
        screened.push((screen, load(&path, Some(screen), false).await?.0));
    }
    let seed: u64 = std::env::var("SEED").map_or(Ok(7), |seed| seed.parse())?;
    let noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut heads = Heads::new(plain, screened, noise);
    if let Some(engine) = model.engine() {
        while heads.states < states / 2 {
            heads.texts(&*engine).await?;
        }
        heads.tell("of texts");
    }
    let hard = Hard::new(&path, &*heads.plain).await?;
    while heads.states < states {
        let some: Vec<Vec<f32>> = (0..FEW).map(|_| hard.state(&mut heads.noise)).collect();
        heads.compare(&some).await?;
    }
    heads.tell("in all");
    let likely: Vec<Vec<f32>> = (0..rounds).map(|_| hard.likely(&mut heads.noise)).collect();
    heads.time("likely", &likely).await?;
    if !heads.own.is_empty() {
        let own: Vec<Vec<f32>> = heads.own.iter().rev().take(rounds).cloned().collect();
        heads.time("own", &own).await?;
    }
    if heads.differences > 0 { Err("the heads differ".into()) } else { Ok(()) }
}

/// The screens that are asked for.
fn screens() -> Outcome<Vec<Screen>> {
    let named = |name: &str| {
        let screen = Screen::ALL.into_iter().find(|screen| screen.name() == name);
        screen.ok_or_else(|| format!("SCREENS has {name:?}; there are int8 and int4").into())
    };
    std::env::var("SCREENS").as_deref().unwrap_or("int8,int4").split(',').map(named).collect()
}

async fn load(path: &str, screen: Option<Screen>, blocks: bool) -> Outcome<(Arc<dyn LocalModel>, Model)> {
    let dtype = match std::env::var("DTYPE").as_deref() {
        Ok("f32") => Dtype::F32,
        Ok("f16") => Dtype::F16,
        _ => Dtype::Bf16,
    };
    let exact = std::env::var("ACTIVATIONS").is_ok_and(|name| name == "f32");
    let activations = if exact { Activations::F32 } else { Activations::Auto };
    let threads = std::env::var("THREADS").ok().map(|threads| threads.parse()).transpose()?;
    let named = std::env::var("KERNELS").ok();
    let kernels = Kernels::ALL.into_iter().find(|set| Some(set.name()) == named.as_deref());
    let blocks = if blocks { BlockChoice::All } else { BlockChoice::None };
    let config = LoadConfig { id: "example".into(), path: path.into(), ends: true, blocks, cache_tokens: 1 << 14 };
    let started = Instant::now();
    let cpu = Cpu { kernels, activations, screen, threads, ..Cpu::new(dtype) };
    let model = corolla_candle::load(config, Target::Cpu(cpu)).await?;
    eprintln!("loaded with screen {:?} in {:.2?}", screen.map(Screen::name), started.elapsed());
    Ok((model.local().ok_or("no ends")?, model))
}

/// A screened head by itself: its time and its memory.
async fn alone(path: &str, rounds: usize) -> Outcome<()> {
    let screen = screens()?[0];
    let (screened, _) = load(path, Some(screen), false).await?;
    let (hard, mut noise, mut times) = (Hard::new(path, &*screened).await?, Noise(7), Vec::new());
    for _ in 0..rounds {
        times.push(choose(&*screened, &hard.likely(&mut noise), &Sampling::greedy(), 0).await?.2);
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of_memory = |line: &&str| ["VmHWM", "VmRSS", "RssAnon"].iter().any(|name| line.starts_with(name));
    let memory: Vec<&str> = status.lines().filter(of_memory).collect();
    println!("{screen} {:.3} ms (median of {rounds}); {}", median(&mut times), memory.join(", "));
    Ok(())
}
