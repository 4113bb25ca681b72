//! Conversations that were written without a session: kept a while, for requests that begin as they do.
//!
//! A request gets a copy of what it has in common with one of them, which stays for the next. Blocks that give no copies, of
//! a swarm for example, are handed on as they are.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    ports::{FaultKind, SessionNeed, Timestamp},
};

/// Fewest positions that are worth keeping, and worth taking.
const LEAST: usize = 16;
/// What is set aside beyond what a reply needs must leave this many times as much free.
const SPARE: usize = 4;
/// How long a swarm may take to say how much of its caches is free.
const ASKING: Duration = Duration::from_millis(100);

/// On whose behalf a request is made: what was computed for one is of no use, and of no notice, to another.
pub type Owner = Arc<str>;

/// Conversations that are over, the one unused for longest first.
pub(super) struct Prefixes {
    kept: Mutex<Vec<Kept>>,
    most: usize,
    meter: Arc<Meter>,
}

/// A conversation that requests may begin from, until one takes it.
type Source = Arc<tokio::sync::Mutex<Option<Conversation>>>;

struct Kept {
    model: ModelId,
    owner: Option<Owner>,
    source: Source,
    /// Its tokens, and how many of them its blocks know.
    tokens: Vec<TokenId>,
    position: usize,
    max_length: usize,
    /// Whether its blocks can give copies of their beginning, as far as that is known.
    forks: bool,
    since: Timestamp,
    _counted: Counted,
}

impl Kept {
    fn is_of(&self, model: &ModelId, owner: Option<&Owner>) -> bool {
        self.model == *model && self.owner.as_ref() == owner
    }

    /// How many of its positions a prompt of `tokens` has in common with it. The prompt's last one is always computed.
    fn common(&self, tokens: &[TokenId]) -> usize {
        common_prefix(&self.tokens, tokens).min(self.position).min(tokens.len().saturating_sub(1))
    }

    /// Whether a reply that needs `length` positions can go on in it, and that is worth giving up the rest of it.
    fn can_move(&self, common: usize, tokens: &[TokenId], length: usize) -> bool {
        let most_of_it = 2 * common >= self.position;
        self.max_length >= length && (most_of_it || common + 1 == tokens.len())
    }
}

/// What a request can begin from.
struct Found {
    source: Source,
    common: usize,
    forks: bool,
    can_move: bool,
}

impl Prefixes {
    /// Keeps up to `most` conversations.
    pub(super) fn new(most: usize, meter: Arc<Meter>) -> Self {
        Self { kept: Mutex::default(), most, meter }
    }

    /// A conversation with room for `length` positions that begins as `tokens` do: a copy of the beginning of the one that has
    /// most in common with them, or that one itself where its blocks give no copies or there is no room for one.
    pub(super) async fn find(
        &self,
        (model, owner): (&ModelId, Option<&Owner>),
        tokens: &[TokenId],
        length: usize,
        now: Timestamp,
    ) -> Option<Conversation> {
        loop {
            let found = self.best(model, owner, tokens, length)?;
            let (source, common) = (&found.source, found.common);
            if !found.forks {
                self.remove(source);
                // Who came first has it, and this one looks again.
                let Some(conversation) = source.lock().await.take() else { continue };
                self.meter.prefix_hit(common);
                return Some(conversation);
            }
            let mut slot = source.lock().await;
            let Some(conversation) = &mut *slot else { continue };
            match conversation.blocks.fork(common, SessionNeed { max_length: length, batch: 1 }).await {
                Ok(blocks) => {
                    self.used(source, now);
                    self.meter.prefix_hit(common);
                    let tokens = tokens[..common].to_vec();
                    return Some(Conversation { tokens, unread: 0, max_length: length, blocks });
                }
                Err(fault) if fault.kind() == FaultKind::Capacity => {
                    if !found.can_move && !self.evict_beside(source) {
                        return None;
                    }
                    if found.can_move {
                        self.no_forks(source);
                    }
                }
                Err(fault) => {
                    tracing::trace!(error = %fault, "what is kept is moved, not copied");
                    self.no_forks(source);
                }
            }
        }
    }

