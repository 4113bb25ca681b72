//! How probable tokens were, in the two shapes of OpenAI's API.

use std::collections::BTreeMap;

use corolla_domain::generation::{Likelihood, TokenScore};
use poem_openapi::Object;

/// How probable the tokens of a chat reply were.
#[derive(Debug, Default, Object)]
#[oai(rename = "ChatLogprobs")]
pub(crate) struct ChatLogprobs {
    /// One row a token.
    pub(crate) content: Vec<TokenLogprob>,
}

/// A token of the reply.
#[derive(Debug, Object)]
#[oai(rename = "ChatTokenLogprob")]
pub(crate) struct TokenLogprob {
    /// Its text.
    token: String,
    /// Natural logarithm of its probability, before temperature, penalties and biases.
    logprob: f64,
    /// Its text in UTF-8; null where the token is a part of a character.
    #[oai(nullable)]
    bytes: Option<Vec<u8>>,
    /// The most probable tokens in its place, best first.
    top_logprobs: Vec<TopLogprob>,
}

/// A token that was probable.
#[derive(Debug, Object)]
#[oai(rename = "ChatTopLogprob")]
pub(crate) struct TopLogprob {
    /// Its text.
    token: String,
    /// Natural logarithm of its probability.
    logprob: f64,
    /// Its text in UTF-8; null where the token is a part of a character.
    #[oai(nullable)]
    bytes: Option<Vec<u8>>,
}

impl From<Vec<Likelihood>> for ChatLogprobs {
    fn from(all: Vec<Likelihood>) -> Self {
        Self { content: all.into_iter().map(Into::into).collect() }
    }
}

impl From<Likelihood> for TokenLogprob {
    fn from(it: Likelihood) -> Self {
        let (bytes, top_logprobs) = (bytes(&it.chosen), it.best.into_iter().map(Into::into).collect());
        Self { token: it.chosen.text, logprob: finite(it.chosen.logprob), bytes, top_logprobs }
    }
}

impl From<TokenScore> for TopLogprob {
    fn from(it: TokenScore) -> Self {
        Self { bytes: bytes(&it), token: it.text, logprob: finite(it.logprob) }
    }
}

/// The bytes of a token, where they are known.
fn bytes(it: &TokenScore) -> Option<Vec<u8>> {
    (!it.text.contains('\u{fffd}')).then(|| it.text.as_bytes().to_vec())
}

/// JSON has no infinity: a token that cannot be gets the number that OpenAI's API says for "very improbable".
fn finite(logprob: f64) -> f64 {
    logprob.max(-9999.0)
}

/// How probable the tokens of a completion were: lists of equal length.
#[derive(Debug, Default, Clone, PartialEq, Object)]
#[oai(rename = "CompletionLogprobs")]
pub(crate) struct CompletionLogprobs {
    /// Texts of the tokens.
    pub(crate) tokens: Vec<String>,
    /// Natural logarithms of their probabilities; null for the first token of a text, which follows nothing.
    pub(crate) token_logprobs: Vec<Option<f64>>,
    /// The most probable tokens in each place, and the token that stands there.
    pub(crate) top_logprobs: Vec<Option<BTreeMap<String, f64>>>,
    /// Where in the text each token begins, in characters.
    pub(crate) text_offset: Vec<u64>,
}

impl CompletionLogprobs {
    /// Adds a token at `offset`; returns the offset after it.
    pub(crate) fn push(&mut self, text: String, logprob: Option<f64>, best: Vec<TokenScore>, offset: u64) -> u64 {
        let end = offset + text.chars().count() as u64;
        let top = logprob.map(|logprob| {
            let mut top = BTreeMap::from([(text.clone(), finite(logprob))]);
            for it in best {
                let row = top.entry(it.text).or_insert(f64::NEG_INFINITY);
                *row = row.max(finite(it.logprob));
            }
            top
        });
        self.tokens.push(text);
        self.token_logprobs.push(logprob.map(finite));
        self.top_logprobs.push(top);
        self.text_offset.push(offset);
        end
    }
}

#[cfg(test)]
mod tests {
    use corolla_domain::model::TokenId;

    use super::*;

    fn score(text: &str, logprob: f64) -> TokenScore {
        TokenScore { id: TokenId(0), text: text.to_owned(), logprob }
    }

    #[test]
    fn a_part_of_a_character_has_no_bytes_and_nothing_is_infinite() {
        let it = Likelihood {
            chosen: score("é", -0.5),
            best: vec![score("\u{fffd}", -0.1), score("x", f64::NEG_INFINITY)],
        };
        let row = TokenLogprob::from(it);
        assert_eq!(row.bytes, Some(vec![0xc3, 0xa9]));
        assert_eq!(row.top_logprobs[0].bytes, None);
        assert_eq!(row.top_logprobs[1].logprob, -9999.0);
    }

    #[test]
    fn offsets_count_characters() {
        let mut all = CompletionLogprobs::default();
        let at = all.push("é".to_owned(), None, Vec::new(), 0);
        let at = all.push("ab".to_owned(), Some(-1.0), vec![score("c", -0.2)], at);
        assert_eq!((at, all.text_offset), (3, vec![0, 1]));
        assert_eq!(all.top_logprobs[0], None);
        assert_eq!(all.top_logprobs[1], Some(BTreeMap::from([("ab".to_owned(), -1.0), ("c".to_owned(), -0.2)])));
    }
}
