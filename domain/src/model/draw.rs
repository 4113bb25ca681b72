//! How a token is drawn from the scores, as values: whoever has the scores can draw as the sampler would.
//!
//! To draw from the softmax of scores `s / T`, independent Gumbel noise `G` is added to each of them and the highest sum
//! taken (the Gumbel-max trick: E. J. Gumbel 1954; Maddison, Tarlow and Minka, *A\* sampling*, 2014). The noise of a row is a
//! function of seed, draw and row, so any of them can be had without the others.

use std::{collections::HashMap, f64::consts::LN_2, sync::Arc};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::TokenId;

/// Words read on the way to a row that is not further than this; a jump makes as many anew.
const NEAR: u32 = 32;

/// One draw: what is left of the scores, and the noise that decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Draw {
    /// Divides the scores; above 0.
    pub temperature: f32,
    /// Keep tokens at least this fraction as probable as the best one.
    pub min_p: Option<f32>,
    /// Of those, keep the smallest set of the best ones, of equals those of lower number, whose probability reaches this.
    pub top_p: Option<f32>,
    /// What moves the scores of single tokens, before all else.
    pub penalties: Arc<Penalties>,
    /// Decides among those that are kept.
    pub noise: Noise,
}

impl Draw {
    /// What is highest for the token that is drawn: of equals, that of lower number is. It rises with the score.
    #[must_use]
    pub fn key(&self, score: f32, noise: f64) -> f64 {
        f64::from(score) / f64::from(self.temperature) + noise
    }

    /// Whether `min_p` keeps a score where `top` is the highest. It keeps what is higher, too.
    #[must_use]
    pub fn keeps(&self, score: f32, top: f32) -> bool {
        let below = |p: f32| f64::from(self.temperature) * f64::from(p).ln();
        self.min_p.is_none_or(|p| f64::from(score) - f64::from(top) >= below(p))
    }

    /// How probable a score is, beside 1 for the highest, `top`.
    #[must_use]
    pub fn weight(&self, score: f32, top: f32) -> f64 {
        ((f64::from(score) - f64::from(top)) / f64::from(self.temperature)).exp()
    }

    /// The share of probability that is kept, where it is not all of it.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        self.top_p.filter(|p| *p < 1.0).map(f64::from)
    }
}

/// What single tokens lose that were seen before, and what is added to some.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Tokens of prompt and reply, with how often the reply has them; empty where nothing is taken.
    pub seen: HashMap<TokenId, u32>,
    /// Divides positive and multiplies negative scores of tokens that were seen.
    pub repetition: f32,
    /// Subtracted once from the score of a token that the reply has.
    pub presence: f32,
    /// Subtracted for each time that it has it.
    pub frequency: f32,
    /// Added at last.
    pub bias: HashMap<TokenId, f32>,
}

impl Penalties {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self { seen: HashMap::new(), repetition: 1.0, presence: 0.0, frequency: 0.0, bias: HashMap::new() }
    }

    /// The tokens they may move, in order; all others keep their scores.
    #[must_use]
    pub fn named(&self) -> Vec<TokenId> {
        let mut named: Vec<TokenId> = self.seen.keys().chain(self.bias.keys()).copied().collect();
        named.sort_unstable();
        named.dedup();
        named
    }

    /// What becomes of a token's score. A finite one remains so.
    #[must_use]
    pub fn penalised(&self, token: TokenId, score: f32) -> f32 {
        let mut penalised = score;
        if let Some(count) = self.seen.get(&token) {
            penalised = if score > 0.0 { score / self.repetition } else { score * self.repetition };
            if *count > 0 {
                penalised -= self.presence + self.frequency * *count as f32;
            }
        }
        if let Some(bias) = self.bias.get(&token) {
            penalised += bias;
        }
        if score.is_finite() { penalised.clamp(f32::MIN, f32::MAX) } else { penalised }
    }
}

/// Where the noise of a draw comes from: the same for the same numbers, on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// What the request brought, or was given.
    pub seed: u64,
    /// How many draws came before.
    pub draw: u64,
}

impl Noise {
    /// Random words, one a row.
    #[must_use]
    pub fn words(self) -> Words {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.draw);
        Words { rng, next: 0 }
    }

    /// Gumbel noise made of a random word: `-ln e`, `e` being exponential. Small words make high noise.
    #[must_use]
    pub fn gumbel(word: u64) -> f64 {
        // In the middle between two of 2^52 steps: never 0 nor 1.
        let uniform = ((word >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        -(-(-uniform).ln_1p()).ln()
    }

    /// At least [`Noise::gumbel`] of a word, without a logarithm.
    #[must_use]
    pub fn at_most(word: u64) -> f64 {
        // `e` is above the uniform number, and that is at least 2 to the power of minus leading zeros minus 1.
        f64::from(word.leading_zeros() + 1) * LN_2 + 1e-9
    }
}

/// Random words of rows: ChaCha with 8 rounds, keyed with the seed, in the stream of the draw, at the place of the row.
#[derive(Debug)]
pub struct Words {
    rng: ChaCha8Rng,
    next: u32,
}

impl Words {
    /// The word of a row. Cheapest for rows in rising order.
    pub fn of(&mut self, row: u32) -> u64 {
        match row.checked_sub(self.next) {
            Some(ahead) if ahead <= NEAR => (0..ahead).for_each(|_| {
                self.rng.next_u64();
            }),
            _ => self.rng.set_word_pos(2 * u128::from(row)),
        }
        self.next = row.wrapping_add(1);
        self.rng.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_word_whoever_asks() {
        let noise = Noise { seed: 5, draw: 2 };
        let mut words = noise.words();
        let all: Vec<u64> = (0..1000).map(|row| words.of(row)).collect();
        for rows in [vec![999, 0, 500, 501, 530, 564, 7], vec![3, 3, 2], vec![64, 0]] {
            let mut words = noise.words();
            rows.into_iter().for_each(|row| assert_eq!(words.of(row), all[row as usize], "{row}"));
        }
        assert_eq!(noise.words().of(u32::MAX), noise.words().of(u32::MAX));
        for other in [Noise { seed: 6, ..noise }, Noise { draw: 3, ..noise }] {
            let mut words = other.words();
            assert!((0..1000).all(|row| words.of(row) != all[row as usize]));
        }
        let mut sorted = all;
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 1000);
    }

    #[test]
    fn noise_falls_with_the_word_and_is_below_its_bound() {
        let mut words = Noise { seed: 1, draw: 0 }.words();
        let mut all: Vec<u64> = (0..10_000).map(|row| words.of(row)).collect();
        all.extend((0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, u64::MAX << bit]));
        all.sort_unstable();
        assert!(all.iter().all(|word| Noise::gumbel(*word).is_finite()));
        assert!(all.iter().all(|word| Noise::gumbel(*word) <= Noise::at_most(*word)));
        assert!(all.windows(2).all(|pair| Noise::gumbel(pair[0]) >= Noise::gumbel(pair[1])));
        // The mean of Gumbel noise is Euler's constant, its variance pi^2 / 6.
        let mut words = Noise { seed: 2, draw: 0 }.words();
        let all: Vec<f64> = (0..100_000).map(|row| Noise::gumbel(words.of(row))).collect();
        let mean = all.iter().sum::<f64>() / 1e5;
        let variance = all.iter().map(|noise| (noise - mean).powi(2)).sum::<f64>() / 1e5;
        assert!((mean - 0.577_216).abs() < 0.02 && (variance - 1.644_934).abs() < 0.06, "{mean} {variance}");
    }
}
