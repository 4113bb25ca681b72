//! Chooses the next token from the logits. Same seed, same request, same tokens.

use std::{cmp::Ordering, collections::HashMap};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::Sampling;
use crate::{
    model::{LogitRow, TokenId, Want},
    ports::PortError,
};

/// How much of the vocabulary is put in order at first when only the most probable tokens matter.
const HEAD: usize = 256;

/// Chooses the tokens of one reply.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// Tokens of prompt and reply, with how often the reply has them.
    seen: HashMap<TokenId, u32>,
    bias: HashMap<TokenId, f32>,
}

impl Sampler {
    /// Continues after `prompt`; `seed` is used where the request brings none.
    #[must_use]
    pub fn new(sampling: Sampling, prompt: &[TokenId], seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed.unwrap_or(seed));
        let seen = if penalises(&sampling) { prompt.iter().map(|t| (*t, 0)).collect() } else { HashMap::new() };
        let bias = sampling.bias.iter().copied().collect();
        Self { sampling, rng, seen, bias }
    }

    /// How much of the vocabulary [`Sampler::pick`] must see to choose as if it saw all.
    #[must_use]
    pub fn want(&self) -> Want {
        if self.sampling.alternatives.is_some() {
            return Want::All; // a probability is a share of the whole
        }
        let highest = if self.sampling.temperature == 0.0 { Some(1) } else { self.sampling.top_k };
        match highest {
            // Penalties and biases move the tokens they name only, so the best k of the others are among so many more.
            Some(k) => {
                let mut also: Vec<TokenId> = self.seen.keys().chain(self.bias.keys()).copied().collect();
                also.sort_unstable();
                also.dedup();
                Want::Top { k: k + also.len(), also }
            }
            None => Want::All,
        }
    }

    /// Chooses, and remembers the choice for the penalties.
    ///
    /// # Errors
    /// `Internal` where the scores are not numbers; `InvalidInput` where there is none.
    pub fn pick(&mut self, row: LogitRow) -> Result<TokenId, PortError> {
        let mut scores = row.into_pairs();
        if scores.iter().any(|(_, score)| score.is_nan() || *score == f32::INFINITY) {
            return Err(PortError::internal("the model's logits are not finite numbers"));
        }
        self.penalise(&mut scores);
        if !self.bias.is_empty() {
            scores.iter_mut().for_each(|(token, score)| *score += self.bias.get(token).unwrap_or(&0.0));
        }
        let token = if self.sampling.temperature == 0.0 { best(&scores) } else { self.draw(scores) };
        let token = token.ok_or_else(|| PortError::invalid("no logits to choose from"))?;
        if penalises(&self.sampling) {
            *self.seen.entry(token).or_insert(0) += 1;
        }
        Ok(token)
    }

    fn penalise(&self, scores: &mut [(TokenId, f32)]) {
        if self.seen.is_empty() {
            return;
        }
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        for (token, score) in scores {
            let Some(count) = self.seen.get(token) else { continue };
            *score = if *score > 0.0 { *score / repetition_penalty } else { *score * repetition_penalty };
            if *count > 0 {
                *score -= presence_penalty + frequency_penalty * *count as f32;
            }
        }
    }

    /// Draws from the softmax of what the filters leave.
    fn draw(&mut self, mut scores: Vec<(TokenId, f32)>) -> Option<TokenId> {
        let (_, top) = scores.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
        if top == f32::NEG_INFINITY {
            return None;
        }
        let temperature = f64::from(self.sampling.temperature);
        if let Some(k) = self.sampling.top_k {
            keep_top_k(&mut scores, k);
        }
        let mut weights: Vec<(TokenId, f64)> =
            scores.into_iter().map(|(t, s)| (t, ((f64::from(s) - f64::from(top)) / temperature).exp())).collect();
        if let Some(p) = self.sampling.min_p {
            weights.retain(|(_, w)| *w >= f64::from(p)); // the best one weighs 1
        }
        if let Some(p) = self.sampling.top_p
            && p < 1.0
        {
            weights = nucleus(weights, f64::from(p));
        } else {
            weights.sort_unstable_by_key(|(t, _)| *t); // the draw must not depend on the order of arrival
        }
        let total: f64 = weights.iter().map(|(_, w)| w).sum();
        let mut left = unit(&mut self.rng) * total;
        for (token, weight) in &weights {
            left -= weight;
            if left < 0.0 {
                return Some(*token);
            }
        }
        weights.iter().rev().find(|(_, w)| *w > 0.0).map(|(t, _)| *t) // rounding left a crumb
    }
}

fn penalises(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0
}

