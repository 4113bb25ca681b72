//! The hops of a route joined into one block session, which outlives the servers it runs on.
//!
//! Each leg remembers the inputs it was given. When its server dies, stalls or answers nonsense, the peer is banned for
//! a while, another is found for the same blocks (or several, each for a part of them), the history is replayed there,
//! and the step goes on.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Bans, plan};
use crate::{
    model::{BlockRange, Hidden, Hop, ModelId, PeerId},
    ports::{BlockSession, FaultKind, PortError, RemoteSwarm, SessionNeed, StepInput},
};

/// Positions that are replayed in one step.
const REPLAY_CHUNK: usize = 128;

struct Leg {
    blocks: BlockRange,
    /// `None` before the first step and after a failure.
    link: Option<Link>,
    /// What these blocks were fed: joined along the positions, the chain's confirmed positions.
    inputs: Vec<Hidden>,
}

struct Link {
    peer: PeerId,
    session: Box<dyn BlockSession>,
}

/// A block session over a run of blocks of a model, wherever they are. Contacts nobody before its first step.
pub struct Chain {
    swarm: Arc<dyn RemoteSwarm>,
    bans: Arc<Bans>,
    model: ModelId,
    blocks: BlockRange,
    need: SessionNeed,
    legs: Vec<Leg>,
    position: usize,
}

impl Chain {
    /// A chain through `blocks` of `model`; `bans` is shared by all chains over the same swarm.
    #[must_use]
    pub fn new(
        swarm: Arc<dyn RemoteSwarm>,
        bans: Arc<Bans>,
        model: ModelId,
        blocks: BlockRange,
        need: SessionNeed,
    ) -> Self {
        let legs = vec![Leg { blocks, link: None, inputs: Vec::new() }];
        Self { swarm, bans, model, blocks, need, legs, position: 0 }
    }

    /// The servers in use, in the order of the blocks.
    #[must_use]
    pub fn route(&self) -> Vec<Hop> {
        let hop = |leg: &Leg| leg.link.as_ref().map(|link| Hop { peer: link.peer.clone(), blocks: leg.blocks });
        self.legs.iter().filter_map(hop).collect()
    }

