//! The loop: one token per [`Turn::next`].

use std::{ops::DerefMut, sync::Arc};

use super::{Chunk, Detokenizer, FinishReason, Likelihood, Sampler, Sampling, StopMatcher, StopRule};
use crate::{
    model::{Hidden, LogitRow, TokenId, Want},
    ports::{BlockSession, Constraint, LocalModel, PortError, StepInput, Tokenizer},
};

/// The parts of a model that a turn talks to.
#[derive(Clone)]
pub struct TurnModel {
    /// Text to tokens and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Embeddings and LM head.
    pub local: Arc<dyn LocalModel>,
}

/// What was said so far, and the blocks' memory of it.
pub struct Conversation {
    /// Prompt and replies. The blocks know the first [`BlockSession::position`] of them.
    pub tokens: Vec<TokenId>,
    /// Of the last reply's tokens, how many have not been shown because their character is incomplete.
    pub unread: usize,
    /// Positions that `blocks` may reach.
    pub max_length: usize,
    /// KV cache over all blocks of the model.
    pub blocks: Box<dyn BlockSession>,
}

/// One reply being written. Nothing is computed between calls of [`Turn::next`]; dropping the turn ends it, and the
/// conversation keeps every token that was produced.
pub struct Turn<C> {
    model: TurnModel,
    conversation: C,
    sampler: Sampler,
    text: Detokenizer,
    stops: StopMatcher,
    rule: StopRule,
    sampling: Sampling,
    /// How the conversation was before the first reply: tokens, and how many of them were not shown.
    before: (usize, usize),
    new_tokens: usize,
    /// What left the last block for the last position of the prompt, for other replies to it.
    first: Option<Hidden>,
    /// What the text must stay within.
    constraint: Option<Box<dyn Constraint>>,
    /// How many alternatives to tell with each token.
    alternatives: Option<usize>,
    /// Takes the place of the last token where one of the rule's endings was found.
    ending: Option<TokenId>,
    /// Tokens that may still be produced.
    left: usize,
    prefill_chunk: usize,
    computed: usize,
    finished: bool,
    /// Text before the first new token, due with the first chunk (the BOS token of an empty conversation).
    begun: bool,
}

impl<C: DerefMut<Target = Conversation> + Send> Turn<C> {
    /// Continues `conversation`, which has at least one token, by up to `new_tokens` tokens. `seed` is used where
    /// `sampling` brings none.
    ///
    /// # Errors
    /// `InvalidInput` where there is no token to continue, or a sampling parameter is out of range.
    pub fn new(
        model: TurnModel,
        conversation: C,
        (sampling, seed): (Sampling, u64),
        rule: StopRule,
        new_tokens: usize,
        prefill_chunk: usize,
    ) -> Result<Self, PortError> {
        sampling.check()?;
        if conversation.tokens.is_empty() {
            return Err(PortError::invalid("there is no token to continue"));
        }
        Ok(Self {
            before: (conversation.tokens.len(), conversation.unread),
            new_tokens: new_tokens.max(1),
            first: None,
            alternatives: sampling.alternatives,
            sampling: sampling.clone(),
            sampler: Sampler::new(sampling, &conversation.tokens, seed),
            text: Detokenizer::new(&conversation.tokens, conversation.unread, rule.skip_special),
            stops: StopMatcher::new(rule.all(), rule.include),
            rule,
            ending: None,
            constraint: None,
            model,
            conversation,
            left: new_tokens.max(1),
            prefill_chunk: prefill_chunk.max(1),
            computed: 0,
            finished: false,
            begun: false,
        })
    }

    /// With the token that takes the place of the last one where one of the rule's endings is found.
    #[must_use]
    pub fn ending_with(self, ending: Option<TokenId>) -> Self {
        Self { ending, ..self }
    }

    /// With a grammar that the text must stay within.
    #[must_use]
    pub fn within(self, constraint: Option<Box<dyn Constraint>>) -> Self {
        Self { constraint, ..self }
    }

    /// Begins another reply to the same prompt, which the blocks do not compute again. Its seed is the
    /// request's and `nth`, or where that has none, `seed`. The reply before is forgotten.
    pub fn again(&mut self, nth: u64, seed: u64) {
        let (tokens, unread) = self.before;
        let conversation = &mut *self.conversation;
        conversation.tokens.truncate(tokens);
        conversation.unread = unread;
        let sampling = Sampling { seed: self.sampling.seed.map(|own| own.wrapping_add(nth)), ..self.sampling.clone() };
        self.sampler = Sampler::new(sampling, &conversation.tokens, seed);
        self.text = Detokenizer::new(&conversation.tokens, unread, self.rule.skip_special);
        self.stops = StopMatcher::new(self.rule.all(), self.rule.include);
        self.constraint = self.constraint.take().map(|constraint| constraint.anew());
        self.left = self.new_tokens;
        (self.finished, self.begun) = (false, false);
    }

