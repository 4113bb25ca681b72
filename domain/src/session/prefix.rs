//! Conversations that were written without a session: kept a while, for requests that begin as they do.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    continuation::common_prefix,
    core::Speaker,
    meter::{Counted, Meter},
};
use crate::{
    generation::Conversation,
    model::{ModelId, SwarmMap, TokenId},
    ports::Timestamp,
};

/// Fewest positions that are worth keeping, and worth taking.
const LEAST: usize = 16;
/// What is set aside beyond what a reply needs must leave this many times as much free.
const SPARE: usize = 4;
/// How long a swarm may take to say how much of its caches is free.
const ASKING: Duration = Duration::from_millis(100);

/// On whose behalf a request is made: what was computed for one is of no use, and of no notice, to another.
pub type Owner = Arc<str>;

/// Idle conversations, the one unused for longest first.
pub(super) struct Prefixes {
    kept: Mutex<Vec<Kept>>,
    most: usize,
    meter: Arc<Meter>,
}

struct Kept {
    model: ModelId,
    owner: Option<Owner>,
    conversation: Conversation,
    since: Timestamp,
    _counted: Counted,
}

impl Kept {
    fn is_of(&self, model: &ModelId, owner: Option<&Owner>) -> bool {
        self.model == *model && self.owner.as_ref() == owner
    }

    /// How many of its positions a prompt of `tokens` has in common with it. The prompt's last one is always computed.
    fn common(&self, tokens: &[TokenId]) -> usize {
        let common = common_prefix(&self.conversation.tokens, tokens);
        common.min(self.conversation.blocks.position()).min(tokens.len().saturating_sub(1))
    }

    /// Whether that is worth giving up the rest of it.
    fn is_worth(&self, common: usize, tokens: &[TokenId]) -> bool {
        let most_of_it = 2 * common >= self.conversation.blocks.position();
        common >= LEAST && (most_of_it || common + 1 == tokens.len())
    }
}

impl Prefixes {
    /// Keeps up to `most` conversations.
    pub(super) fn new(most: usize, meter: Arc<Meter>) -> Self {
        Self { kept: Mutex::default(), most, meter }
    }

    /// The conversation that has the longest beginning in common with `tokens` and room for `length` positions.
    pub(super) fn take(
        &self,
        model: &ModelId,
        owner: Option<&Owner>,
        tokens: &[TokenId],
        length: usize,
    ) -> Option<Conversation> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |kept: &Kept| kept.is_of(model, owner) && kept.conversation.max_length >= length;
        let common = |kept: &Kept| Some(kept.common(tokens)).filter(|common| kept.is_worth(*common, tokens));
        let candidates = kept.iter().enumerate().filter(|(_, kept)| fits(kept));
        let (common, _, at) = candidates
            .filter_map(|(at, kept)| Some((common(kept)?, usize::MAX - kept.conversation.tokens.len(), at)))
            .max()?;
        self.meter.prefix_hit(common);
        Some(kept.remove(at).conversation)
    }

    /// Keeps a conversation, in place of those that it goes on from and of the one unused for longest.
    pub(super) fn keep(&self, model: &ModelId, owner: Option<Owner>, conversation: Conversation, now: Timestamp) {
        if self.most == 0 || conversation.blocks.position() < LEAST {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let continued =
            |old: &Kept| old.is_of(model, owner.as_ref()) && conversation.tokens.starts_with(&old.conversation.tokens);
        let mut gone: Vec<Kept> = kept.extract_if(.., |old| continued(old)).collect();
        if kept.len() >= self.most {
            gone.push(kept.remove(0));
        }
        let counted = Counted::new(&self.meter, |meter| &meter.prefixes_kept);
        kept.push(Kept { model: model.clone(), owner, conversation, since: now, _counted: counted });
        drop(kept); // before what is gone is: freeing caches takes its time
        drop(gone);
    }

    /// Frees the cache of the one unused for longest; whether there was one.
    pub(super) fn evict(&self) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (!kept.is_empty()).then(|| kept.remove(0));
        drop(kept);
        if oldest.is_some() {
            tracing::debug!("the cache is full; a kept prefix gives up its part");
        }
        oldest.is_some()
    }

    /// Forgets those that nobody has used for `idle`.
    pub(super) fn expire(&self, idle: Duration, now: Timestamp) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Kept> = kept.extract_if(.., |old| old.since.after(idle) <= now).collect();
        drop(kept);
        drop(gone);
    }

    /// Positions to set aside for a reply that needs `length`, so that the next ones fit as well: twice as many, or
    /// `usual` more, where there is plenty of room, and at most `longest`.
    pub(super) async fn length_for(&self, speaker: &Speaker, length: usize, (usual, longest): (usize, usize)) -> usize {
        let wanted = length.saturating_add(length.max(usual)).min(longest);
        if self.most == 0 || wanted <= length {
            return length;
        }
        let asking = tokio::time::timeout(ASKING, speaker.entry.swarm.map(&speaker.spec.id));
        let free = asking.await.ok().and_then(Result::ok).and_then(|map| free(&map, speaker));
        if free.is_some_and(|free| wanted.saturating_mul(SPARE) <= free) { wanted } else { length }
    }
}

/// Positions that any route can take, where all servers that would be needed say so.
fn free(map: &SwarmMap, speaker: &Speaker) -> Option<usize> {
    let blocks = speaker.spec.all_blocks();
    let at = |block: usize| {
        let hosts = map.servers.iter().filter(|server| (server.blocks.start()..server.blocks.end()).contains(&block));
        hosts.map(|server| server.free_tokens).min().flatten()
    };
    (blocks.start()..blocks.end()).map(at).min().flatten()
}
