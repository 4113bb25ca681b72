//! The screened head beside the exact one on many hidden states: whether both give the same scores, to the bit, and how
//! long each takes: `cargo run --release -p corolla-candle --example screen -- MODEL STATES [ROUNDS]`
//!
//! Half of the states are the model's own, of text it makes up; the others are made to be hard: along a row of the head,
//! between two, away from one, along one coordinate, without a pattern, zero, and states of the model that are
//! scaled far up or down. With `ENDS` set the model's blocks stay on disk, and all states are of the second sort.
//!
//! For each state, the best token, the best 40 and some more by name are asked for. `ROUNDS` (default 200) single states
//! are then timed in turns. With `STATES` 0 the screened head alone is timed, and the memory told that it takes.
//!
//! Environment: `DTYPE` (`f32`, `f16`, else `bf16`), `ACTIVATIONS` (`f32`), `THREADS`, `KERNELS`.

use std::{error::Error, sync::Arc, time::Instant};

use corolla_candle::{Activations, Target};
use corolla_checkpoint::{Checkpoint, NormKind};
use corolla_compute::{BlockChoice, LoadConfig, Model, pick};
use corolla_domain::{
    fit::{Dtype, Kernels},
    model::{Hidden, LogitRow, TokenId, Want},
    ports::{BlockEngine, BlockSession, LocalModel, SessionNeed, StepInput},
};
use futures_util::future::try_join_all;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Texts that are made up side by side, and their length.
const TEXTS: usize = 16;
const LENGTH: usize = 128;
/// States whose scores are all computed at a time: the exact head takes so few one by one.
const FEW: usize = 4;

#[tokio::main]
async fn main() -> Outcome<()> {
    tracing_subscriber::fmt().with_env_filter("corolla_candle=debug").init();
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("no model")?;
    let states: usize = args.next().ok_or("no number of states")?.parse()?;
    let rounds: usize = args.next().map_or(Ok(200), |rounds| rounds.parse())?;
    let has_blocks = Checkpoint::open(path.as_ref())?.description()?.blocks > 0 && std::env::var("ENDS").is_err();
    if states == 0 {
        return alone(&path, rounds).await;
    }
    let (plain, _) = load(&path, false, false).await?;
    let (screened, model) = load(&path, true, has_blocks).await?;
    let mut pair = Pair { plain, screened, noise: Noise(7), states: 0, differences: 0 };
    if let Some(engine) = model.engine() {
        while pair.states < states / 2 {
            pair.texts(&*engine).await?;
        }
        println!("{} states of texts, {} differences", pair.states, pair.differences);
    }
    let hard = Hard::new(&path, &*pair.plain).await?;
    while pair.states < states {
        let some: Vec<Vec<f32>> = (0..FEW).map(|_| hard.state(&mut pair.noise)).collect();
        pair.compare(&some).await?;
    }
    println!("{} states in all, {} differences", pair.states, pair.differences);
    pair.time(&hard, rounds).await?;
    if pair.differences > 0 { Err("the heads differ".into()) } else { Ok(()) }
}

async fn load(path: &str, screen: bool, blocks: bool) -> Outcome<(Arc<dyn LocalModel>, Model)> {
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
    let model = corolla_candle::load(config, Target::Cpu { dtype, kernels, activations, screen, threads }).await?;
    println!("loaded {} in {:.2?}", if screen { "with a screen" } else { "as it is" }, started.elapsed());
    Ok((model.local().ok_or("no ends")?, model))
}

