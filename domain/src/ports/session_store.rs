//! Where sessions survive: the words and settings of a conversation, never its tensors.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::PortError;
use crate::model::{ModelId, TokenId};

/// Milliseconds since the Unix epoch. The domain never reads a clock; callers pass the time in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time and `wait`.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A session at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its public name.
    pub id: Uuid,
    /// The model it talks to.
    pub model: ModelId,
    /// Positions it may reach.
    pub max_length: usize,
    /// Everything said so far, prompt and replies.
    pub tokens: Vec<TokenId>,
    /// When it may be forgotten.
    pub expires: Timestamp,
    /// Counts the saves; [`SessionStore::save`] compares it.
    pub version: u64,
}

/// Keeps [`SessionRecord`]s.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Adds a new session, unless `max_live` sessions exist whose `expires` is later than `now`: then `Capacity`, and
    /// nothing is added. The check and the insertion are one step for all who share the store. `Conflict` where the id
    /// exists.
    async fn create(&self, record: SessionRecord, now: Timestamp, max_live: usize) -> Result<(), PortError>;

    /// The record of that name, expired or not; `None` where there is none.
    async fn load(&self, id: Uuid) -> Result<Option<SessionRecord>, PortError>;

    /// Replaces the stored record if its version is still `record.version`, and counts the version up by one. Returns
    /// the new version. `Conflict` where somebody saved in between, `NotFound` where it was deleted.
    async fn save(&self, record: SessionRecord) -> Result<u64, PortError>;

    /// Removes a record; whether there was one.
    async fn delete(&self, id: Uuid) -> Result<bool, PortError>;

    /// Names of up to `limit` sessions whose `expires` is at or before `now`.
    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Uuid>, PortError>;
}
