//! A swarm of machines that host blocks.

use std::sync::Arc;

use async_trait::async_trait;

use super::{BlockSession, PortError, SessionNeed};
use crate::model::{Hidden, Hop, ModelId, SwarmMap};

/// Access to the machines that host a model's blocks. Holds no policy: who is asked and what happens when somebody
/// fails is decided by the chain in [`crate::routing`].
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait RemoteSwarm: Send + Sync {
    /// The latest known snapshot of who hosts what. Quick: it is refreshed behind the scenes. `NotFound` for a model
    /// the swarm has never heard of.
    async fn map(&self, model: &ModelId) -> Result<Arc<SwarmMap>, PortError>;

    /// Opens a session at one peer. `Unavailable` or `TimedOut` where the peer cannot be reached, `Capacity` where its
    /// cache is full. The session returned reports the death of its peer as `Unavailable` or `TimedOut`.
    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError>;

    /// Runs hidden states through blocks of one peer, with causal attention among their positions, and keeps nothing:
    /// the first step of a session that is dropped afterwards, without its cache. Same shape. Faults as for `dial` and
    /// a step.
    async fn forward(&self, hop: Hop, hidden: Hidden) -> Result<Hidden, PortError>;
}
