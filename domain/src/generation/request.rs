//! What a caller may ask of a generation, and what comes back piece by piece.

use super::Likelihood;
use crate::{model::TokenId, ports::PortError};

/// Tokens that a bias may name.
pub const MAX_BIASES: usize = 1024;
/// Alternatives that are told beside a chosen token.
pub const MAX_ALTERNATIVES: usize = 20;

/// How the next token is chosen from the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy (argmax, the lowest id among equals).
    pub temperature: f32,
    /// Keep the `k` highest scores, of equals those of lower id.
    pub top_k: Option<usize>,
    /// Keep the smallest set whose probability reaches `p` (nucleus sampling, Holtzman et al. 2020).
    pub top_p: Option<f32>,
    /// Keep tokens at least this fraction as probable as the best one.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative scores of tokens already seen (Keskar et al. 2019); 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the score of every token generated so far; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from a token's score for each time it was generated; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the scores of these tokens, after the penalties.
    pub bias: Vec<(TokenId, f32)>,
    /// Tell with each token how probable it was, and so many of the most probable ones.
    pub alternatives: Option<usize>,
    /// Same seed, same request, same tokens. `None` draws one.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The most probable token each time.
    #[must_use]
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Vec::new(),
            alternatives: None,
            seed: None,
        }
    }

    /// Draws from the softmax of the logits at `temperature`.
    #[must_use]
    pub fn at_temperature(temperature: f32) -> Self {
        Self { temperature, ..Self::greedy() }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter, its value and what it may be.
    pub fn check(&self) -> Result<(), PortError> {
        let rules = [
            ("temperature", Some(self.temperature), 0.0, 100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", Some(self.repetition_penalty), 0.01, 100.0),
            ("presence_penalty", Some(self.presence_penalty), -100.0, 100.0),
            ("frequency_penalty", Some(self.frequency_penalty), -100.0, 100.0),
        ];
        for (name, value, low, high) in rules {
            if let Some(value) = value
                && !(low..=high).contains(&value)
            {
                let low = if low == f32::MIN_POSITIVE { "above 0".to_owned() } else { format!("at least {low}") };
                return Err(PortError::invalid(format!("{name} must be {low} and at most {high}, got {value}")));
            }
        }
        if self.top_k == Some(0) {
            return Err(PortError::invalid("top_k must be at least 1, got 0"));
        }
        if self.bias.len() > MAX_BIASES {
            let count = self.bias.len();
            return Err(PortError::invalid(format!("logit_bias may name at most {MAX_BIASES} tokens, got {count}")));
        }
        if let Some((token, bias)) = self.bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
            let range = "at least -100 and at most 100";
            return Err(PortError::invalid(format!("logit_bias must be {range}, got {bias} for token {token}")));
        }
        if let Some(count) = self.alternatives.filter(|count| *count > MAX_ALTERNATIVES) {
            return Err(PortError::invalid(format!("at most {MAX_ALTERNATIVES} logprobs are told, got {count}")));
        }
        Ok(())
    }
}

/// When a reply ends before its length does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopRule {
    /// Texts that end the reply wherever they end, also inside a token or across tokens.
    pub sequences: Vec<String>,
    /// Further texts that end the reply, and as if the model had ended it with the stop sequence: that is what the
    /// session goes on from. `sequences` is then one text of exactly one token. `None` asks for nothing, an empty list for
    /// that check.
    pub endings: Option<Vec<String>>,
    /// Whether the stop text itself is part of the reply.
    pub include: bool,
    /// Go on after the model's end-of-text token.
    pub ignore_eos: bool,
    /// Leave special tokens (also the end-of-text token) out of the text.
    pub skip_special: bool,
}

impl StopRule {
    /// All texts that end the reply.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.sequences.iter().chain(self.endings.iter().flatten()).cloned().collect()
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said so, with this token.
    EndOfText(TokenId),
    /// One of the stop sequences, this one, appeared.
    StopSequence(String),
    /// As many tokens as were asked for.
    Length,
    /// The session has no position left for the next token. What was produced is kept.
    SessionFull {
        /// Positions filled.
        position: usize,
        /// Positions the next step would have needed.
        needed: usize,
        /// Positions the session has.
        max_length: usize,
    },
}

/// A piece of a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Text that is now certain: complete characters, no beginning of a stop sequence. May be empty.
    pub text: String,
    /// Tokens produced since the last chunk.
    pub tokens: Vec<TokenId>,
    /// How probable each of them was, where that was asked for.
    pub likelihoods: Vec<Likelihood>,
    /// Set on the last chunk and only there, so that a cut stream can be told from a finished one.
    pub finish: Option<FinishReason>,
}
