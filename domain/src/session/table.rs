//! The live side of sessions: conversations with their KV cache, one lock each.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::meter::{Counted, Meter};
use crate::{generation::Conversation, ports::SessionRecord, ports::Timestamp};

/// A session being used: what is stored of it, and its conversation. `record.tokens` stays empty; the conversation has
/// them.
pub(super) struct Live {
    pub record: SessionRecord,
    pub conversation: Conversation,
    /// Has tokens that the store has not.
    pub dirty: bool,
}

/// One row of the table.
pub(super) struct Entry {
    /// `None` until the first request has loaded the record.
    pub live: Arc<tokio::sync::Mutex<Option<Live>>>,
    /// In milliseconds; counts only while nobody holds the lock.
    pub last_used: AtomicU64,
    pub closed: AtomicBool,
    _counted: Counted,
}

/// The sessions this process holds.
pub(super) struct Table {
    entries: Mutex<HashMap<Uuid, Arc<Entry>>>,
    meter: Arc<Meter>,
}

impl Table {
    pub(super) fn new(meter: Arc<Meter>) -> Self {
        Self { entries: Mutex::default(), meter }
    }

    /// The row of that name, added where there is none.
    pub(super) fn row(&self, id: Uuid, now: Timestamp) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Entry {
                live: Arc::default(),
                last_used: AtomicU64::new(now.0),
                closed: AtomicBool::new(false),
                _counted: Counted::new(&self.meter, |m| &m.sessions_live),
            })
        };
        entries.entry(id).or_insert_with(new).clone()
    }

    /// Takes a row out; whoever waits for its lock finds it closed.
    pub(super) fn remove(&self, id: Uuid) {
        if let Some(entry) = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            entry.closed.store(true, Relaxed);
        }
    }

    /// All rows, the one unused for longest first.
    pub(super) fn rows(&self) -> Vec<(Uuid, Arc<Entry>)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = entries.iter().map(|(id, entry)| (*id, entry.clone())).collect();
        rows.sort_by_key(|(id, entry)| (entry.last_used.load(Relaxed), *id));
        rows
    }
}

/// Where a reply writes: a locked session, or a conversation of its own.
pub(super) enum Seat {
    Shared(OwnedMutexGuard<Option<Live>>, Arc<Entry>),
    Own(Box<Conversation>),
}

impl Seat {
    /// The session, where there is one.
    pub(super) fn live(&mut self) -> Option<&mut Live> {
        match self {
            Self::Shared(live, _) => live.as_mut(),
            Self::Own(_) => None,
        }
    }
}

#[allow(
    clippy::expect_used,
    reason = "a shared seat is made only around a session that is there, see `SessionService::sit`"
)]
impl Deref for Seat {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        match self {
            Self::Shared(live, _) => &live.as_ref().expect("a seat in a session").conversation,
            Self::Own(conversation) => conversation,
        }
    }
}

#[allow(clippy::expect_used, reason = "as for `Deref`")]
impl DerefMut for Seat {
    fn deref_mut(&mut self) -> &mut Conversation {
        match self {
            Self::Shared(live, _) => &mut live.as_mut().expect("a seat in a session").conversation,
            Self::Own(conversation) => conversation,
        }
    }
}
