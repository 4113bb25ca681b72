//! The front door of the domain: sessions are opened and closed here, and replies asked for.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Ambient, Catalogue, Limits, Meter, ModelState, Readiness, Reply, ReplyError, ReplyRequest,
    continuation::{Continuation, Undo},
    core::{Core, Speaker, missing_blocks},
    gate::Gate,
    prefix::Prefixes,
    reply::Party,
    table::{Live, Seat, Table},
};
use crate::{
    generation::{Sampling, StopRule, Turn, TurnModel},
    model::{Grammar, ModelId, TokenId},
    ports::{Constraint, Event, FaultKind, Observer, PortError, SessionRecord, SessionStore, Timestamp, Unobserved},
};

/// Expired sessions looked for at a time.
const SWEEP: usize = 256;

/// Opens, continues, closes and forgets conversations.
pub struct SessionService {
    pub(super) core: Arc<Core>,
}

impl SessionService {
    /// A service over `catalogue`, its sessions kept in `store`.
    #[must_use]
    pub fn new(catalogue: Catalogue, store: Arc<dyn SessionStore>, limits: Limits, ambient: Ambient) -> Self {
        Self::observed(catalogue, store, limits, ambient, Arc::new(Unobserved))
    }

    /// The same with somebody who hears what happens.
    #[must_use]
    pub fn observed(
        catalogue: Catalogue,
        store: Arc<dyn SessionStore>,
        limits: Limits,
        ambient: Ambient,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let meter = Arc::<Meter>::default();
        let gate = Gate::new(limits.concurrent, limits.queue, meter.clone());
        let table = Table::new(meter.clone());
        let prefixes = Prefixes::new(limits.prefixes, meter.clone());
        Self { core: Arc::new(Core { catalogue, store, limits, ambient, meter, table, prefixes, gate, observer }) }
    }

