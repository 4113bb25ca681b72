//! Transformer blocks on this machine, and sessions over them.

use async_trait::async_trait;

use super::{FaultKind, PortError};
use crate::model::{BlockRange, Hidden, PeerId, RouteReport};

/// What a session will need; memory for it is set aside when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionNeed {
    /// Positions it may reach, at least 1.
    pub max_length: usize,
    /// Rows side by side, at least 1.
    pub batch: usize,
}

/// Input of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepInput {
    /// Hidden states of shape `[batch, seq, width]` for the next `seq` positions.
    pub hidden: Hidden,
    /// How the output travels on by itself; `None`: only back to the caller.
    pub relay: Option<Relay>,
}

impl From<Hidden> for StepInput {
    fn from(hidden: Hidden) -> Self {
        Self { hidden, relay: None }
    }
}

/// A step that several sessions take one after the other, and whose servers may hand the output to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The step's name, the same at every hop and never used again in these sessions: a session that is given the same
    /// step twice, by the server before it and by the caller, takes it once and answers the caller.
    pub step: u64,
    /// Sessions that the output is for, the next one first; may be empty.
    pub next: Vec<Inbox>,
}

/// Where another server can push what a session is to be fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbox {
    /// The session's server.
    pub peer: PeerId,
    /// The name the server knows the session by.
    pub session: String,
    /// The blocks it runs through.
    pub blocks: BlockRange,
}

/// Hosts transformer blocks of one model.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait BlockEngine: Send + Sync {
    /// The blocks it has.
    fn hosted(&self) -> BlockRange;

    /// Positions its KV cache can still take, over all hosted blocks, for batch 1.
    fn free_tokens(&self) -> usize;

    /// Opens a session over `range` and sets its KV cache aside. `InvalidInput` for a range that is not hosted or a
    /// need of 0; `Capacity` where the cache has no room (nothing is set aside then).
    async fn open(&self, range: BlockRange, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError>;
}

/// A KV cache over a run of blocks, wherever they are. Dropping it frees the cache, on every machine involved.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait BlockSession: Send + Sync {
    /// The blocks it runs through.
    fn blocks(&self) -> BlockRange;

    /// Positions confirmed: those of all steps that returned `Ok`, less what was rewound.
    fn position(&self) -> usize;

    /// Runs the next positions through the blocks and returns their hidden states, same shape.
    ///
    /// Any chunking of the same positions gives the same result within the dtype's tolerance. `Capacity` where the
    /// step would pass `max_length`; `InvalidInput` for a wrong batch or width. A step that failed, or whose future
    /// was dropped, MUST leave the session as if it had never been called, and MUST stop computing soon: at the
    /// latest when the block it is in is done.
    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError>;

    /// Forgets all positions from `to` on. Rewinding and stepping again equals never having gone. `InvalidInput` where
    /// `to` is beyond the position.
    async fn rewind(&mut self, to: usize) -> Result<(), PortError>;

    /// Puts the rows of the cache in another order before the next step: row `i` continues what was row `rows[i]`, as beam
    /// search wants it. Rows may be named several times. `InvalidInput` where there are not as many as the session has, or
    /// one names none; `Unsupported` where the cache cannot do it. A session whose `reorder` failed or was dropped may be
    /// in either order.
    async fn reorder(&mut self, rows: &[usize]) -> Result<(), PortError> {
        let text = format!("the rows of this session cannot be put in another order ({} were given)", rows.len());
        Err(PortError::new(FaultKind::Unsupported, text))
    }

    /// Where servers that push can reach this session; `None` where its server neither pushes nor takes pushes.
    fn inbox(&self) -> Option<Inbox> {
        None
    }

    /// How positions travelled, for people to read. Empty for a session that is not spread over servers.
    fn report(&self) -> RouteReport {
        RouteReport::default()
    }
}
