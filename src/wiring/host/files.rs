//! Blocks for a server: from a model's files as memory allows, or those that this process uses anyway.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use corolla_domain::{
    fit::bytes,
    model::BlockRange,
    placement::{RESERVE, Share},
    ports::{BlockEngine, FaultKind, PortError},
};
use corolla_swarm::server::Loader;

use super::free_memory;
use crate::{plan::ModelPlan, wiring::backends};

/// How long memory that was in use is waited for, and how often it is looked at.
const MEMORY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Blocks from the model's files.
pub(super) struct Files {
    pub(super) model: ModelPlan,
    pub(super) share: Share,
}

impl Files {
    /// Whether they are kept in the machine's memory, which can be looked at.
    fn in_memory(&self) -> bool {
        self.model.choice.blocks.card.is_none()
    }
}

#[async_trait]
impl Loader for Files {
    async fn load(&self, blocks: BlockRange) -> Result<Arc<dyn BlockEngine>, PortError> {
        // Those of before are given back by a thread of their own.
        let (needed, begun) = (self.share.bytes(blocks.len()), std::time::Instant::now());
        while self.in_memory() && self.model.settings.compute.check_memory {
            let free = free_memory()?;
            if free >= needed {
                break;
            }
            if begun.elapsed() > MEMORY {
                let text = format!("blocks {blocks} take {}, but {} of memory are free", bytes(needed), bytes(free));
                return Err(PortError::new(FaultKind::Capacity, text));
            }
            tokio::time::sleep(LOOK).await;
        }
        backends::blocks(&self.model, blocks).await
    }

    fn fits_beside(&self, blocks: BlockRange) -> bool {
        let needed = self.share.bytes(blocks.len()).saturating_add(RESERVE);
        self.in_memory() && free_memory().is_ok_and(|free| free >= needed)
    }
}

/// Blocks that this process computes with too.
pub(super) struct InUse(pub(super) Arc<dyn BlockEngine>);

#[async_trait]
impl Loader for InUse {
    async fn load(&self, _: BlockRange) -> Result<Arc<dyn BlockEngine>, PortError> {
        Ok(self.0.clone())
    }

    fn fits_beside(&self, _: BlockRange) -> bool {
        false
    }
}
