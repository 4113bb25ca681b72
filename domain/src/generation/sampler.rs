//! Chooses the next token from the logits. Same seed, same request, same tokens.

use std::{collections::HashMap, sync::Arc};

use super::{Sampling, rule};
use crate::{
    model::{Draw, LogitRow, Noise, Penalties, TokenId, Want},
    ports::PortError,
};

/// Chooses the tokens of one reply.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    /// Noise of the next draw.
    noise: Noise,
    /// Shared with what is wanted, which is gone again when a token is picked.
    penalties: Arc<Penalties>,
}

impl Sampler {
    /// Continues after `prompt`; `seed` is used where the request brings none.
    #[must_use]
    pub fn new(sampling: Sampling, prompt: &[TokenId], seed: u64) -> Self {
        let noise = Noise { seed: sampling.seed.unwrap_or(seed), draw: 0 };
        let penalties = Penalties {
            seen: if penalises(&sampling) { prompt.iter().map(|token| (*token, 0)).collect() } else { HashMap::new() },
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            bias: sampling.bias.iter().copied().collect(),
        };
        Self { sampling, noise, penalties: Arc::new(penalties) }
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
                let also = self.penalties.named();
                Want::Top { k: k.saturating_add(also.len()), also }
            }
            None => Want::Drawn(self.next_draw()),
        }
    }

    /// Chooses, and remembers the choice for the penalties.
    ///
    /// # Errors
    /// `Internal` where the scores are not numbers; `InvalidInput` where there is none.
    pub fn pick(&mut self, mut row: LogitRow) -> Result<TokenId, PortError> {
        self.penalise(&mut row);
        let scores = row.into_pairs();
        if scores.iter().any(|(_, score)| score.is_nan() || *score == f32::INFINITY) {
            return Err(PortError::internal("the model's logits are not finite numbers"));
        }
        let token = if self.sampling.temperature == 0.0 { rule::best(&scores) } else { self.draw(scores) };
        let token = token.ok_or_else(|| PortError::invalid("no logits to choose from"))?;
        self.noise.draw += 1;
        if penalises(&self.sampling) {
            *Arc::make_mut(&mut self.penalties).seen.entry(token).or_insert(0) += 1;
        }
        Ok(token)
    }

    fn penalise(&self, row: &mut LogitRow) {
        match row {
            LogitRow::Dense(scores) => {
                for token in self.penalties.named() {
                    if let Some(score) = scores.get_mut(token.0 as usize) {
                        *score = self.penalties.penalised(token, *score);
                    }
                }
            }
            LogitRow::Sparse(pairs) => {
                pairs.iter_mut().for_each(|(token, score)| *score = self.penalties.penalised(*token, *score));
            }
        }
    }

    /// Draws from the softmax of what the filters leave of scores that were penalised.
    fn draw(&self, mut scores: Vec<(TokenId, f32)>) -> Option<TokenId> {
        if let Some(k) = self.sampling.top_k {
            rule::keep_top_k(&mut scores, k);
        }
        rule::drawn(&self.next_draw(), scores)
    }

    fn next_draw(&self) -> Draw {
        let Sampling { temperature, min_p, top_p, .. } = self.sampling;
        Draw { temperature, min_p, top_p, penalties: self.penalties.clone(), noise: self.noise }
    }
}

fn penalises(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn the_same_seed_gives_the_same_tokens_and_another_one_others() {
        let scores: Vec<f32> = (0..50).map(|i| (i % 7) as f32 / 7.0).collect();
        let drawn = |seed: Option<u64>, given: u64| -> Vec<u32> {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::at_temperature(1.0) }, &[], given);
            (0..40).map(|_| sampler.pick(row(&scores)).unwrap().0).collect()
        };
        assert_eq!(drawn(Some(3), 1), drawn(Some(3), 2));
        assert_eq!(drawn(None, 3), drawn(Some(3), 2));
        assert_ne!(drawn(Some(3), 1), drawn(Some(4), 1));
    }

    #[test]
    fn the_one_row_that_was_drawn_is_taken() {
        let sampling =
            Sampling { top_p: Some(0.5), min_p: Some(0.1), presence_penalty: 9.0, ..Sampling::at_temperature(1.0) };
        let mut sampler = Sampler::new(sampling, &[TokenId(7)], 0);
        let Want::Drawn(draw) = sampler.want() else { panic!("a draw") };
        assert_eq!((draw.noise.draw, draw.penalties.seen.len()), (0, 1));
        assert_eq!(sampler.pick(LogitRow::Sparse(vec![(TokenId(9), -3.0)])).unwrap(), TokenId(9));
        let Want::Drawn(draw) = sampler.want() else { panic!("a draw") };
        assert_eq!((draw.noise.draw, draw.penalties.seen.len()), (1, 2));
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
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
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
                    Want::All | Want::Drawn(_) => row(&scores),
                    Want::Top { k, also } => {
                        let mut order: Vec<usize> = (0..scores.len()).collect();
                        // Of equals, those of lower number come first.
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
    }
}
