//! A reply being written, with its place at the door and in its session.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;

use super::{
    Owner, ReplyError, Usage, continuation::Undo, core::Core, gate::Pass, service::SessionService, table::Seat,
};
use crate::{
    generation::{Chunk, Conversation, Turn},
    model::{CallForm, ModelId, RouteReport},
    ports::{Event, FaultKind, SessionNeed},
    routing::InProcessSwarm,
};

/// A reply being written, one chunk a call. Dropping it stops the compute, frees its place, and leaves its session with
/// every token that was produced.
pub struct Reply {
    core: Arc<Core>,
    party: Party,
    turn: Turn<Seat>,
    usage: Usage,
    undo: Undo,
    /// Positions it may reach.
    needed: usize,
    /// Failovers of the session before this reply.
    failed_over: usize,
    asked: Instant,
    finished: bool,
    failed: bool,
    _pass: Pass,
}

/// Who speaks, and to whom.
pub(super) struct Party {
    pub(super) model: ModelId,
    pub(super) owner: Option<Owner>,
}

impl Reply {
    pub(super) fn new(
        core: Arc<Core>,
        party: Party,
        turn: Turn<Seat>,
        (cached, undo, needed): (usize, Undo, usize),
        (asked, pass): (Instant, Pass),
    ) -> Self {
        let usage =
            Usage { prompt_tokens: turn.conversation().tokens.len(), cached_tokens: cached, ..Usage::default() };
        core.meter.turns_started.fetch_add(1, Relaxed);
        core.meter.prompt_tokens_cached.fetch_add(cached as u64, Relaxed);
        let failed_over = turn.conversation().blocks.report().failed_over;
        let (finished, failed) = (false, false);
        Self { core, party, turn, usage, undo, needed, failed_over, asked, finished, failed, _pass: pass }
    }

    /// The next token's chunk; `None` after the one that carried a finish reason.
    ///
    /// # Errors
    /// What went wrong at a port. The session keeps what was produced; the call may be repeated.
    pub async fn next(&mut self) -> Result<Option<Chunk>, ReplyError> {
        if self.usage.new_tokens == 1 {
            self.share().await;
        }
        let since = if self.usage.new_tokens == 0 { self.asked } else { Instant::now() };
        let chunk = loop {
            let chunk = self.turn.next().await;
            self.count(since, chunk.as_ref().is_ok_and(|c| c.as_ref().is_some_and(|c| !c.tokens.is_empty())));
            match chunk {
                // The cache is full: what is idle gives up its part, and is replayed later where it is a session.
                Err(fault) if fault.kind() == FaultKind::Capacity && (self.shrink() || self.core.evict_idle()) => {}
                chunk => {
                    self.failed = chunk.is_err();
                    break chunk?;
                }
            }
        };
        let last = chunk.as_ref().is_some_and(|c| c.finish.is_some());
        self.finished |= last;
        if last && let Some(live) = self.turn.conversation_mut().live() {
            SessionService::save(&self.core, live).await?;
        }
        Ok(chunk)
    }

    /// Begins another reply to the same prompt, the `nth` after the first; the counts go on. In a session it takes the
    /// place of the one before.
    pub fn again(&mut self, nth: u64) {
        self.finished = false;
        self.turn.again(nth, (self.core.ambient.random)());
    }

    /// Counts so far; final once the last chunk is out.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Who took part so far, and what happened on the way during this reply. No hops where all blocks are in this
    /// process.
    #[must_use]
    pub fn route(&self) -> RouteReport {
        let mut report = self.turn.conversation().blocks.report();
        let here = InProcessSwarm::peer();
        if report.hops.iter().all(|hop| hop.hop.peer == here) {
            report.hops.clear();
        }
        report.failed_over -= self.failed_over.min(report.failed_over);
        let earlier = report.failovers.len().saturating_sub(report.failed_over);
        report.failovers.drain(..earlier);
        report
    }

    /// Who is speaking.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        &self.party.model
    }

    /// How calls of tools stand in its text.
    #[must_use]
    pub fn call_form(&self) -> CallForm {
        self.turn.tokenizer().call_form()
    }

    /// Asks for no more room than this reply needs; whether it had asked for more, and was given none.
    fn shrink(&mut self) -> bool {
        let needed = self.needed;
        let Seat::Own(conversation) = self.turn.conversation_mut() else { return false };
        if conversation.max_length <= needed || conversation.blocks.position() > 0 {
            return false;
        }
        let Ok(speaker) = self.core.speaker(&self.party.model) else { return false };
        let smaller = self.core.conversation(&speaker, needed);
        (conversation.max_length, conversation.blocks) = (needed, smaller.blocks);
        true
    }

    /// Leaves a copy of the prompt to requests that come while this reply is written, where that can be had.
    async fn share(&mut self) {
        let Seat::Own(conversation) = self.turn.conversation_mut() else { return };
        let position = conversation.blocks.position();
        if !self.core.prefixes.wants(position) {
            return;
        }
        let need = SessionNeed { max_length: position, batch: 1 };
        let Ok(blocks) = conversation.blocks.fork(position, need).await else { return };
        let tokens = conversation.tokens[..position.min(conversation.tokens.len())].to_vec();
        let copy = Conversation { tokens, unread: 0, max_length: position, blocks };
        self.core.prefixes.keep(&self.party.model, self.party.owner.clone(), copy, (self.core.ambient.now)());
    }

    /// Leaves a conversation of its own to later requests that begin as it does.
    fn keep(&mut self) {
        let Ok(speaker) = self.core.speaker(&self.party.model) else { return };
        let Seat::Own(conversation) = self.turn.conversation_mut() else { return };
        let left = std::mem::replace(&mut **conversation, self.core.conversation(&speaker, 1));
        self.core.prefixes.keep(&self.party.model, self.party.owner.take(), left, (self.core.ambient.now)());
    }

    fn count(&mut self, since: Instant, token: bool) {
        let computed = self.turn.computed() - self.usage.computed_tokens;
        self.usage.computed_tokens += computed;
        self.core.meter.tokens_computed.fetch_add(computed as u64, Relaxed);
        if token {
            let first = self.usage.new_tokens == 0;
            self.core.observer.observe(&Event::Token { model: &self.party.model, first, took: since.elapsed() });
            self.usage.new_tokens += 1;
            self.core.meter.tokens_generated.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let now = (self.core.ambient.now)();
        let (tokens, finished) = (self.usage.new_tokens, self.finished);
        self.core.observer.observe(&Event::Ended { model: &self.party.model, tokens, finished });
        if self.usage.new_tokens == 0 {
            self.undo.apply(self.turn.conversation_mut());
        }
        if let Seat::Shared(_, entry) = self.turn.conversation() {
            entry.last_used.store(now.0, Relaxed);
        }
        if !self.failed {
            self.keep();
        }
    }
}