/// The highest score; the lowest id among equals.
fn best(scores: &[(TokenId, f32)]) -> Option<TokenId> {
    scores.iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map(|(t, _)| *t)
}

/// Keeps all scores that are at least the k-th highest.
fn keep_top_k(scores: &mut Vec<(TokenId, f32)>, k: usize) {
    if k < scores.len() {
        let (_, kth, _) = scores.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1));
        let kth = kth.1;
        scores.retain(|(_, s)| *s >= kth);
    }
}

/// The fewest of the heaviest tokens whose weight reaches the share `p` of all, heaviest first.
fn nucleus(mut weights: Vec<(TokenId, f64)>, p: f64) -> Vec<(TokenId, f64)> {
    let heavier = |a: &(TokenId, f64), b: &(TokenId, f64)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    // Summed in the order of the ids, so that the total does not depend on the order of arrival.
    weights.sort_unstable_by_key(|(t, _)| *t);
    let enough = p * weights.iter().map(|(_, w)| w).sum::<f64>();
    let mut sorted = 0;
    let mut reached = 0.0;
    let mut head = HEAD;
    while sorted < weights.len() {
        let end = head.min(weights.len());
        if end < weights.len() {
            weights[sorted..].select_nth_unstable_by(end - sorted - 1, heavier);
        }
        weights[sorted..end].sort_unstable_by(heavier);
        for (at, (_, weight)) in weights.iter().enumerate().take(end).skip(sorted) {
            reached += weight;
            if reached >= enough {
                weights.truncate(at + 1);
                return weights;
            }
        }
        sorted = end;
        head *= 4;
    }
    weights
}

