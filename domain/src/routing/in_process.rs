//! A swarm of one: the block engine of this very process. The generation path does not know the difference.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    model::{BlockRange, Hidden, Hop, ModelId, PeerId, ServerFacts, ServerInfo, SwarmMap},
    ports::{BlockEngine, BlockSession, FaultKind, PortError, RemoteSwarm, SessionNeed, StepInput},
};

/// Serves one model's blocks from an engine in this process.
pub struct InProcessSwarm {
    model: ModelId,
    engine: Arc<dyn BlockEngine>,
}

impl InProcessSwarm {
    /// A swarm whose only server is `engine`.
    #[must_use]
    pub fn new(model: ModelId, engine: Arc<dyn BlockEngine>) -> Self {
        Self { model, engine }
    }

    /// The name of the only server.
    #[must_use]
    pub fn peer() -> PeerId {
        "in-process".into()
    }

    /// What the only server has to offer: no way leads there, and it is faster than others say they are.
    #[must_use]
    pub fn offer(blocks: BlockRange, free_tokens: usize) -> ServerInfo {
        ServerInfo {
            peer: Self::peer(),
            blocks,
            rps: 1000.0,
            rtt: Some(Duration::ZERO),
            next: Vec::new(),
            pushes: false,
            free_tokens: Some(free_tokens),
            facts: ServerFacts::default(),
        }
    }
}

#[async_trait]
impl RemoteSwarm for InProcessSwarm {
    async fn map(&self, model: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        if *model != self.model {
            let text = format!("this process hosts {}, not {model}", self.model);
            return Err(PortError::new(FaultKind::NotFound, text));
        }
        Ok(Arc::new(vec![Self::offer(self.engine.hosted(), self.engine.free_tokens())].into()))
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if hop.peer != Self::peer() {
            return Err(PortError::new(FaultKind::Unavailable, format!("{} is not in this process", hop.peer)));
        }
        self.engine.open(hop.blocks, need).await
    }

    async fn forward(&self, hop: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        let need = SessionNeed { max_length: hidden.seq(), batch: hidden.batch() };
        self.dial(hop, need).await?.step(StepInput::from(hidden)).await
    }
}