    /// What has most in common with `tokens` and is of use for them.
    fn best(&self, model: &ModelId, owner: Option<&Owner>, tokens: &[TokenId], length: usize) -> Option<Found> {
        let kept = self.lock();
        let found = |(at, kept): (usize, &Kept)| {
            let common = kept.common(tokens);
            let can_move = kept.can_move(common, tokens, length);
            let found = Found { source: kept.source.clone(), common, forks: kept.forks, can_move };
            let of_use = common >= LEAST && (kept.forks || can_move);
            of_use.then_some(((common, usize::MAX - kept.tokens.len(), at), found))
        };
        let candidates = kept.iter().enumerate().filter(|(_, kept)| kept.is_of(model, owner));
        candidates.filter_map(found).max_by_key(|(rank, _)| *rank).map(|(_, found)| found)
    }

    /// Whether a conversation of so many positions would be kept.
    pub(super) fn wants(&self, position: usize) -> bool {
        self.most > 0 && position >= LEAST
    }

    /// Keeps a conversation, in place of those that it goes on from and of the one unused for longest; not where another one
    /// has all of it.
    pub(super) fn keep(&self, model: &ModelId, owner: Option<Owner>, conversation: Conversation, now: Timestamp) {
        let position = conversation.blocks.position();
        if !self.wants(position) {
            return;
        }
        let mut kept = self.lock();
        let of_same = |old: &Kept| old.is_of(model, owner.as_ref());
        let known = &conversation.tokens[..position.min(conversation.tokens.len())];
        let has_all = |old: &Kept| old.forks && old.position >= position && old.tokens.starts_with(known);
        if let Some(at) = kept.iter().position(|old| of_same(old) && has_all(old)) {
            touch(&mut kept, at, now);
            drop(kept); // before what is gone is: freeing caches takes its time
            return drop(conversation);
        }
        let continued = |old: &Kept| of_same(old) && conversation.tokens.starts_with(&old.tokens);
        let mut gone: Vec<Kept> = kept.extract_if(.., |old| continued(old)).collect();
        if kept.len() >= self.most {
            gone.push(kept.remove(0));
        }
        kept.push(Kept {
            model: model.clone(),
            owner,
            tokens: conversation.tokens.clone(),
            position,
            max_length: conversation.max_length,
            source: Arc::new(tokio::sync::Mutex::new(Some(conversation))),
            forks: true,
            since: now,
            _counted: Counted::new(&self.meter, |meter| &meter.prefixes_kept),
        });
        drop(kept); // as above
        drop(gone);
    }

    /// Frees the cache of the one unused for longest; whether there was one.
    pub(super) fn evict(&self) -> bool {
        self.evict_where(|_| true)
    }

    /// The same for another one than `source`.
    fn evict_beside(&self, source: &Source) -> bool {
        self.evict_where(|kept| !Arc::ptr_eq(&kept.source, source))
    }

    fn evict_where(&self, may_go: impl Fn(&Kept) -> bool) -> bool {
        let mut kept = self.lock();
        let oldest = kept.iter().position(may_go).map(|at| kept.remove(at));
        drop(kept);
        if oldest.is_some() {
            tracing::debug!("the cache is full; a kept prefix gives up its part");
        }
        oldest.is_some()
    }

    /// One of which a copy was taken.
    fn used(&self, source: &Source, now: Timestamp) {
        let mut kept = self.lock();
        if let Some(at) = kept.iter().position(|kept| Arc::ptr_eq(&kept.source, source)) {
            touch(&mut kept, at, now);
        }
    }

    /// One that gives no copies.
    fn no_forks(&self, source: &Source) {
        let mut kept = self.lock();
        kept.iter_mut().filter(|kept| Arc::ptr_eq(&kept.source, source)).for_each(|kept| kept.forks = false);
    }

    fn remove(&self, source: &Source) {
        self.lock().retain(|kept| !Arc::ptr_eq(&kept.source, source));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those that nobody has used for `idle`.
    pub(super) fn expire(&self, idle: Duration, now: Timestamp) {
        let mut kept = self.lock();
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

/// Makes the one at `at` the latest.
fn touch(kept: &mut Vec<Kept>, at: usize, now: Timestamp) {
    let mut used = kept.remove(at);
    used.since = now;
    kept.push(used);
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
