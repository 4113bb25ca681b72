//! How probable a model finds a text.

use super::{Prompt, ReplyError, SessionService, core::Core, core::Speaker};
use crate::{
    generation::{Detokenizer, Likelihood, Sampling, TokenScore},
    model::{Hidden, ModelId, TokenId, Want},
    ports::{FaultKind, PortError, StepInput},
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
    /// The most probable tokens in its place, best first, as many as were asked for.
    pub best: Vec<TokenScore>,
}

impl SessionService {
    /// Scores `text`, with what the model wants around a text (a BOS token), by one forward pass.
    ///
    /// # Errors
    /// An unknown model, an empty text, one that is longer than a session may be, a full server, a port that fails.
    pub async fn score(&self, model: Option<ModelId>, text: &str) -> Result<Vec<ScoredToken>, ReplyError> {
        self.score_prompt(model, &Prompt::Text(text.to_owned()), 0).await
    }

    /// The same for any prompt, with so many of the tokens that were most probable in each place.
    ///
    /// # Errors
    /// As [`SessionService::score`]; too many alternatives.
    pub async fn score_prompt(
        &self,
        model: Option<ModelId>,
        prompt: &Prompt,
        alternatives: usize,
    ) -> Result<Vec<ScoredToken>, ReplyError> {
        Sampling { alternatives: Some(alternatives), ..Sampling::greedy() }.check()?;
        let core = &self.core;
        let admission = core.gate.admit()?;
        let speaker = core.speaker(model.as_ref().unwrap_or(core.catalogue.default_id()))?;
        let tokens = core.alone(&speaker, prompt).await?;
        let _pass = admission.turn().await?;
        let mut likelihoods = vec![None];
        for (start, hidden) in through(core, &speaker, &tokens).await? {
            likelihoods.extend(following(&speaker, &hidden, &tokens, start, alternatives).await?);
        }
        let mut decoder = Detokenizer::new(&[], 0, false);
        let mut scored = Vec::with_capacity(tokens.len());
        for (id, likelihood) in tokens.into_iter().zip(likelihoods) {
            let text = decoder.push(&*speaker.entry.tokenizer, id)?;
            let (logprob, best) = likelihood.map_or((None, Vec::new()), |it| (Some(it.chosen.logprob), it.best));
            scored.push(ScoredToken { id, text, logprob, best });
        }
        if let Some(last) = scored.last_mut() {
            last.text += &decoder.finish(&*speaker.entry.tokenizer)?;
        }
        Ok(scored)
    }
}

/// What leaves the last block for every position, in pieces with their first positions.
pub(super) async fn through(
    core: &Core,
    speaker: &Speaker,
    tokens: &[TokenId],
) -> Result<Vec<(usize, Hidden)>, PortError> {
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
        let output = loop {
            match blocks.step(StepInput::from(hidden.clone())).await {
                // What is kept in case it is of use gives way to what is.
                Err(fault) if fault.kind() == FaultKind::Capacity && core.prefixes.evict() => {}
                output => break output?,
            }
        };
        pieces.push((start, output));
    }
    Ok(pieces)
}

/// How probable each of `tokens` was after the positions of `hidden`, the first of which is `start`.
async fn following(
    speaker: &Speaker,
    hidden: &Hidden,
    tokens: &[TokenId],
    start: usize,
    alternatives: usize,
) -> Result<Vec<Option<Likelihood>>, PortError> {
    let tokenizer = &*speaker.entry.tokenizer;
    let count = (tokens.len() - start - 1).min(hidden.seq());
    let mut likelihoods = Vec::with_capacity(count);
    for first in (0..count).step_by(ROWS) {
        let last = count.min(first + ROWS);
        let logits = speaker.entry.local.logits(hidden.positions(first, last)?, Want::All).await?;
        if logits.rows.len() != last - first {
            return Err(PortError::internal("the LM head returned another number of rows than was asked for"));
        }
        for (row, at) in logits.rows.into_iter().zip(start + first + 1..) {
            let likelihood = Likelihood::of(row, tokens[at], alternatives, tokenizer, &tokens[..at])?;
            likelihoods.push(Some(likelihood));
        }
    }
    Ok(likelihoods)
}

#[cfg(test)]
mod tests;
