//! What the session service and its replies share: the catalogue, the store, the table of live sessions, the rules of
//! length and expiry.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use uuid::Uuid;

use super::{
    Ambient, Catalogue, Length, Limits, Meter, ModelEntry, Prompt, ReplyError,
    continuation::{Continuation, common_prefix},
    gate::Gate,
    prefix::{Owner, Prefixes},
    table::{Entry, Live, Seat, Table},
};
use crate::{
    generation::{Conversation, Sampling},
    model::{Chat, ModelId, ModelSpec, TokenId, blocks_in_words},
    ports::{FaultKind, Observer, PortError, SessionNeed, SessionRecord, SessionStore, Timestamp},
    routing::{Bans, Chain},
};

pub(super) struct Core {
    pub(super) catalogue: Catalogue,
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) limits: Limits,
    pub(super) ambient: Ambient,
    pub(super) meter: Arc<Meter>,
    pub(super) table: Table,
    pub(super) prefixes: Prefixes,
    pub(super) gate: Gate,
    pub(super) observer: Arc<dyn Observer>,
}

/// A model, ready to be asked.
pub(super) struct Speaker {
    pub(super) entry: ModelEntry,
    pub(super) spec: Arc<ModelSpec>,
    pub(super) bans: Arc<Bans>,
}

impl Speaker {
    /// Refuses tokens that the model does not know; `what` has them.
    pub(super) fn check_tokens(&self, what: &str, tokens: &[TokenId]) -> Result<(), PortError> {
        let (vocab, id) = (self.spec.vocab, &self.spec.id);
        match tokens.iter().find(|token| token.0 as usize >= vocab) {
            None => Ok(()),
            Some(token) => {
                let problem = format!("{what} has token {token}, but the tokens of {id} are below {vocab}");
                Err(PortError::invalid(problem))
            }
        }
    }

    /// Whether all tokens that a bias names are the model's.
    pub(super) fn check_biases(&self, sampling: &Sampling) -> Result<(), PortError> {
        let biased: Vec<TokenId> = sampling.bias.iter().map(|(token, _)| *token).collect();
        self.check_tokens("logit_bias", &biased)
    }

    /// The tokens of a chat whose reply begins with `begun`.
    pub(super) async fn chat(&self, chat: &Chat, begun: &str) -> Result<Vec<TokenId>, PortError> {
        let text = self.entry.tokenizer.chat_prompt(chat)? + begun;
        self.entry.tokenizer.encode(&text, false).await
    }
}

impl Core {
    pub(super) fn speaker(&self, id: &ModelId) -> Result<Speaker, ReplyError> {
        let (entry, bans) = self.catalogue.find(id)?;
        let spec = entry.local.spec();
        Ok(Speaker { entry, spec, bans })
    }

    /// Positions the longest session over a model may have.
    pub(super) fn longest(&self, spec: &ModelSpec) -> usize {
        self.limits.max_length.min(spec.max_positions.unwrap_or(usize::MAX))
    }

    /// A conversation without words. Contacts nobody.
    pub(super) fn conversation(&self, speaker: &Speaker, max_length: usize) -> Conversation {
        let need = SessionNeed { max_length, batch: 1 };
        let (spec, swarm) = (&speaker.spec, speaker.entry.swarm.clone());
        let chain = Chain::new(swarm, speaker.bans.clone(), spec.id.clone(), spec.all_blocks(), need)
            .with_patience(self.limits.patience)
            .with_observer(self.observer.clone());
        Conversation { tokens: Vec::new(), unread: 0, max_length, blocks: Box::new(chain) }
    }

    /// The tokens of a prompt that stands by itself and gets no reply.
    pub(super) async fn alone(&self, speaker: &Speaker, prompt: &Prompt) -> Result<Vec<TokenId>, ReplyError> {
        let tokens = match prompt {
            Prompt::Nothing => Vec::new(),
            Prompt::Text(text) => speaker.entry.tokenizer.encode(text, true).await?,
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Chat(chat) => speaker.chat(chat, "").await?,
            Prompt::Begun(chat, begun) => speaker.chat(chat, begun).await?,
        };
        speaker.check_tokens("the prompt", &tokens)?;
        let (asked, limit) = (tokens.len(), self.longest(&speaker.spec));
        match asked {
            0 => Err(ReplyError::EmptyInput),
            asked if asked > limit => {
                Err(ReplyError::LengthNotAllowed { asked, limit, model: speaker.spec.id.clone() })
            }
            _ => Ok(tokens),
        }
    }