/// The screened head by itself: its time and its memory.
async fn alone(path: &str, rounds: usize) -> Outcome<()> {
    let (screened, _) = load(path, true, false).await?;
    let (hard, mut noise, mut times) = (Hard::new(path, &*screened).await?, Noise(7), Vec::new());
    for _ in 0..rounds {
        times.push(best(&*screened, &hard.likely(&mut noise)).await?);
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of_memory = |line: &&str| ["VmHWM", "VmRSS", "RssAnon"].iter().any(|name| line.starts_with(name));
    let memory: Vec<&str> = status.lines().filter(of_memory).collect();
    println!("screened {:.3} ms (median of {rounds}); {}", median(&mut times), memory.join(", "));
    Ok(())
}

/// Milliseconds for the best token of a state.
async fn best(local: &dyn LocalModel, state: &[f32]) -> Outcome<f64> {
    let hidden = Hidden::from_f32((1, 1, state.len()), state)?;
    let started = Instant::now();
    local.logits(hidden, Want::Top { k: 1, also: Vec::new() }).await?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The same model with and without a screen.
struct Pair {
    plain: Arc<dyn LocalModel>,
    screened: Arc<dyn LocalModel>,
    noise: Noise,
    states: usize,
    differences: usize,
}

impl Pair {
    /// Compares both on as many states as there are; gives each state's best 40.
    async fn compare(&mut self, states: &[Vec<f32>]) -> Outcome<Vec<Vec<(TokenId, f32)>>> {
        let mut best = Vec::new();
        for states in states.chunks(FEW) {
            let width = states[0].len();
            let hidden = Hidden::from_f32((1, states.len(), width), &states.concat())?;
            let all = self.plain.logits(hidden.clone(), Want::All).await?.rows;
            let vocab = self.plain.spec().vocab;
            let also = (0..3).map(|_| TokenId(self.noise.below(vocab) as u32)).collect();
            for (k, also) in [(1, Vec::new()), (40, also)] {
                let want = Want::Top { k, also };
                let found = self.screened.logits(hidden.clone(), want.clone()).await?.rows;
                for (all, found) in all.iter().zip(&found) {
                    let LogitRow::Dense(all) = all else { return Err("not all scores".into()) };
                    if bits(&pick(all, &want)) != bits(found) {
                        self.differences += 1;
                        println!("state {}: {want:?} differs", self.states);
                    }
                }
                if k > 1 {
                    best.extend(found.into_iter().map(LogitRow::into_pairs));
                }
            }
            self.states += states.len();
            if self.states % 10_000 < states.len() {
                println!("{} states, {} differences", self.states, self.differences);
            }
        }
        Ok(best)
    }

    /// Some texts, each token drawn from the best 40, with all their states.
    async fn texts(&mut self, engine: &dyn BlockEngine) -> Outcome<()> {
        let vocab = self.plain.spec().vocab;
        let mut texts: Vec<(Box<dyn BlockSession>, TokenId)> = Vec::new();
        for _ in 0..TEXTS {
            let session = engine.open(engine.hosted(), SessionNeed { max_length: LENGTH, batch: 1 }).await?;
            texts.push((session, TokenId(self.noise.below(vocab) as u32)));
        }
        for _ in 0..LENGTH {
            let local = &self.plain;
            let steps = texts.iter_mut().map(async |(session, token)| {
                let hidden = session.step(StepInput::from(local.embed(vec![vec![*token]]).await?)).await?;
                Ok::<_, Box<dyn Error + Send + Sync>>(hidden.to_f32())
            });
            let states = try_join_all(steps).await?;
            let best = self.compare(&states).await?;
            for ((_, token), best) in texts.iter_mut().zip(best) {
                *token = draw(best, self.noise.next());
            }
        }
        Ok(())
    }

    /// Milliseconds for the best token of one state, medians of turns.
    async fn time(&mut self, hard: &Hard, rounds: usize) -> Outcome<()> {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let state = hard.likely(&mut self.noise);
            for (local, times) in [&self.plain, &self.screened].into_iter().zip(&mut times) {
                times.push(best(&**local, &state).await?);
            }
        }
        let mut ratios: Vec<f64> = times[0].iter().zip(&times[1]).map(|(plain, screened)| plain / screened).collect();
        let [plain, screened] = &mut times;
        let (plain, screened, ratio) = (median(plain), median(screened), median(&mut ratios));
        println!("exact {plain:.3} ms, screened {screened:.3} ms, {ratio:.2} times as fast (medians of {rounds})");
        Ok(())
    }
}

/// What hard states are made of.
struct Hard {
    /// Rows of the head.
    rows: Vec<Vec<f32>>,
    /// What the last norm multiplies with.
    scale: Vec<f32>,
}

impl Hard {
    async fn new(path: &str, local: &dyn LocalModel) -> Outcome<Self> {
        let checkpoint = Checkpoint::open(path.as_ref())?;
        let about = checkpoint.description()?;
        let scale = match about.norm {
            NormKind::Rms => checkpoint.tensors().vector(&format!("{}.weight", about.ends.last_norm), about.hidden)?,
            NormKind::Layer => vec![1.0; about.hidden],
        };
        // Where embeddings score too they are the head's rows, else as good as any.
        let (vocab, mut noise) = (local.spec().vocab, Noise(3));
        let tokens = (0..512).map(|_| TokenId(noise.below(vocab) as u32)).collect();
        let rows = local.embed(vec![tokens]).await?.to_f32();
        Ok(Self { rows: rows.chunks_exact(about.hidden).map(<[f32]>::to_vec).collect(), scale })
    }

    /// A state that the last norm turns towards a row.
    fn along(&self, noise: &mut Noise) -> Vec<f32> {
        let row = &self.rows[noise.below(self.rows.len())];
        row.iter().zip(&self.scale).map(|(row, scale)| row / scale).collect()
    }

    /// One in which a row leads as a likely token does: seven times as far from the others as they are from each other.
    fn likely(&self, noise: &mut Noise) -> Vec<f32> {
        let row = self.along(noise);
        let length = row.iter().map(|number| number * number).sum::<f32>().sqrt();
        let normal = |noise: &mut Noise| 1.73 * (0..4).map(|_| noise.next() - 0.5).sum::<f32>();
        row.iter().map(|number| 7.0 * number / length + normal(noise)).collect()
    }

    fn state(&self, noise: &mut Noise) -> Vec<f32> {
        let (a, b) = (self.along(noise), self.along(noise));
        let both = |of: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(a, b)| of(*a, *b)).collect::<Vec<f32>>();
        match noise.below(9) {
            0 => a,
            1 => both(|a, b| a + b),
            2 => both(|a, b| a - b),
            3 => {
                let mut one = vec![0.0; a.len()];
                one[noise.below(b.len())] = noise.next() - 0.5;
                one
            }
            4 => a.iter().map(|_| noise.next() - 0.5).collect(),
            5 => vec![0.0; a.len()],
            6 => a.iter().map(|a| a * 1e-30).collect(),
            7 => self.likely(noise),
            _ => a.iter().map(|a| a * 1e15).collect(),
        }
    }
}

/// Draws a token by its probability; `chance` is in 0..1.
fn draw(mut best: Vec<(TokenId, f32)>, chance: f32) -> TokenId {
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    best.truncate(40);
    let most = best[0].1;
    let total: f32 = best.iter().map(|(_, score)| (score - most).exp()).sum();
    let mut left = chance * total;
    let drawn = best.iter().find(|(_, score)| {
        left -= (score - most).exp();
        left < 0.0
    });
    drawn.unwrap_or(&best[0]).0
}

fn bits(row: &LogitRow) -> Vec<(TokenId, u32)> {
    row.clone().into_pairs().into_iter().map(|(token, score)| (token, score.to_bits())).collect()
}

/// Numbers without a pattern.
struct Noise(u64);

impl Noise {
    /// In 0..1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() * bound as f32) as usize).min(bound - 1)
    }
}