    /// Finds a server for the first blocks of leg `at` and replays the leg's history there. Where the server has only
    /// a part of the leg's blocks, the rest becomes a leg of its own. `failed` are peers not to be tried again.
    async fn connect(&mut self, at: usize, failed: &mut HashSet<PeerId>) -> Result<(), PortError> {
        let mut last_fault = None;
        loop {
            let hop = self.first_hop(self.legs[at].blocks, failed, last_fault.as_ref()).await?;
            match self.open(at, &hop).await {
                Ok((session, outputs)) => {
                    let leg = &mut self.legs[at];
                    let rest = BlockRange::new(hop.blocks.end(), leg.blocks.end());
                    leg.blocks = hop.blocks;
                    leg.link = Some(Link { peer: hop.peer, session });
                    if let Some(blocks) = rest {
                        self.legs.insert(at + 1, Leg { blocks, link: None, inputs: outputs });
                    }
                    return Ok(());
                }
                Err(fault) if is_peers_fault(&fault) || fault.kind() == FaultKind::Capacity => {
                    if is_peers_fault(&fault) {
                        self.bans.strike(&hop.peer, Instant::now());
                    }
                    tracing::warn!(%hop, error = %fault, "a server cannot take over; looking for another");
                    failed.insert(hop.peer);
                    last_fault = Some(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// The first hop of the best route through `blocks`. Banned peers are used only where there is no way without.
    async fn first_hop(
        &self,
        blocks: BlockRange,
        failed: &HashSet<PeerId>,
        last_fault: Option<&PortError>,
    ) -> Result<Hop, PortError> {
        let map = self.swarm.map(&self.model).await?;
        let (tokens, now) = (self.need.max_length * self.need.batch, Instant::now());
        let route = plan(&map, blocks, tokens, |peer| failed.contains(peer) || self.bans.banned(peer, now))
            .or_else(|_| plan(&map, blocks, tokens, |peer| failed.contains(peer)));
        match (route, last_fault) {
            (Ok(hops), _) => hops.into_iter().next().ok_or_else(|| PortError::internal("a route without hops")),
            (Err(_), Some(fault)) => Err(fault.clone()),
            (Err(no_route), None) => {
                let missing: Vec<String> = no_route.missing.iter().map(ToString::to_string).collect();
                let text = format!("no server hosts blocks {} of {}", missing.join(", "), self.model);
                Err(PortError::new(FaultKind::Unavailable, text))
            }
        }
    }

    /// Dials `hop` and feeds it the history of leg `at`; returns the session and what came out of it.
    async fn open(&self, at: usize, hop: &Hop) -> Result<(Box<dyn BlockSession>, Vec<Hidden>), PortError> {
        let mut session = self.swarm.dial(hop.clone(), self.need).await?;
        let mut outputs = Vec::new();
        if self.position > 0 {
            let history = Hidden::concat(&self.legs[at].inputs)?;
            for start in (0..history.seq()).step_by(REPLAY_CHUNK) {
                let piece = history.positions(start, history.seq().min(start + REPLAY_CHUNK))?;
                outputs.push(step_checked(&mut *session, piece).await?);
            }
        }
        Ok((session, outputs))
    }
}

#[async_trait]
impl BlockSession for Chain {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        let seq = input.hidden.seq();
        let mut state = input.hidden;
        let mut fed = Vec::with_capacity(self.legs.len());
        let mut failed = HashSet::new();
        while fed.len() < self.legs.len() {
            let at = fed.len();
            let Some(link) = &mut self.legs[at].link else {
                self.connect(at, &mut failed).await?;
                continue;
            };
            match step_from(link, self.position, state.clone()).await {
                Ok(next) => {
                    self.bans.clear(&link.peer);
                    fed.push(std::mem::replace(&mut state, next));
                }
                Err(fault) if is_peers_fault(&fault) => {
                    tracing::warn!(peer = %link.peer, error = %fault, "a server failed; looking for another");
                    self.bans.strike(&link.peer, Instant::now());
                    failed.insert(link.peer.clone());
                    self.legs[at].link = None;
                }
                Err(fault) => return Err(fault),
            }
        }
        for (leg, input) in self.legs.iter_mut().zip(fed) {
            leg.inputs.push(input);
        }
        self.position += seq;
        Ok(state)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        if to > self.position {
            return Err(PortError::invalid(format!("cannot rewind from position {} to {to}", self.position)));
        }
        for leg in &mut self.legs {
            Hidden::truncate(&mut leg.inputs, to)?;
        }
        self.position = to; // the servers follow with their next step
        Ok(())
    }
}

/// Steps a server, after it has forgotten what the chain has forgotten (a rewind, or a step that was dropped half-way).
async fn step_from(link: &mut Link, position: usize, input: Hidden) -> Result<Hidden, PortError> {
    if link.session.position() > position {
        link.session.rewind(position).await?;
    }
    step_checked(&mut *link.session, input).await
}

/// Steps a server and believes its answer only if it has the shape of the question.
async fn step_checked(session: &mut dyn BlockSession, hidden: Hidden) -> Result<Hidden, PortError> {
    let shape = |h: &Hidden| (h.batch(), h.seq(), h.width());
    let asked = shape(&hidden);
    let output = session.step(StepInput { hidden }).await?;
    if shape(&output) == asked {
        return Ok(output);
    }
    let text = format!("a server answered with shape {:?} to {asked:?}", shape(&output));
    Err(PortError::new(FaultKind::Unavailable, text))
}

/// Faults that another server may not have.
fn is_peers_fault(fault: &PortError) -> bool {
    matches!(fault.kind(), FaultKind::Unavailable | FaultKind::TimedOut)
}

#[cfg(test)]
mod tests;