    /// A place for a reply without a session.
    pub(super) fn stand(&self, model: Option<&ModelId>) -> Result<(Seat, Speaker), ReplyError> {
        let speaker = self.speaker(model.unwrap_or(self.catalogue.default_id()))?;
        let conversation = self.conversation(&speaker, self.longest(&speaker.spec));
        Ok((Seat::Own(Box::new(conversation)), speaker))
    }

    /// A conversation for a reply without a session that may reach `length` positions, and what is to be added to it. One
    /// that was kept is used where it begins as `prompt` does, unless the prompt is to be read `anew`: who names a seed
    /// wants the same tokens each time, and computed in other steps numbers may differ in their last digits.
    pub(super) async fn own(
        &self,
        speaker: &Speaker,
        owner: Option<&Owner>,
        prompt: Continuation,
        (length, anew): (usize, bool),
    ) -> (Conversation, Continuation) {
        let whole = prompt.whole().filter(|_| !anew);
        let (now, of_whom) = ((self.ambient.now)(), (&speaker.spec.id, owner));
        let found = match whole {
            Some(tokens) => self.prefixes.find(of_whom, tokens, length, now).await,
            None => None,
        };
        let conversation = match found {
            Some(conversation) => conversation,
            None => {
                let bounds = (self.limits.default_length, self.longest(&speaker.spec));
                self.conversation(speaker, self.prefixes.length_for(speaker, length, bounds).await)
            }
        };
        let prompt = prompt.after(&conversation);
        (conversation, prompt)
    }

    /// A place in a session: waits until nobody else writes there, and takes over what other replicas stored.
    pub(super) async fn sit(&self, id: Uuid, model: Option<&ModelId>) -> Result<(Seat, Speaker), ReplyError> {
        let gone = || ReplyError::SessionGone(id.simple().to_string());
        let entry = self.table.row(id, (self.ambient.now)());
        let mut slot = entry.live.clone().lock_owned().await;
        if entry.closed.load(Relaxed) {
            return Err(gone());
        }
        let record = match self.store.load(id).await {
            Ok(Some(record)) if !self.expired(&record, slot.is_some().then_some(&entry)) => record,
            Ok(_) => {
                self.table.remove(id);
                self.store.delete(id).await?;
                return Err(gone());
            }
            Err(fault) => return Err(fault.into()),
        };
        if let Some(asked) = model.filter(|asked| **asked != record.model) {
            return Err(ReplyError::WrongModel { opened: record.model, asked: asked.clone() });
        }
        let speaker = self.speaker(&record.model)?;
        match slot.as_mut() {
            Some(live) if live.record.version == record.version => {}
            Some(live) => adopt(live, record).await?,
            None => {
                let mut conversation = self.conversation(&speaker, record.max_length);
                conversation.tokens.clone_from(&record.tokens);
                *slot =
                    Some(Live { record: SessionRecord { tokens: Vec::new(), ..record }, conversation, dirty: false });
            }
        }
        if let Some(live) = slot.as_mut() {
            live.dirty = true; // at the least its time to live starts anew
            entry.last_used.store((self.ambient.now)().0, Relaxed);
        }
        Ok((Seat::Shared(slot, entry), speaker))
    }

    /// How many tokens a reply may have.
    pub(super) fn new_tokens(
        &self,
        spec: &ModelSpec,
        seat: &Seat,
        prompt: &Continuation,
        length: Length,
    ) -> Result<usize, ReplyError> {
        let (total, max_length) = (prompt.total(), seat.max_length);
        let exceeded = |needed| {
            let position = prompt.cached(&*seat.blocks);
            ReplyError::LengthExceeded { position, needed: needed - position, max_length }
        };
        if total > max_length {
            return Err(exceeded(total));
        }
        let asked = match length {
            Length::NewTokens(n) => n.max(1),
            Length::Total(n) if n <= prompt.prefix() => {
                return Err(ReplyError::PrefixTooLong { max_length: n, prefix: prompt.prefix() });
            }
            Length::Total(n) => n - prompt.prefix(),
            Length::Rest => {
                let room = (max_length - total).max(1);
                let own = matches!(seat, Seat::Own(_));
                return Ok(if own { room.min(self.limits.default_length.min(self.longest(spec))) } else { room });
            }
        };
        match seat {
            Seat::Own(_) if total.saturating_add(asked) > max_length => Err(exceeded(total.saturating_add(asked))),
            _ => Ok(asked),
        }
    }

