//! Sessions in the memory of this process: gone when it ends.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use corolla_domain::ports::{FaultKind, PortError, SessionRecord, SessionStore, Timestamp};
use uuid::Uuid;

/// Sessions in the memory of this process.
#[derive(Debug, Default)]
pub struct MemorySessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    records: HashMap<Uuid, SessionRecord>,
    /// The same sessions, in the order in which they expire.
    expiry: BTreeSet<(Timestamp, Uuid)>,
}

impl MemorySessions {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table is whole whenever nobody holds it: no change below can panic half-way.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SessionStore for MemorySessions {
    async fn create(&self, record: SessionRecord, now: Timestamp, max_live: usize) -> Result<(), PortError> {
        let mut table = self.table();
        if table.records.contains_key(&record.id) {
            return Err(PortError::new(FaultKind::Conflict, format!("session {} exists already", record.id)));
        }
        let live = (Bound::Excluded((now, Uuid::max())), Bound::Unbounded);
        if table.expiry.range(live).take(max_live).count() == max_live {
            return Err(PortError::new(FaultKind::Capacity, format!("{max_live} sessions are alive, no more may be")));
        }
        table.expiry.insert((record.expires, record.id));
        table.records.insert(record.id, record);
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<Option<SessionRecord>, PortError> {
        Ok(self.table().records.get(&id).cloned())
    }

    async fn save(&self, mut record: SessionRecord) -> Result<u64, PortError> {
        let mut table = self.table();
        let Some(stored) = table.records.get(&record.id) else {
            return Err(PortError::new(FaultKind::NotFound, format!("session {} does not exist", record.id)));
        };
        if stored.version != record.version {
            let said = format!("session {} is at version {}, not {}", record.id, stored.version, record.version);
            return Err(PortError::new(FaultKind::Conflict, said));
        }
        let before = (stored.expires, stored.id);
        let Some(version) = record.version.checked_add(1) else {
            return Err(PortError::invalid(format!("session {} has no version after {}", record.id, record.version)));
        };
        record.version = version;
        table.expiry.remove(&before);
        table.expiry.insert((record.expires, record.id));
        table.records.insert(record.id, record);
        Ok(version)
    }

    async fn delete(&self, id: Uuid) -> Result<bool, PortError> {
        let mut table = self.table();
        let Some(record) = table.records.remove(&id) else {
            return Ok(false);
        };
        table.expiry.remove(&(record.expires, id));
        Ok(true)
    }

    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Uuid>, PortError> {
        let table = self.table();
        Ok(table.expiry.range(..=(now, Uuid::max())).take(limit).map(|(_, id)| *id).collect())
    }
}