    /// Computes one token: a forward pass over everything the blocks have not seen, the logits of the last position, a
    /// choice. `None` once a chunk with a finish reason has been returned. After an error, and after dropping the
    /// future, it may be called again and goes on where it was.
    ///
    /// # Errors
    /// Those of the ports.
    pub async fn next(&mut self) -> Result<Option<Chunk>, PortError> {
        if self.finished {
            return Ok(None);
        }
        let start = self.start();
        let (needed, max_length) = (self.conversation.tokens.len() - start, self.conversation.max_length);
        if start + needed > max_length {
            let reason = FinishReason::SessionFull { position: start, needed, max_length };
            return self.chunk(None, None, Some(reason)).map(Some);
        }
        let row = self.scores(start).await?;
        let whole = self.alternatives.map(|count| (row.clone(), count));
        let row = keep_allowed(self.constraint.as_deref(), row).await?;
        let token = self.sampler.pick(row)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.take(token)?;
        }
        let tokenizer = &*self.model.tokenizer;
        let likelihood = whole
            .map(|(row, count)| Likelihood::of(row, token, count, tokenizer, &self.conversation.tokens))
            .transpose()?;
        self.conversation.tokens.push(token);
        self.conversation.unread += 1;
        self.left -= 1;
        let ended = !self.rule.ignore_eos && self.model.local.spec().eos.contains(&token);
        let reason = if ended {
            Some(FinishReason::EndOfText(token))
        } else if self.left == 0 {
            Some(FinishReason::Length)
        } else {
            None
        };
        self.chunk(Some(token), likelihood, reason).map(Some)
    }

    /// Positions run through the blocks so far.
    #[must_use]
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Who makes text of its tokens.
    #[must_use]
    pub fn tokenizer(&self) -> &dyn Tokenizer {
        &*self.model.tokenizer
    }

    /// The conversation being continued.
    #[must_use]
    pub fn conversation(&self) -> &C {
        &self.conversation
    }

    /// Gives the conversation back.
    pub fn conversation_mut(&mut self) -> &mut C {
        &mut self.conversation
    }

    /// Scores of the next token, for which the blocks run from `start` on where they have not yet.
    async fn scores(&mut self, start: usize) -> Result<LogitRow, PortError> {
        let at_prompt = self.conversation.tokens.len() == self.before.0;
        let hidden = match self.first.clone().filter(|_| at_prompt) {
            Some(hidden) => hidden,
            None => self.feed(start).await?.last()?.apart(),
        };
        if at_prompt {
            self.first = Some(hidden.clone());
        }
        let want = if self.constraint.is_some() { Want::All } else { self.sampler.want() };
        let logits = self.model.local.logits(hidden, want).await?;
        let row = logits.rows.into_iter().next_back();
        row.ok_or_else(|| PortError::internal("the LM head returned no logits"))
    }

    /// First position to run: the blocks' own, or one earlier where they know every token already (a reply was cut
    /// between the blocks and the choice), since the last position's output is needed again.
    fn start(&self) -> usize {
        self.conversation.blocks.position().min(self.conversation.tokens.len() - 1)
    }

    /// Runs the tokens from `start` on through embeddings and blocks, a chunk at a time.
    async fn feed(&mut self, start: usize) -> Result<Hidden, PortError> {
        let Conversation { tokens, blocks, .. } = &mut *self.conversation;
        if blocks.position() > start {
            blocks.rewind(start).await?;
        }
        let mut last = None;
        for chunk in tokens[start..].chunks(self.prefill_chunk) {
            let hidden = self.model.local.embed(vec![chunk.to_vec()]).await?;
            last = Some(blocks.step(StepInput::from(hidden)).await?);
            self.computed += chunk.len();
        }
        last.ok_or_else(|| PortError::internal("nothing was fed to the blocks"))
    }

    /// Makes the chunk that shows `token`, and decides what text may go out with it.
    fn chunk(
        &mut self,
        token: Option<TokenId>,
        likelihood: Option<Likelihood>,
        reason: Option<FinishReason>,
    ) -> Result<Chunk, PortError> {
        let tokenizer = &*self.model.tokenizer;
        let mut fresh = String::new();
        if !self.begun {
            self.begun = true;
            fresh += &self.text.advance(tokenizer)?;
        }
        if let Some(token) = token {
            fresh += &self.text.push(tokenizer, token)?;
        }
        if matches!(reason, Some(FinishReason::EndOfText(_))) {
            fresh += &self.text.finish(tokenizer)?;
        }
        let (text, finish) = match self.stops.push(&fresh) {
            Ok(text) if reason.is_some() => (text + &self.stops.finish(), reason),
            Ok(text) => (text, None),
            Err(found) => (found.text, Some(FinishReason::StopSequence(found.sequence))),
        };
        if let Some(FinishReason::StopSequence(found)) = &finish {
            self.conversation.unread = 0;
            self.end_with(found);
        } else {
            self.conversation.unread = self.text.unread();
        }
        self.finished = finish.is_some();
        let (tokens, likelihoods) = (token.into_iter().collect(), likelihood.into_iter().collect());
        Ok(Chunk { text, tokens, likelihoods, finish })
    }

    /// Makes the conversation end as the model would have ended it, where `found` is not the stop sequence itself. The
    /// blocks have not seen the last token yet.
    fn end_with(&mut self, found: &str) {
        let Some(token) = self.ending.filter(|_| !self.rule.sequences.iter().any(|stop| stop == found)) else { return };
        let conversation = &mut *self.conversation;
        let seen = conversation.blocks.position();
        if let Some(last) = conversation.tokens.get_mut(seen..).and_then(<[TokenId]>::last_mut) {
            *last = token;
        }
    }
}

/// The part of a row that the grammar allows.
async fn keep_allowed(constraint: Option<&dyn Constraint>, row: LogitRow) -> Result<LogitRow, PortError> {
    let Some(constraint) = constraint else { return Ok(row) };
    let allowed = constraint.allowed().await?;
    let pairs = row.into_pairs().into_iter().filter(|(token, _)| allowed.has(*token));
    Ok(LogitRow::Sparse(pairs.collect()))
}

#[cfg(test)]
mod tests;
