//! The hops of a route joined into one block session, which outlives the servers it runs on.
//!
//! Each leg remembers the inputs it was given. When its server dies, stalls or answers nonsense, the peer is banned for
//! a while, another is found for the same blocks (or several, each for a part of them), the history is replayed there,
//! and the step goes on.

mod link;

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use tokio::time::Instant;

pub(super) use self::link::check_answer;
use self::link::{Link, step_checked};
use super::{
    Bans,
    pace::Pace,
    router::{Attempt, Patience, Router},
};
use crate::{
    model::{BlockRange, Failover, Hidden, Hop, HopReport, ModelId, RouteReport},
    ports::{
        BlockSession, Event, FaultKind, Observer, PortError, Relay, RemoteSwarm, SessionNeed, StepInput, Unobserved,
    },
};

/// Positions that are replayed in one step.
const REPLAY_CHUNK: usize = 128;
/// Failovers that are remembered for the report.
const REMEMBERED: usize = 32;

struct Leg {
    blocks: BlockRange,
    /// `None` before the first step and after a failure.
    link: Option<Link>,
    /// What these blocks were fed: joined along the positions, the chain's confirmed positions.
    inputs: Vec<Hidden>,
}

/// A server that was given up in the current step.
struct Loss {
    hop: Hop,
    why: String,
    since: Instant,
}

