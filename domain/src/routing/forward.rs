//! Hidden states through the blocks once, without a KV cache anywhere.

use std::sync::Arc;

use super::{
    Bans,
    chain::check_answer,
    router::{Attempt, Patience, Router},
};
use crate::{
    model::{BlockRange, Hidden, ModelId},
    ports::{PortError, RemoteSwarm},
};

/// Rows times positions that are sent at once: every server takes as many.
const MOST_TOKENS: usize = 1024;

/// A way through blocks of a model for whoever needs their output once: to score a text, or to embed it. Outlives the
/// servers it runs on like a [`Chain`](super::Chain), only that there is nothing to replay.
pub struct Forward {
    router: Router,
    blocks: BlockRange,
}

impl Forward {
    /// A way through `blocks` of `model`; `bans` is shared with the chains over the same swarm.
    #[must_use]
    pub fn new(swarm: Arc<dyn RemoteSwarm>, bans: Arc<Bans>, model: ModelId, blocks: BlockRange) -> Self {
        Self { router: Router { swarm, bans, model, patience: Patience::default() }, blocks }
    }

    /// With other limits on how long it waits.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.router.patience = patience;
        self
    }

    /// What leaves the last block, same shape. Rows are computed a few at a time.
    ///
    /// # Errors
    /// As for a step of a chain.
    pub async fn run(&self, hidden: &Hidden) -> Result<Hidden, PortError> {
        let rows = (MOST_TOKENS / hidden.seq()).clamp(1, hidden.batch());
        let mut outputs = Vec::new();
        for start in (0..hidden.batch()).step_by(rows) {
            let part = hidden.rows(start, hidden.batch().min(start + rows))?;
            outputs.push(self.through(part).await?);
        }
        Hidden::stack(&outputs)
    }

    async fn through(&self, mut state: Hidden) -> Result<Hidden, PortError> {
        let shape = (state.batch(), state.seq(), state.width());
        let mut attempt = Attempt::new();
        let mut left = Some(self.blocks);
        while let Some(blocks) = left {
            let hop = self.router.next_hop(blocks, 0, &mut attempt).await?;
            let answer = self.router.swarm.forward(hop.clone(), state.clone()).await;
            match answer.and_then(|output| check_answer(&output, shape).map(|()| output)) {
                Ok(output) => {
                    self.router.bans.clear(&hop.peer);
                    state = output;
                    left = BlockRange::new(hop.blocks.end(), blocks.end());
                }
                Err(fault) => {
                    tracing::warn!(%hop, error = %fault, "a server failed; looking for another");
                    self.router.failed(&hop.peer, fault, &mut attempt)?;
                }
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Hop, ServerFacts, ServerInfo, SwarmMap},
        ports::{FaultKind, MockRemoteSwarm},
    };

    fn swarm(servers: &[(&str, usize, usize)], answer: fn(&Hop, &Hidden) -> Result<Hidden, PortError>) -> Forward {
        let server = |(peer, start, end): &(&str, usize, usize)| ServerInfo {
            peer: (*peer).into(),
            blocks: BlockRange::new(*start, *end).unwrap(),
            rps: 1.0,
            rtt: None,
            next: Vec::new(),
            pushes: false,
            free_tokens: Some(0),
            facts: ServerFacts::default(),
        };
        let map = Arc::new(SwarmMap::from(servers.iter().map(server).collect::<Vec<_>>()));
        let mut swarm = MockRemoteSwarm::new();
        swarm.expect_map().returning(move |_| Ok(map.clone()));
        swarm.expect_forward().returning(move |hop, hidden| answer(&hop, &hidden));
        let (swarm, bans) = (Arc::new(swarm), Arc::<Bans>::default());
        Forward::new(swarm, bans, "m".into(), BlockRange::first(4))
    }

    /// Every block adds 1, in as many messages as a server is asked for.
    fn count(hop: &Hop, hidden: &Hidden) -> Result<Hidden, PortError> {
        assert!(hidden.batch() * hidden.seq() <= MOST_TOKENS);
        let values: Vec<f32> = hidden.to_f32().into_iter().map(|v| v + hop.blocks.len() as f32).collect();
        Hidden::from_f32((hidden.batch(), hidden.seq(), hidden.width()), &values)
    }

    #[tokio::test(start_paused = true)]
    async fn rows_go_through_all_blocks_a_few_at_a_time() {
        let values: Vec<f32> = (0..5 * 300 * 2).map(|i| i as f32).collect();
        let hidden = Hidden::from_f32((5, 300, 2), &values).unwrap();
        let output = swarm(&[("a", 0, 3), ("b", 3, 4)], count).run(&hidden).await.unwrap();
        assert_eq!(output.to_f32(), values.iter().map(|v| v + 4.0).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_replaced() {
        let flaky = |hop: &Hop, hidden: &Hidden| match hop.peer.0.as_str() {
            "dead" => Err(PortError::new(FaultKind::Unavailable, "gone")),
            "mad" => Hidden::from_f32((1, 1, 2), &[f32::NAN, 0.0]),
            "short" => Hidden::from_f32((1, 1, 1), &[0.0]),
            _ => count(hop, hidden),
        };
        let hidden = Hidden::from_f32((1, 1, 2), &[1.0, 2.0]).unwrap();
        let servers = [("dead", 0, 4), ("mad", 0, 4), ("short", 2, 4), ("a", 0, 3), ("b", 1, 4)];
        assert_eq!(swarm(&servers, flaky).run(&hidden).await.unwrap().to_f32(), [5.0, 6.0]);
        let fault = swarm(&[("dead", 0, 4), ("mad", 2, 4)], flaky).run(&hidden).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Unavailable);
        assert!(fault.context().contains("blocks 0, 1 of m"), "{fault}");
    }
}