    /// Frees the cache of a prefix that is kept, else of the session that has been idle for longest; whether there was one.
    /// A session is replayed when it goes on.
    pub(super) fn evict_idle(&self) -> bool {
        if self.prefixes.evict() {
            return true;
        }
        for (id, entry) in self.table.rows() {
            let Ok(mut slot) = entry.live.clone().try_lock_owned() else { continue };
            let Some(live) = slot.as_mut().filter(|live| live.conversation.blocks.position() > 0) else { continue };
            let Ok(speaker) = self.speaker(&live.record.model) else { continue };
            tracing::debug!(session = %id, "the cache is full; an idle session gives up its part");
            live.conversation.blocks = self.conversation(&speaker, live.record.max_length).blocks;
            return true;
        }
        false
    }

    /// Removes a session whose stored time is over, unless it is being used here or has been since.
    pub(super) async fn forget_expired(&self, id: Uuid) {
        if let Some((_, entry)) = self.table.rows().into_iter().find(|(row, _)| *row == id) {
            let Ok(slot) = entry.live.clone().try_lock_owned() else { return };
            if slot.is_some() && self.fresh(&entry) {
                return;
            }
            self.table.remove(id);
        }
        if let Err(fault) = self.store.delete(id).await {
            tracing::warn!(session = %id, error = %fault, "an expired session could not be removed");
        }
    }

    pub(super) fn new_id(&self) -> Uuid {
        let (high, low) = ((self.ambient.random)(), (self.ambient.random)());
        let bits = u128::from(high) << 64 | u128::from(low);
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    fn expired(&self, record: &SessionRecord, live: Option<&Arc<Entry>>) -> bool {
        record.expires <= (self.ambient.now)() && !live.is_some_and(|entry| self.fresh(entry))
    }

    fn fresh(&self, entry: &Entry) -> bool {
        Timestamp(entry.last_used.load(Relaxed)).after(self.limits.idle) > (self.ambient.now)()
    }
}

/// Takes over what another replica stored; the cache keeps what both have in common.
async fn adopt(live: &mut Live, record: SessionRecord) -> Result<(), ReplyError> {
    let conversation = &mut live.conversation;
    let common = common_prefix(&conversation.tokens, &record.tokens);
    if conversation.blocks.position() > common {
        conversation.blocks.rewind(common).await?;
    }
    conversation.tokens.clone_from(&record.tokens);
    conversation.unread = 0;
    live.record = SessionRecord { tokens: Vec::new(), ..record };
    Ok(())
}

/// What keeps a loaded model from answering, in words, and the blocks that nobody runs.
pub(super) async fn missing_blocks(entry: &ModelEntry) -> (Option<String>, Vec<usize>) {
    let spec = entry.local.spec();
    match entry.swarm.map(&spec.id).await {
        Err(fault) => (Some(in_public(&spec, &fault)), Vec::new()),
        Ok(map) => {
            let missing = map.missing(spec.all_blocks());
            let words = (!missing.is_empty()).then(|| map.no_host(&format!("blocks {}", blocks_in_words(&missing))));
            (words.map(|fault| in_public(&spec, &fault)), missing)
        }
    }
}

/// What everybody may read of `fault`: what went wrong inside may name files of this machine.
fn in_public(spec: &ModelSpec, fault: &PortError) -> String {
    if fault.kind() == FaultKind::Internal {
        tracing::error!(model = %spec.id, error = %fault, "it is not known who runs the blocks");
        return "it is not known who runs its blocks; the server's log says why".to_owned();
    }
    fault.to_string()
}
