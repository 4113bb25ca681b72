//! How probable the model found a token, and what it found more or less as probable.

use super::rule::{higher, keep_top_k};
use crate::{
    model::{LogitRow, TokenId},
    ports::{PortError, Tokenizer},
};

/// How many tokens before are decoded along, so that decoders that treat the first token specially do not.
const CONTEXT: usize = 4;

/// A token and how probable it was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub id: TokenId,
    /// Its text by itself, with U+FFFD for bytes that are no whole character.
    pub text: String,
    /// Natural logarithm of its probability, before any setting of the sampler.
    pub logprob: f64,
}

/// How probable a token was among all.
#[derive(Debug, Clone, PartialEq)]
pub struct Likelihood {
    /// The token.
    pub chosen: TokenScore,
    /// The most probable ones, best first; `chosen` may be among them.
    pub best: Vec<TokenScore>,
}

impl Likelihood {
    /// Of `token` in `row`, which carries every token, with the `count` best; all after the text `before`.
    ///
    /// # Errors
    /// `Internal` where the scores are not numbers or lack the token; those of [`Tokenizer::decode`].
    pub fn of(
        row: LogitRow,
        token: TokenId,
        count: usize,
        tokenizer: &dyn Tokenizer,
        before: &[TokenId],
    ) -> Result<Self, PortError> {
        let mut scores = row.into_pairs();
        let total = log_total(&scores)?;
        let own = scores.iter().find(|(id, _)| *id == token).map(|(_, score)| *score);
        let own = own.ok_or_else(|| PortError::internal(format!("the LM head has no score for token {token}")))?;
        let context = &before[before.len().saturating_sub(CONTEXT)..];
        let context = (context, &*tokenizer.decode(context, false)?);
        let told = |(id, score): (TokenId, f32)| {
            let text = text(tokenizer, context, id)?;
            Ok(TokenScore { id, text, logprob: f64::from(score) - total })
        };
        keep_top_k(&mut scores, count);
        scores.sort_unstable_by(higher);
        let best = scores.into_iter().map(told).collect::<Result<_, PortError>>()?;
        Ok(Self { chosen: told((token, own))?, best })
    }
}

/// Logarithm of the sum of the exponentials of all scores.
fn log_total(scores: &[(TokenId, f32)]) -> Result<f64, PortError> {
    let highest = scores.iter().map(|(_, s)| f64::from(*s)).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|(_, s)| (f64::from(*s) - highest).exp()).sum();
    if highest.is_finite() && !sum.is_nan() {
        Ok(highest + sum.ln())
    } else {
        Err(PortError::internal("the model's logits are not finite numbers"))
    }
}

/// What `token` adds to the text `before` of `context`.
fn text(tokenizer: &dyn Tokenizer, (context, before): (&[TokenId], &str), token: TokenId) -> Result<String, PortError> {
    let with: Vec<TokenId> = context.iter().copied().chain([token]).collect();
    let after = tokenizer.decode(&with, false)?;
    match after.strip_prefix(before) {
        Some(text) => Ok(text.to_owned()),
        // The context ends inside a character that the token goes on with.
        None => tokenizer.decode(&[token], false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn of(scores: &[f32], token: u32, count: usize) -> Result<Likelihood, PortError> {
        let row = LogitRow::Dense(scores.to_vec());
        Likelihood::of(row, TokenId(token), count, &testing::tokenizer(), &testing::tokens("ab"))
    }

    #[test]
    fn probabilities_are_of_the_softmax_and_the_best_come_first() {
        let mut scores = vec![f32::NEG_INFINITY; 128];
        for (letter, share) in [(b'x', 0.5f32), (b'y', 0.3), (b'z', 0.2)] {
            scores[letter as usize] = share.ln() + 7.0;
        }
        let found = of(&scores, u32::from(b'z'), 2).unwrap();
        assert_eq!((found.chosen.text.as_str(), found.best.len()), ("z", 2));
        assert!((found.chosen.logprob - 0.2f64.ln()).abs() < 1e-6);
        assert_eq!([&found.best[0].text, &found.best[1].text], ["x", "y"]);
        assert!((found.best[0].logprob - 0.5f64.ln()).abs() < 1e-6);
        assert!(of(&scores, u32::from(b'x'), 0).unwrap().best.is_empty());
    }

    #[test]
    fn scores_that_are_not_numbers_are_refused() {
        assert!(of(&[0.0, f32::NAN], 0, 1).is_err());
        assert!(of(&[0.0], 1, 1).is_err());
    }
}
