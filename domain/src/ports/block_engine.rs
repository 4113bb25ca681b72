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

/// What a backward pass is over: a pass of whole rows, from position 0 on, without a cache.
#[derive(Debug, Clone, PartialEq)]
pub struct BackwardInput {
    /// Hidden states before the first block, of shape `[batch, seq, width]`.
    pub hidden: Hidden,
    /// Derivatives of a loss by the hidden states after the last block, of the same shape.
    pub gradient: Hidden,
    /// Deep prompts (Liu et al., 2021), none or one for each block: of shape `[batch or 1, positions, width]`, added to the
    /// first `positions` positions of the block's input, of every row where there is one for all.
    pub prompts: Vec<Hidden>,
}

/// What a backward pass finds: derivatives of the loss by what went in. Weights stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// By the hidden states before the first block: `[batch, seq, width]`.
    pub hidden: Hidden,
    /// By each prompt, in the order of the blocks: `[batch, positions, width]`. Rows are not summed up where they share a
    /// prompt: that is left to the caller.
    pub prompts: Vec<Hidden>,
}

impl BackwardInput {
    /// Refuses shapes that do not fit each other, or `blocks` blocks of a model of that width.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn check(&self, blocks: usize, width: usize) -> Result<(), PortError> {
        let shape = |hidden: &Hidden| [hidden.batch(), hidden.seq(), hidden.width()];
        let [batch, seq, numbers] = shape(&self.hidden);
        if numbers != width || shape(&self.gradient) != [batch, seq, numbers] {
            return Err(PortError::invalid(format!(
                "a backward pass over hidden states of shape {:?} and gradients of shape {:?} in a model of width {width}",
                shape(&self.hidden),
                shape(&self.gradient)
            )));
        }
        if !self.prompts.is_empty() && self.prompts.len() != blocks {
            return Err(PortError::invalid(format!("{} prompts for {blocks} blocks", self.prompts.len())));
        }
        let fits = |prompt: &&Hidden| {
            let [rows, positions, numbers] = shape(prompt);
            (rows == 1 || rows == batch) && positions <= seq && numbers == width
        };
        match self.prompts.iter().find(|prompt| !fits(prompt)) {
            None => Ok(()),
            Some(prompt) => Err(PortError::invalid(format!(
                "a prompt of shape {:?} for hidden states of shape {:?}",
                shape(prompt),
                shape(&self.hidden)
            ))),
        }
    }
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

    /// Carries the derivatives of a loss back through `range`, which is computed anew to that end; open sessions are left
    /// alone. Derivatives are f32, whatever the blocks compute in, and those of the numbers that a session of `range` gives
    /// for the same input.
    ///
    /// `InvalidInput` for a range that is not hosted, for shapes that do not fit (see [`BackwardInput::check`]), and for a
    /// pass that keeps more meanwhile than there is ever room for; `Capacity` where there is no room now, found before
    /// anything is computed; `Unsupported` where the engine cannot do it. A pass whose future was dropped MUST stop
    /// computing soon: at the latest when the block it is in is done.
    async fn backward(&self, range: BlockRange, input: BackwardInput) -> Result<Gradients, PortError> {
        let shape = (input.hidden.batch(), input.hidden.seq());
        let text =
            format!("no gradients are computed here (blocks {range}, {} rows of {} positions)", shape.0, shape.1);
        Err(PortError::new(FaultKind::Unsupported, text))
    }
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

    /// Opens another session that begins as a copy of the first `to` positions of this one, which is left as it is; from there
    /// on neither knows of the other, and either may be dropped first. What both have in common takes the engine's cache once,
    /// as far as the engine can share it. `InvalidInput` where `to` is beyond the position or `need.max_length`, or
    /// `need.batch` is another than this session's; `Capacity` where the cache has no room (nothing is set aside then);
    /// `Unsupported` where the cache cannot do it.
    async fn fork(&mut self, to: usize, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        let text =
            format!("this session has no copy of its first {to} positions to give, for {} to come", need.max_length);
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
