//! How probable a model finds a text.

use super::{ReplyError, SessionService, core::Core, core::Speaker};
use crate::{
    generation::Detokenizer,
    model::{Hidden, LogitRow, ModelId, TokenId, Want},
    ports::{PortError, StepInput},
    routing::Forward,
};

/// Positions that go through the blocks at once without a cache; longer texts take a session of their own.
const MOST_FORWARD: usize = 1024;
/// Positions whose logits are held at a time.
const ROWS: usize = 16;

/// One token of a text, and how probable it was.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// The token.
    pub id: TokenId,
    /// Its text, as far as it ends with whole characters; the texts of all tokens join to the whole.
    pub text: String,
    /// Natural logarithm of its probability after the tokens before it; `None` for the first, which follows nothing.
    pub logprob: Option<f64>,
}

impl SessionService {
    /// Scores `text`, with what the model wants around a text (a BOS token), by one forward pass.
    ///
    /// # Errors
    /// An unknown model, an empty text, one that is longer than a session may be, a full server, a port that fails.
    pub async fn score(&self, model: Option<ModelId>, text: &str) -> Result<Vec<ScoredToken>, ReplyError> {
        let core = &self.core;
        let admission = core.gate.admit()?;
        let speaker = core.speaker(model.as_ref().unwrap_or(core.catalogue.default_id()))?;
        let tokens = speaker.entry.tokenizer.encode(text, true).await?;
        if tokens.is_empty() {
            return Err(ReplyError::EmptyInput);
        }
        let (asked, limit) = (tokens.len(), core.longest(&speaker.spec));
        if asked > limit {
            return Err(ReplyError::LengthNotAllowed { asked, limit, model: speaker.spec.id.clone() });
        }
        let _pass = admission.turn().await?;
        let mut logprobs = vec![None];
        for (start, hidden) in through(core, &speaker, &tokens).await? {
            logprobs.extend(following(&speaker, &hidden, &tokens[start + 1..]).await?);
        }
        let mut decoder = Detokenizer::new(&[], 0, false);
        let mut scored = Vec::with_capacity(tokens.len());
        for (id, logprob) in tokens.into_iter().zip(logprobs) {
            let text = decoder.push(&*speaker.entry.tokenizer, id)?;
            scored.push(ScoredToken { id, text, logprob });
        }
        if let Some(last) = scored.last_mut() {
            last.text += &decoder.finish(&*speaker.entry.tokenizer)?;
        }
        Ok(scored)
    }
}

/// What leaves the last block for every position, in pieces with their first positions.
async fn through(core: &Core, speaker: &Speaker, tokens: &[TokenId]) -> Result<Vec<(usize, Hidden)>, PortError> {
    let (entry, spec) = (&speaker.entry, &speaker.spec);
    if tokens.len() <= MOST_FORWARD {
        let (swarm, bans) = (entry.swarm.clone(), speaker.bans.clone());
        let forward = Forward::new(swarm, bans, spec.id.clone(), spec.all_blocks()).with_patience(core.limits.patience);
        let hidden = entry.local.embed(vec![tokens.to_vec()]).await?;
        return Ok(vec![(0, forward.run(&hidden).await?)]);
    }
    let mut blocks = core.conversation(speaker, tokens.len()).blocks;
    let mut pieces = Vec::new();
    for chunk in tokens.chunks(core.limits.prefill_chunk.max(1)) {
        let hidden = entry.local.embed(vec![chunk.to_vec()]).await?;
        let start = blocks.position();
        pieces.push((start, blocks.step(StepInput::from(hidden)).await?));
    }
    Ok(pieces)
}

/// Log-probabilities of `next`, each after the position of the same number.
async fn following(speaker: &Speaker, hidden: &Hidden, next: &[TokenId]) -> Result<Vec<Option<f64>>, PortError> {
    let count = next.len().min(hidden.seq());
    let mut logprobs = Vec::with_capacity(count);
    for start in (0..count).step_by(ROWS) {
        let end = count.min(start + ROWS);
        let logits = speaker.entry.local.logits(hidden.positions(start, end)?, Want::All).await?;
        if logits.rows.len() != end - start {
            return Err(PortError::internal("the LM head returned another number of rows than was asked for"));
        }
        for (row, token) in logits.rows.into_iter().zip(&next[start..end]) {
            logprobs.push(Some(logprob(row, *token)?));
        }
    }
    Ok(logprobs)
}

/// Logarithm of the softmax of one row at one token.
fn logprob(row: LogitRow, token: TokenId) -> Result<f64, PortError> {
    let scores = row.into_pairs();
    let highest = scores.iter().map(|(_, s)| f64::from(*s)).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|(_, s)| (f64::from(*s) - highest).exp()).sum();
    let own = scores.iter().find(|(t, _)| *t == token).map(|(_, s)| f64::from(*s));
    match own {
        Some(own) if highest.is_finite() && !sum.is_nan() => Ok(own - highest - sum.ln()),
        Some(_) => Err(PortError::internal("the model's logits are not finite numbers")),
        None => Err(PortError::internal(format!("the LM head has no score for token {token}"))),
    }
}

#[cfg(test)]
mod tests;
