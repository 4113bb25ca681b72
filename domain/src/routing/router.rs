//! Who is asked for a run of blocks, one server after the other, until somebody does it or time is up.

use std::{collections::HashSet, future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{Bans, InProcessSwarm, NoRoute, plan};
use crate::{
    model::{BlockRange, Hop, ModelId, PeerId, SwarmMap, blocks_in_words},
    ports::{FaultKind, PortError, RemoteSwarm},
};

/// The first wait where everybody who has the blocks has failed; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a chain waits for the servers of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a step waits for somebody to come back where everybody who has the blocks has failed. When it is over,
    /// everybody is asked a last time.
    pub without_route: Duration,
    /// A server is given up before its own time-out where others have its blocks, and it takes longer than this and
    /// than ten times what it usually takes.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { without_route: Duration::from_secs(30), stall: Duration::from_secs(5) }
    }
}

/// Finds servers for runs of blocks of one model.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) swarm: Arc<dyn RemoteSwarm>,
    pub(super) bans: Arc<Bans>,
    pub(super) model: ModelId,
    pub(super) patience: Patience,
}

/// What one step has been through so far.
pub(super) struct Attempt {
    begun: Instant,
    /// Peers not to be asked again before the next wait.
    failed: HashSet<PeerId>,
    last_fault: Option<PortError>,
    /// What this process said since the last wait, where its cache had no room for a session.
    full_here: Option<PortError>,
    /// Whether some fault since the last wait may pass by itself.
    passing: bool,
    wait: Duration,
    /// When the latest wait was over, from `begun` on.
    asked: Duration,
}

impl Attempt {
    pub(super) fn new() -> Self {
        let (begun, failed) = (Instant::now(), HashSet::new());
        let (last_fault, full_here) = (None, None);
        Self { begun, failed, last_fault, full_here, passing: false, wait: FIRST_WAIT, asked: Duration::ZERO }
    }

    /// A peer that failed may be asked again at once.
    pub(super) fn forgive(&mut self, peer: &PeerId) {
        self.failed.remove(peer);
    }
}

impl Router {
    /// The first hop of the best route through `blocks`, with room for `tokens`. Banned peers are asked only where there
    /// is no way without, and those that failed in this attempt only after a wait.
    pub(super) async fn next_hop(
        &self,
        blocks: BlockRange,
        tokens: usize,
        attempt: &mut Attempt,
    ) -> Result<Hop, PortError> {
        loop {
            let map = self.swarm.map(&self.model).await?;
            let now = Instant::now();
            let route = plan(&map, blocks, tokens, |peer| attempt.failed.contains(peer) || self.bans.banned(peer, now))
                .or_else(|_| plan(&map, blocks, tokens, |peer| attempt.failed.contains(peer)));
            match route {
                Ok(hops) => {
                    return hops.into_iter().next().ok_or_else(|| PortError::internal("a route without hops"));
                }
                Err(no_route) => self.wait(&map, &no_route, attempt).await?,
            }
        }
    }

    /// Waits for servers to recover, where that may help and there is time.
    async fn wait(&self, map: &SwarmMap, no_route: &NoRoute, attempt: &mut Attempt) -> Result<(), PortError> {
        let waited = attempt.begun.elapsed();
        if let Some(fault) = attempt.full_here.take_if(|_| here(map, no_route)) {
            return Err(fault); // the caller may make room at once; others may take long to come back
        }
        match &attempt.last_fault {
            None => Err(map.no_host(&self.missing(no_route))),
            // Whoever was asked is full; where nobody could be asked, the map has dropped somebody who may come back.
            Some(fault) if !attempt.passing && !attempt.failed.is_empty() => Err(fault.clone()),
            Some(fault) if attempt.asked >= self.patience.without_route => {
                let (blocks, waited) = (self.missing(no_route), waited.as_secs_f64());
                let unseen =
                    map.fault.as_ref().map_or(String::new(), |unseen| format!("; others are not known: {unseen}"));
                let text = format!("no server that hosts {blocks} answers (waited {waited:.1} s): {fault}{unseen}");
                Err(PortError::new(FaultKind::Unavailable, text).with_source(fault.clone()))
            }
            Some(fault) => {
                // The last wait ends with the patience: everybody is asked once more then, whoever has used it up.
                let wait = attempt.wait.min(self.patience.without_route.saturating_sub(waited));
                tracing::info!(model = %self.model, error = %fault, ?wait, "no route; waiting for a server");
                sleep(wait).await;
                attempt.wait = (2 * attempt.wait).min(LONGEST_WAIT);
                attempt.asked = attempt.begun.elapsed();
                attempt.failed.clear();
                (attempt.passing, attempt.full_here) = (false, None);
                Ok(())
            }
        }
    }

    fn missing(&self, no_route: &NoRoute) -> String {
        format!("blocks {} of {}", blocks_in_words(&no_route.missing), self.model)
    }

    /// Waits for a server's answer, but no longer than `limit` where others could do its work.
    pub(super) async fn patiently<T>(
        &self,
        hop: &Hop,
        limit: Option<Duration>,
        attempt: &Attempt,
        answer: impl Future<Output = Result<T, PortError>>,
    ) -> Result<T, PortError> {
        let mut answer = pin!(answer);
        let Some(limit) = limit else { return answer.await };
        loop {
            if let Ok(outcome) = timeout(limit, &mut answer).await {
                return outcome;
            }
            if self.has_others(hop, attempt).await {
                let text = format!("{} has not answered for {:.1} s", hop.peer, limit.as_secs_f64());
                return Err(PortError::new(FaultKind::TimedOut, text));
            }
        }
    }

    /// Whether the blocks of `hop` can be had without its peer.
    async fn has_others(&self, hop: &Hop, attempt: &Attempt) -> bool {
        let Ok(map) = self.swarm.map(&self.model).await else { return false };
        let now = Instant::now();
        let avoid = |peer: &PeerId| *peer == hop.peer || attempt.failed.contains(peer) || self.bans.banned(peer, now);
        plan(&map, hop.blocks, 0, avoid).is_ok()
    }

    /// Notes that `peer` failed, if another peer may do better; otherwise passes the fault on.
    pub(super) fn failed(&self, peer: &PeerId, fault: PortError, attempt: &mut Attempt) -> Result<(), PortError> {
        match fault.kind() {
            FaultKind::Unavailable | FaultKind::TimedOut => {
                self.bans.strike(peer, Instant::now());
                attempt.passing = true;
            }
            FaultKind::Capacity if *peer == InProcessSwarm::peer() => attempt.full_here = Some(fault.clone()),
            FaultKind::Capacity => {}
            _ => return Err(fault),
        }
        attempt.failed.insert(peer.clone());
        attempt.last_fault = Some(fault);
        Ok(())
    }
}

/// Whether some of the missing blocks are in this process.
fn here(map: &SwarmMap, no_route: &NoRoute) -> bool {
    let own = map.servers.iter().filter(|server| server.peer == InProcessSwarm::peer());
    own.map(|server| server.blocks).any(|own| no_route.missing.iter().any(|b| own.start() <= *b && *b < own.end()))
}
