//! One model without a screen and with some, on the same states.

use std::{sync::Arc, time::Instant};

use corolla_compute::pick;
use corolla_domain::{
    fit::Screen,
    generation::{Sampler, Sampling},
    model::{Hidden, LogitRow, TokenId, Want},
    ports::{BlockEngine, BlockSession, LocalModel, SessionNeed, StepInput},
};
use futures_util::future::try_join_all;

use crate::{Outcome, states::Noise};

/// Texts that are made up side by side, and their length.
const TEXTS: usize = 16;
const LENGTH: usize = 128;
/// States that the screened head is given at a time; the exact one gets them one by one.
pub(crate) const FEW: usize = 4;
/// Of the model's own states, one in so many is kept to be timed.
const KEPT: usize = 5;

/// The same model without a screen and with some.
pub(crate) struct Heads {
    pub(crate) plain: Arc<dyn LocalModel>,
    screened: Vec<(Screen, Arc<dyn LocalModel>)>,
    pub(crate) noise: Noise,
    /// States that were compared.
    pub(crate) states: usize,
    pub(crate) differences: usize,
    /// Draws, and how many of them all scores were computed for.
    draws: [usize; 2],
    /// Some of the model's own states.
    pub(crate) own: Vec<Vec<f32>>,
}

/// Ways of choosing a token that a screen has a part in.
pub(crate) fn ways() -> [(&'static str, Sampling); 4] {
    let drawn = Sampling::at_temperature;
    [
        ("greedy", Sampling::greedy()),
        ("temperature 1", drawn(1.0)),
        ("temperature 0.7, top_p 0.9", Sampling { top_p: Some(0.9), ..drawn(0.7) }),
        ("temperature 1, min_p 0.05", Sampling { min_p: Some(0.05), ..drawn(1.0) }),
    ]
}

/// The token that is chosen in a state, whether all scores were computed, and the milliseconds that it took.
pub(crate) async fn choose(
    local: &dyn LocalModel,
    state: &[f32],
    sampling: &Sampling,
    seed: u64,
) -> Outcome<(TokenId, bool, f64)> {
    let (hidden, mut sampler) =
        (Hidden::from_f32((1, 1, state.len()), state)?, Sampler::new(sampling.clone(), &[], seed));
    let started = Instant::now();
    let row = local.logits(hidden, sampler.want()).await?.rows.pop().ok_or("no scores")?;
    let whole = matches!(row, LogitRow::Dense(_));
    let token = sampler.pick(row)?;
    Ok((token, whole, started.elapsed().as_secs_f64() * 1e3))
}

impl Heads {
    pub(crate) fn new(plain: Arc<dyn LocalModel>, screened: Vec<(Screen, Arc<dyn LocalModel>)>, noise: Noise) -> Self {
        Self { plain, screened, noise, states: 0, differences: 0, draws: [0; 2], own: Vec::new() }
    }

    /// Compares both on as many states as there are; gives each state's best 40.
    pub(crate) async fn compare(&mut self, states: &[Vec<f32>]) -> Outcome<Vec<Vec<(TokenId, f32)>>> {
        let mut best = Vec::new();
        for states in states.chunks(FEW) {
            let width = states[0].len();
            let mut all = Vec::new();
            for state in states {
                let row = self.plain.logits(Hidden::from_f32((1, 1, width), state)?, Want::All).await?.rows.pop();
                let Some(LogitRow::Dense(row)) = row else { return Err("not all scores".into()) };
                all.push(row);
            }
            let hidden = Hidden::from_f32((1, states.len(), width), &states.concat())?;
            let vocab = self.plain.spec().vocab;
            let also = (0..3).map(|_| TokenId(self.noise.below(vocab) as u32)).collect();
            for (k, also) in [(1, Vec::new()), (40, also)] {
                let want = Want::Top { k, also };
                let wanted: Vec<LogitRow> = all.iter().map(|all| pick(all, &want)).collect();
                for (screen, screened) in self.screened.clone() {
                    let found = screened.logits(hidden.clone(), want.clone()).await?.rows;
                    for (wanted, found) in wanted.iter().zip(&found) {
                        self.count(bits(wanted) == bits(found), &format!("{screen} {want:?}"));
                    }
                }
                if k > 1 {
                    best.extend(wanted.into_iter().map(LogitRow::into_pairs));
                }
            }
            for (state, all) in states.iter().zip(all) {
                let ways = ways();
                let (name, sampling) = &ways[1 + self.states % (ways.len() - 1)];
                let seed = self.states as u64;
                let wanted = Sampler::new(sampling.clone(), &[], seed).pick(LogitRow::Dense(all))?;
                for (screen, screened) in self.screened.clone() {
                    let (token, whole, _) = choose(&*screened, state, sampling, seed).await?;
                    self.count(token == wanted, &format!("{screen} {name}"));
                    self.draws[0] += 1;
                    self.draws[1] += usize::from(whole);
                }
                self.states += 1;
                if self.states.is_multiple_of(10_000) {
                    self.tell("so far");
                }
            }
        }
        Ok(best)
    }

    fn count(&mut self, same: bool, what: &str) {
        if !same {
            self.differences += 1;
            println!("state {}: {what} differs", self.states);
        }
    }

    pub(crate) fn tell(&self, of_what: &str) {
        let Self { states, differences, draws: [draws, whole], .. } = self;
        println!(
            "{states} states {of_what}, {differences} differences; {draws} draws, {whole} of them from all scores"
        );
    }

    /// Some texts, each token drawn from the best 40, with all their states.
    pub(crate) async fn texts(&mut self, engine: &dyn BlockEngine) -> Outcome<()> {
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
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(hidden.to_f32())
            });
            let states = try_join_all(steps).await?;
            let best = self.compare(&states).await?;
            self.own.extend(states.into_iter().step_by(KEPT));
            for ((_, token), best) in texts.iter_mut().zip(best) {
                *token = draw(best, self.noise.next());
            }
        }
        Ok(())
    }

    /// Milliseconds for one token of each of `states`, each way, medians of turns.
    pub(crate) async fn time(&self, whose: &str, states: &[Vec<f32>]) -> Outcome<()> {
        for (way, sampling) in ways() {
            let (mut exact, mut times) = (Vec::new(), vec![(Vec::new(), 0); self.screened.len()]);
            for (seed, state) in (0u64..).zip(states) {
                let (wanted, _, time) = choose(&*self.plain, state, &sampling, seed).await?;
                exact.push(time);
                for ((screen, screened), (times, wholes)) in self.screened.iter().zip(&mut times) {
                    let (token, whole, time) = choose(&**screened, state, &sampling, seed).await?;
                    if token != wanted {
                        return Err(format!("{screen} {way}: the tokens of {whose} state {seed} differ").into());
                    }
                    times.push(time);
                    *wholes += usize::from(whole);
                }
            }
            for ((screen, _), (mut times, wholes)) in self.screened.iter().zip(times) {
                let mut ratios: Vec<f64> = exact.iter().zip(&times).map(|(exact, time)| exact / time).collect();
                let (exact, time, ratio) = (median(&mut exact.clone()), median(&mut times), median(&mut ratios));
                println!(
                    "{whose} states, {way}: exact {exact:.3} ms, {screen} {time:.3} ms, {ratio:.2} times as fast \
                     (medians of {}, {wholes} from all scores)",
                    states.len()
                );
            }
        }
        Ok(())
    }
}

pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
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