/// A block session over a run of blocks of a model, wherever they are. Contacts nobody before its first step.
pub struct Chain {
    router: Router,
    blocks: BlockRange,
    need: SessionNeed,
    legs: Vec<Leg>,
    position: usize,
    /// Steps begun so far: their names.
    steps: u64,
    losses: Vec<Loss>,
    failovers: VecDeque<Failover>,
    failed_over: usize,
    observer: Arc<dyn Observer>,
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
        let router = Router { swarm, bans, model, patience: Patience::default() };
        let legs = vec![Leg { blocks, link: None, inputs: Vec::new() }];
        let (losses, failovers) = (Vec::new(), VecDeque::new());
        let observer = Arc::new(Unobserved);
        Self { router, blocks, need, legs, position: 0, steps: 0, losses, failovers, failed_over: 0, observer }
    }

    /// With other limits on how long it waits.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.router.patience = patience;
        self
    }

    /// With somebody who hears of its steps and failovers.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// The servers in use, in the order of the blocks.
    #[must_use]
    pub fn route(&self) -> Vec<Hop> {
        let hop = |leg: &Leg| leg.link.as_ref().map(|link| Hop { peer: link.peer.clone(), blocks: leg.blocks });
        self.legs.iter().filter_map(hop).collect()
    }

    /// Finds a server for the first blocks of leg `at` and replays the leg's history there. Where the server has only
    /// a part of the leg's blocks, the rest becomes a leg of its own.
    async fn connect(&mut self, at: usize, attempt: &mut Attempt) -> Result<(), PortError> {
        let tokens = self.need.max_length * self.need.batch;
        loop {
            let hop = self.router.next_hop(self.legs[at].blocks, tokens, attempt).await?;
            match self.open(at, &hop, attempt).await {
                Ok((session, outputs)) => {
                    let leg = &mut self.legs[at];
                    let rest = BlockRange::new(hop.blocks.end(), leg.blocks.end());
                    leg.blocks = hop.blocks;
                    let (pace, awaiting_push, left) = (Pace::default(), false, false);
                    leg.link = Some(Link { peer: hop.peer, session, pace, awaiting_push, left, opened: self.steps });
                    if let Some(blocks) = rest {
                        self.legs.insert(at + 1, Leg { blocks, link: None, inputs: outputs });
                    }
                    return Ok(());
                }
                Err(fault) => {
                    tracing::warn!(%hop, error = %fault, "a server cannot take over; looking for another");
                    self.router.failed(&hop.peer, fault, attempt)?;
                }
            }
        }
    }

    /// Dials `hop` and feeds it the history of leg `at`; returns the session and what came out of it.
    async fn open(
        &self,
        at: usize,
        hop: &Hop,
        attempt: &Attempt,
    ) -> Result<(Box<dyn BlockSession>, Vec<Hidden>), PortError> {
        let dialling = self.router.swarm.dial(hop.clone(), self.need);
        let mut session = self.router.patiently(hop, Some(2 * self.router.patience.stall), attempt, dialling).await?;
        let mut outputs = Vec::new();
        if self.position > 0 {
            let history = Hidden::concat(&self.legs[at].inputs)?;
            for start in (0..history.seq()).step_by(REPLAY_CHUNK) {
                let piece = history.positions(start, history.seq().min(start + REPLAY_CHUNK))?;
                outputs.push(step_checked(&mut *session, StepInput::from(piece)).await?);
            }
        }
        Ok((session, outputs))
    }

    /// Gives up the server of leg `at`, and every later session that it may have pushed something to.
    fn lose(&mut self, at: usize, since: Instant, fault: PortError, attempt: &mut Attempt) -> Result<(), PortError> {
        let Some(link) = self.legs[at].link.take() else { return Err(fault) };
        let hop = Hop { peer: link.peer.clone(), blocks: self.legs[at].blocks };
        let (why, kind) = (fault.to_string(), fault.kind());
        match self.router.failed(&link.peer, fault, attempt) {
            Ok(()) => {
                if link.opened < self.steps && kind == FaultKind::Unavailable {
                    attempt.forgive(&link.peer); // perhaps only the session is gone: where nobody else is, it opens another
                }
                tracing::warn!(%hop, error = %why, "a server failed; looking for another");
                self.losses.push(Loss { hop, why, since });
                self.forget_pushed();
                Ok(())
            }
            Err(fault) => {
                self.legs[at].link = Some(link);
                Err(fault)
            }
        }
    }

    /// Drops the sessions whose cache may hold more than the chain knows.
    fn forget_pushed(&mut self) {
        for leg in &mut self.legs {
            leg.link.take_if(|link| link.awaiting_push);
        }
    }

    /// The current step as the server of leg `at` is told of it: its name, and the sessions its output is for.
    fn relay(&mut self, at: usize) -> Option<Relay> {
        self.legs[at].link.as_ref()?.session.inbox()?;
        let mut next = Vec::new();
        for leg in &mut self.legs[at + 1..] {
            let Some(link) = &mut leg.link else { break };
            let Some(inbox) = link.session.inbox().filter(|_| link.session.position() == self.position) else { break };
            link.awaiting_push = true;
            next.push(inbox);
        }
        Some(Relay { step: self.steps, next })
    }

    /// Notes the failovers of a step that has come through.
    fn note_failovers(&mut self) {
        let route = if self.losses.is_empty() { Vec::new() } else { self.route() };
        for Loss { hop, why, since } in self.losses.drain(..) {
            let shares =
                |other: &&Hop| other.blocks.start() < hop.blocks.end() && hop.blocks.start() < other.blocks.end();
            let by = route.iter().filter(shares).cloned().collect();
            if self.failovers.len() == REMEMBERED {
                self.failovers.pop_front();
            }
            let failover = Failover { position: self.position, lost: hop, why, pause: since.elapsed(), by };
            self.observer.observe(&Event::FailedOver { model: &self.router.model, failover: &failover });
            self.failovers.push_back(failover);
            self.failed_over += 1;
        }
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
        if self.position.saturating_add(seq) > self.need.max_length {
            let text = format!("{seq} positions after {} are more than {}", self.position, self.need.max_length);
            return Err(PortError::new(FaultKind::Capacity, text));
        }
        self.forget_pushed(); // of a step that was dropped half-way
        self.steps += 1;
        let mut state = input.hidden;
        let mut fed = Vec::with_capacity(self.legs.len());
        let mut attempt = Attempt::new();
        while fed.len() < self.legs.len() {
            let at = fed.len();
            let relay = self.relay(at);
            let leg = &mut self.legs[at];
            let Some(link) = &mut leg.link else {
                self.connect(at, &mut attempt).await?;
                continue;
            };
            let (hop, begun) = (Hop { peer: link.peer.clone(), blocks: leg.blocks }, Instant::now());
            let costs = link.costs(self.position, seq);
            let stalled = link.pace.stalled(costs, self.router.patience.stall);
            link.left = true;
            let stepping = link.step(self.position, StepInput { hidden: state.clone(), relay });
            match self.router.patiently(&hop, stalled, &attempt, stepping).await {
                Ok(next) => {
                    let took = begun.elapsed();
                    link.pace.note(costs, took);
                    self.observer.observe(&Event::Step { model: &self.router.model, hop: &hop, took });
                    (link.awaiting_push, link.left) = (false, false);
                    self.router.bans.clear(&link.peer);
                    fed.push(std::mem::replace(&mut state, next));
                }
                Err(fault) => self.lose(at, begun, fault, &mut attempt)?,
            }
        }
        self.note_failovers();
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

    /// Only where one server has all blocks: of several, one might have forked when the next one cannot.
    async fn fork(&mut self, to: usize, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if to > self.position {
            return Err(PortError::invalid(format!(
                "cannot fork at position {to}, the session is at {}",
                self.position
            )));
        }
        let [Leg { link: Some(link), inputs, .. }] = &mut self.legs[..] else {
            let text = "a session that is spread over servers, or has none yet, cannot be forked";
            return Err(PortError::new(FaultKind::Unsupported, text));
        };
        let link = link.fork(to, need).await?;
        let mut inputs = inputs.clone();
        Hidden::truncate(&mut inputs, to)?;
        let (blocks, losses, failovers) = (self.blocks, Vec::new(), VecDeque::new());
        let (router, observer) = (self.router.clone(), self.observer.clone());
        let legs = vec![Leg { blocks, link: Some(link), inputs }];
        let (position, steps, failed_over) = (to, 0, 0);
        Ok(Box::new(Self { router, blocks, need, legs, position, steps, losses, failovers, failed_over, observer }))
    }

    fn report(&self) -> RouteReport {
        let report = |leg: &Leg| {
            let link = leg.link.as_ref()?;
            Some(HopReport { hop: Hop { peer: link.peer.clone(), blocks: leg.blocks }, latest: link.pace.latest })
        };
        RouteReport {
            hops: self.legs.iter().filter_map(report).collect(),
            failovers: self.failovers.iter().cloned().collect(),
            failed_over: self.failed_over,
        }
    }
}

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod joined_tests;
#[cfg(test)]
mod tests;