    /// The models offered.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.core.catalogue
    }

    /// The bounds in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// Counters.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.core.meter
    }

    /// Opens a session for `max_length` positions and returns its name. Nothing is computed or set aside yet.
    ///
    /// # Errors
    /// An unknown model, a length that is not allowed, too many sessions, a store that fails.
    pub async fn open(&self, model: Option<ModelId>, max_length: Option<usize>) -> Result<Uuid, ReplyError> {
        let core = &self.core;
        let speaker = core.speaker(model.as_ref().unwrap_or(core.catalogue.default_id()))?;
        let limit = core.longest(&speaker.spec);
        let max_length = max_length.unwrap_or(core.limits.default_length.min(limit));
        if max_length == 0 {
            return Err(PortError::invalid("max_length must be at least 1, got 0").into());
        }
        if max_length > limit {
            return Err(ReplyError::LengthNotAllowed { asked: max_length, limit, model: speaker.spec.id.clone() });
        }
        let now = (core.ambient.now)();
        let record = SessionRecord {
            id: core.new_id(),
            model: speaker.spec.id.clone(),
            max_length,
            tokens: Vec::new(),
            expires: now.after(core.limits.idle),
            version: 0,
        };
        let id = record.id;
        self.sweep().await;
        match core.store.create(record, now, core.limits.max_sessions).await {
            Ok(()) => Ok(id),
            Err(fault) if fault.kind() == FaultKind::Capacity => {
                Err(ReplyError::TooManySessions { max: core.limits.max_sessions })
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Closes a session; whether there was one. A reply that is being written in it is not interrupted.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn close(&self, id: Uuid) -> Result<bool, ReplyError> {
        self.core.table.remove(id);
        Ok(self.core.store.delete(id).await?)
    }

    /// Begins a reply: waits for its session and its turn, and checks all that can be checked before computing.
    ///
    /// # Errors
    /// See [`ReplyError`].
    pub async fn reply(&self, request: ReplyRequest) -> Result<Reply, ReplyError> {
        request.sampling.check()?;
        let (core, asked) = (&self.core, Instant::now());
        let admission = core.gate.admit()?;
        let (mut seat, speaker) = match request.session {
            Some(id) => core.sit(id, request.model.as_ref()).await?,
            None => core.stand(request.model.as_ref())?,
        };
        speaker.check_biases(&request.sampling)?;
        let mut prompt = Continuation::of(&speaker, &seat, &request.prompt).await?;
        let ending = ending(&speaker, &request.stop).await?;
        let constraint = match &request.grammar {
            Some(grammar) => Some(constraint(&speaker, grammar).await?),
            None => None,
        };
        let new_tokens = core.new_tokens(&speaker.spec, &seat, &prompt, request.length)?;
        let pass = admission.turn().await?;
        core.observer.observe(&Event::Started { model: &speaker.spec.id, waited: asked.elapsed() });
        let needed = prompt.total() + new_tokens;
        if let Seat::Own(conversation) = &mut seat {
            // Now that it is known what this reply can need.
            let anew = request.sampling.seed.is_some();
            (**conversation, prompt) = core.own(&speaker, request.owner.as_ref(), prompt, (needed, anew)).await;
        }
        let undo = Undo::of(&seat, &prompt);
        let cached = prompt.apply(&mut seat).await?;
        let model = TurnModel { tokenizer: speaker.entry.tokenizer.clone(), local: speaker.entry.local.clone() };
        let sampling = (request.sampling, (core.ambient.random)());
        let turn = Turn::new(model, seat, sampling, request.stop, new_tokens, core.limits.prefill_chunk)?
            .ending_with(ending)
            .within(constraint);
        let party = Party { model: speaker.spec.id.clone(), owner: request.owner };
        Ok(Reply::new(core.clone(), party, turn, (cached, undo, needed), (asked, pass)))
    }

    /// Whether a reply could be drawn so, for callers that may want none: [`SessionService::reply`] refuses the same.
    ///
    /// # Errors
    /// An unknown model, a number out of its range, a token that the model does not know.
    pub fn check_sampling(&self, model: Option<&ModelId>, sampling: &Sampling) -> Result<(), ReplyError> {
        sampling.check()?;
        let speaker = self.core.speaker(model.unwrap_or(self.core.catalogue.default_id()))?;
        Ok(speaker.check_biases(sampling)?)
    }

    /// The text of tokens, special ones included.
    ///
    /// # Errors
    /// An unknown model, a token that it does not know.
    pub fn text_of(&self, model: Option<&ModelId>, tokens: &[TokenId]) -> Result<String, ReplyError> {
        let speaker = self.core.speaker(model.unwrap_or(self.core.catalogue.default_id()))?;
        speaker.check_tokens("the prompt", tokens)?;
        Ok(speaker.entry.tokenizer.decode(tokens, false)?)
    }

    /// For every model, whether it can answer now.
    pub async fn readiness(&self) -> Vec<Readiness> {
        let mut all = Vec::new();
        for (id, state) in self.core.catalogue.states() {
            let (missing, missing_blocks) = match state {
                ModelState::Loading => (Some("it is still being loaded".to_owned()), Vec::new()),
                // The reason may name files of this machine, which are nobody else's business.
                ModelState::Failed(_) => {
                    (Some("it could not be loaded; the server's log says why".to_owned()), Vec::new())
                }
                ModelState::Loaded(entry) => missing_blocks(&entry).await,
            };
            all.push(Readiness { model: id.clone(), missing, missing_blocks });
        }
        all
    }

    /// Forgets expired sessions and stores what has not been stored. To be called every few seconds.
    pub async fn sweep(&self) {
        let core = &self.core;
        core.prefixes.expire(core.limits.idle, (core.ambient.now)());
        for (id, entry) in core.table.rows() {
            let Ok(mut live) = entry.live.clone().try_lock_owned() else { continue };
            let Some(live) = live.as_mut().filter(|live| live.dirty) else { continue };
            live.record.expires = Timestamp(entry.last_used.load(Relaxed)).after(core.limits.idle);
            if let Err(fault) = Self::write(core, live).await {
                tracing::warn!(session = %id, error = %fault, "a session could not be stored");
            }
        }
        match core.store.expired((core.ambient.now)(), SWEEP).await {
            Ok(ids) => {
                for id in ids {
                    core.forget_expired(id).await;
                }
            }
            Err(fault) => tracing::warn!(error = %fault, "expired sessions could not be listed"),
        }
    }

    /// Stores a session whose reply has just ended; its time to live counts from now.
    pub(super) async fn save(core: &Core, live: &mut Live) -> Result<(), ReplyError> {
        live.record.expires = (core.ambient.now)().after(core.limits.idle);
        match Self::write(core, live).await {
            Ok(()) => Ok(()),
            // Closed while its reply was being written, or continued by another replica: this copy has no future.
            Err(fault) if matches!(fault.kind(), FaultKind::NotFound | FaultKind::Conflict) => {
                tracing::debug!(session = %live.record.id, error = %fault, "a session ended under its reply");
                core.table.remove(live.record.id);
                live.dirty = false;
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    async fn write(core: &Core, live: &mut Live) -> Result<(), PortError> {
        let record = SessionRecord { tokens: live.conversation.tokens.clone(), ..live.record.clone() };
        live.record.version = core.store.save(record).await?;
        live.dirty = false;
        Ok(())
    }
}

/// A grammar over the model's vocabulary.
async fn constraint(speaker: &Speaker, grammar: &Grammar) -> Result<Box<dyn Constraint>, PortError> {
    let Speaker { entry, spec, .. } = speaker;
    let unending = || PortError::invalid(format!("model {} has no end-of-text token, which a grammar needs", spec.id));
    let end = spec.eos.first().copied().ok_or_else(unending)?;
    entry.tokenizer.constrain(grammar, spec.vocab, end).await
}

/// The token of the stop sequence, where other texts end a reply as if it had ended it.
async fn ending(speaker: &Speaker, rule: &StopRule) -> Result<Option<TokenId>, PortError> {
    if rule.endings.is_none() {
        return Ok(None);
    }
    let [stop] = rule.sequences.as_slice() else { return Err(PortError::invalid(ONE_TOKEN)) };
    match speaker.entry.tokenizer.encode(stop, false).await?.as_slice() {
        [token] => Ok(Some(*token)),
        _ => Err(PortError::invalid(ONE_TOKEN)),
    }
}

const ONE_TOKEN: &str = "extra_stop_sequences require stop_sequence length to be exactly 1 token";

#[cfg(test)]
mod tests;
