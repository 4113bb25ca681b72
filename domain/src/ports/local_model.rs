//! The part of a model that always runs here: embeddings below the blocks, norm and LM head above them.

use std::sync::Arc;

use async_trait::async_trait;

use super::PortError;
use crate::model::{Hidden, Logits, ModelSpec, TokenId, Want};

/// Embeddings and LM head of one model.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait LocalModel: Send + Sync {
    /// Shape and special tokens.
    fn spec(&self) -> Arc<ModelSpec>;

    /// Hidden states of shape `[batch, seq, hidden]` for rows of tokens of equal length, with everything that comes
    /// before block 0 (BLOOM's embedding layer norm). `InvalidInput` for no rows, empty or ragged rows, and a token
    /// outside the vocabulary.
    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError>;

    /// Scores for every position of `hidden` (what left the last block): final norm and LM head, one row a position in
    /// row-major order. Row i of a batch equals the lone call within the dtype's tolerance. Scores are f32 and exact
    /// for the rows carried; `Want::Top` may answer with more than was asked, up to everything. `Want::Drawn` is answered with
    /// the one row that is drawn, or with everything.
    async fn logits(&self, hidden: Hidden, want: Want) -> Result<Logits, PortError>;

    /// `hidden`, which left the last block, after the final norm: what the LM head reads, and what embeddings are made
    /// of. Same shape, f32.
    async fn normed(&self, hidden: Hidden) -> Result<Hidden, PortError>;
}