/// A uniform number in `[0, 1)` with 53 random bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(scores: &[f32]) -> LogitRow {
        LogitRow::Dense(scores.to_vec())
    }

    fn frequencies(sampling: &Sampling, scores: &[f32], draws: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling.clone(), &[], 7);
        let mut counts = vec![0usize; scores.len()];
        for _ in 0..draws {
            counts[sampler.pick(row(scores)).unwrap().0 as usize] += 1;
        }
        counts.into_iter().map(|c| c as f64 / draws as f64).collect()
    }

    #[test]
    fn greedy_takes_the_highest_and_the_lowest_id_among_equals() {
        let mut sampler = Sampler::new(Sampling::greedy(), &[], 0);
        assert_eq!(sampler.pick(row(&[1.0, 3.0, 3.0, f32::NEG_INFINITY])).unwrap(), TokenId(1));
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let scores = [0.0f32, 1.0, 2.0, -1.0];
        let drawn = frequencies(&Sampling::at_temperature(0.5), &scores, 40_000);
        let weights: Vec<f64> = scores.iter().map(|s| (f64::from(*s) / 0.5).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (seen, weight) in drawn.iter().zip(weights) {
            // 5 standard deviations of a binomial share
            let p = weight / total;
            assert!((seen - p).abs() < 5.0 * (p * (1.0 - p) / 40_000.0).sqrt(), "{drawn:?}");
        }
    }

    #[test]
    fn the_filters_cut_where_they_should() {
        let scores: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
        let allowed = |sampling: Sampling| -> Vec<usize> {
            let drawn = frequencies(&sampling, &scores, 2_000);
            (0..4).filter(|i| drawn[*i] > 0.0).collect()
        };
        let base = Sampling::at_temperature(1.0);
        assert_eq!(allowed(base.clone()), [0, 1, 2, 3]);
        assert_eq!(allowed(Sampling { top_k: Some(2), ..base.clone() }), [0, 1]);
        assert_eq!(allowed(Sampling { top_p: Some(0.69), ..base.clone() }), [0, 1]);
        assert_eq!(allowed(Sampling { top_p: Some(0.71), ..base.clone() }), [0, 1, 2]);
        assert_eq!(allowed(Sampling { min_p: Some(0.45), ..base.clone() }), [0, 1, 2]);
        assert_eq!(allowed(Sampling { top_k: Some(1), top_p: Some(0.9), ..base }), [0]);
    }

    #[test]
    fn penalties_count_what_was_said() {
        let scores = [2.0f32, 1.9, -1.0];
        let repetition = Sampling { repetition_penalty: 1.2, ..Sampling::greedy() };
        let mut sampler = Sampler::new(repetition, &[TokenId(0)], 0);
        assert_eq!(sampler.pick(row(&scores)).unwrap(), TokenId(1), "the prompt counts for repetition");

        let presence = Sampling { presence_penalty: 0.5, ..Sampling::greedy() };
        let mut sampler = Sampler::new(presence, &[TokenId(0)], 0);
        assert_eq!(sampler.pick(row(&scores)).unwrap(), TokenId(0), "the prompt does not count for presence");
        assert_eq!(sampler.pick(row(&scores)).unwrap(), TokenId(1));

        let frequency = Sampling { frequency_penalty: 0.06, ..Sampling::greedy() };
        let mut sampler = Sampler::new(frequency, &[], 0);
        let said: Vec<u32> = (0..4).map(|_| sampler.pick(row(&scores)).unwrap().0).collect();
        assert_eq!(said, [0, 0, 1, 0]);
    }

    #[test]
    fn a_bias_moves_the_tokens_it_names() {
        let bias = vec![(TokenId(2), 5.0), (TokenId(0), -100.0)];
        let mut sampler = Sampler::new(Sampling { bias, ..Sampling::greedy() }, &[], 0);
        assert_eq!(sampler.want(), Want::Top { k: 3, also: vec![TokenId(0), TokenId(2)] });
        assert_eq!(sampler.pick(row(&[9.0, 1.0, -3.0])).unwrap(), TokenId(2));
        assert_eq!(sampler.pick(row(&[9.0, 4.0, -3.0])).unwrap(), TokenId(1));
    }

    #[test]
    fn scores_that_are_not_numbers_are_refused() {
        let mut sampler = Sampler::new(Sampling::greedy(), &[], 0);
        assert!(sampler.pick(row(&[1.0, f32::NAN])).is_err());
        assert!(sampler.pick(row(&[f32::INFINITY])).is_err());
        assert!(sampler.pick(row(&[])).is_err());
        let mut sampler = Sampler::new(Sampling::at_temperature(1.0), &[], 0);
        assert!(sampler.pick(row(&[f32::NEG_INFINITY; 3])).is_err());
    }

    proptest! {
        /// What `want` asks for is enough: the sparse row leads to the choices of the dense one.
        #[test]
        fn the_wanted_rows_are_enough(
            scores in prop::collection::vec(-8i8..8, 3..40),
            prompt in prop::collection::vec(0u32..40, 0..6),
            k in prop::option::of(1usize..6),
            greedy: bool,
            repetition in prop::sample::select(vec![1.0f32, 1.3, 0.7]),
            presence in prop::sample::select(vec![0.0f32, 1.5, -1.5]),
            bias in prop::collection::vec((0u32..40, -6i8..6), 0..4),
            seed: u64,
        ) {
            // Distinct scores: a tie with the k-th may be left out of a sparse row.
            let scores: Vec<f32> = scores.iter().enumerate().map(|(i, s)| f32::from(*s) + i as f32 / 64.0).collect();
            let prompt: Vec<TokenId> = prompt.into_iter().map(|t| TokenId(t % scores.len() as u32)).collect();
            let sampling = Sampling {
                temperature: if greedy { 0.0 } else { 0.8 },
                top_k: k,
                repetition_penalty: repetition,
                presence_penalty: presence,
                bias: bias.into_iter().map(|(t, b)| (TokenId(t % scores.len() as u32), f32::from(b) + 0.3)).collect(),
                ..Sampling::greedy()
            };
            let mut dense = Sampler::new(sampling.clone(), &prompt, seed);
            let mut sparse = Sampler::new(sampling, &prompt, seed);
            for _ in 0..8 {
                let answer = match sparse.want() {
                    Want::All => row(&scores),
                    Want::Top { k, also } => {
                        let mut order: Vec<usize> = (0..scores.len()).collect();
                        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                        let mut ids: Vec<u32> = order.into_iter().take(k).map(|i| i as u32).collect();
                        ids.extend(also.iter().map(|t| t.0));
                        ids.sort_unstable();
                        ids.dedup();
                        LogitRow::Sparse(ids.into_iter().map(|i| (TokenId(i), scores[i as usize])).collect())
                    }
                };
                prop_assert_eq!(dense.pick(row(&scores)).unwrap(), sparse.pick(answer).unwrap());
            }
        }

        #[test]
        fn the_nucleus_is_the_smallest_set_that_reaches_p(
            weights in prop::collection::vec(0.001f64..1.0, 1..1200),
            p in 0.01f64..0.99,
        ) {
            let pairs: Vec<(TokenId, f64)> = (0u32..).map(TokenId).zip(weights.iter().copied()).collect();
            let kept = nucleus(pairs, p);
            let enough = p * weights.iter().sum::<f64>();
            let mass: f64 = kept.iter().map(|(_, w)| w).sum();
            let least = kept.last().unwrap().1;
            prop_assert!(mass >= enough && mass - least < enough);
            prop_assert!(weights.iter().filter(|w| **w > least).count() < kept.len());
        }
    }
}
