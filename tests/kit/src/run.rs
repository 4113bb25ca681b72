//! A loaded model of any adapter, and running it in short.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use corolla_domain::{
    model::{Hidden, LogitRow, TokenId, Want},
    ports::{BlockEngine, BlockSession, LocalModel, SessionNeed, StepInput},
};

/// A model behind its ports.
#[derive(Clone)]
pub struct Loaded {
    /// Embeddings and LM head.
    pub local: Arc<dyn LocalModel>,
    /// Blocks.
    pub engine: Arc<dyn BlockEngine>,
}

/// A session of one row over all hosted blocks.
///
/// # Panics
/// Where it cannot be opened; so do all that follow where a port fails.
pub async fn session(model: &Loaded, max_length: usize) -> Box<dyn BlockSession> {
    model.engine.open(model.engine.hosted(), SessionNeed { max_length, batch: 1 }).await.unwrap()
}

/// Hidden states of one row of tokens.
///
/// # Panics
/// See [`session`].
pub async fn embed(model: &Loaded, ids: &[u32]) -> Hidden {
    model.local.embed(vec![ids.iter().copied().map(TokenId).collect()]).await.unwrap()
}

/// All scores after the last of `ids`.
///
/// # Panics
/// See [`session`].
pub async fn feed(model: &Loaded, session: &mut dyn BlockSession, ids: &[u32]) -> Vec<f32> {
    let hidden = session.step(StepInput::from(embed(model, ids).await)).await.unwrap();
    match model.local.logits(hidden.last().unwrap(), Want::All).await.unwrap().rows.remove(0) {
        LogitRow::Dense(scores) => scores,
        LogitRow::Sparse(_) => panic!("all scores were asked for"),
    }
}

/// Scores after the prompt, and the tokens that follow it by largest score.
///
/// # Panics
/// See [`session`].
pub async fn greedy(model: &Loaded, prompt: &[u32], count: usize) -> (Vec<f32>, Vec<u32>) {
    let mut session = session(model, prompt.len() + count).await;
    let first = feed(model, &mut *session, prompt).await;
    let mut ids = vec![best(&first)];
    while ids.len() < count {
        ids.push(best(&feed(model, &mut *session, &ids[ids.len() - 1..]).await));
    }
    (first, ids)
}

/// The token with the largest score.
///
/// # Panics
/// Where there are no scores.
#[must_use]
pub fn best(scores: &[f32]) -> u32 {
    (0u32..).zip(scores).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}
