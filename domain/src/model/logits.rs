//! Scores over the vocabulary, and how much of them a caller needs.

use super::{Draw, TokenId};

/// How much of the vocabulary a caller needs, so that a screened LM head need not touch every row.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// Every row.
    All,
    /// The `k` highest rows, and those of `also` whatever their height.
    Top {
        /// How many of the highest rows, at least 1; of equals, those of lower number.
        k: usize,
        /// Rows wanted in any case.
        also: Vec<TokenId>,
    },
    /// The row that is drawn: of all rows, the one that the draw takes.
    Drawn(Draw),
}

/// Scores of one position. Always f32, and exact for the rows it carries.
#[derive(Debug, Clone, PartialEq)]
pub enum LogitRow {
    /// One score for each token of the vocabulary.
    Dense(Vec<f32>),
    /// Scores of some tokens, each token once, in no particular order.
    Sparse(Vec<(TokenId, f32)>),
}

impl LogitRow {
    /// Token and score of every row carried.
    #[must_use]
    pub fn into_pairs(self) -> Vec<(TokenId, f32)> {
        match self {
            Self::Dense(scores) => (0u32..).map(TokenId).zip(scores).collect(),
            Self::Sparse(pairs) => pairs,
        }
    }
}

/// Scores for a batch of positions: one row for each `[batch, seq]` position asked for, in that order.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// One row a position.
    pub rows: Vec<LogitRow>,
}
