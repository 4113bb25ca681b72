//! What a model is, as far as the domain needs to know.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::BlockRange;

/// One entry of a model's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name by which clients ask for a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub String);

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for ModelId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

/// Shape and special tokens of a model. Its numbers come from the model's own files.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The name by which clients ask for it.
    pub id: ModelId,
    /// Architecture, e.g. `llama` or `bloom`.
    pub family: String,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Rows of the LM head; valid token ids are below it.
    pub vocab: usize,
    /// Number of transformer blocks.
    pub blocks: usize,
    /// Positions the model was trained for; `None` where the position scheme sets no limit (ALiBi).
    pub max_positions: Option<usize>,
    /// Tokens that end a reply; the first one is the canonical one.
    pub eos: Vec<TokenId>,
    /// Token that starts a text when there is nothing else to feed.
    pub bos: Option<TokenId>,
    /// Weights as they are computed with, e.g. `f32`, `bf16`, `q4_1`.
    pub dtype: String,
}

impl ModelSpec {
    /// All blocks of the model.
    #[must_use]
    pub fn all_blocks(&self) -> BlockRange {
        BlockRange::first(self.blocks)
    }
}
