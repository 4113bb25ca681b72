//! The task that looks at the swarm again and again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use corolla_domain::{
    model::{BlockRange, PeerId, SwarmMap},
    ports::PortError,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    config::PetalsConfig,
    pins,
    rtt::RoundTrips,
    view::{self, Seen},
};
use crate::{dht::Dht, transport::Host, wire::server::block_key};

/// Servers that are measured after one look.
const MOST_PINGS: usize = 24;
/// Pings of one measurement; the quickest counts, since whatever else ran only makes them slower.
const SAMPLES: usize = 3;
/// How long the measuring after one look may take; an answer after that counts as none.
const PINGING: Duration = Duration::from_secs(2);
/// The least time between two looks.
const BREATH: Duration = Duration::from_secs(1);
/// Time to the next look where blocks are missing.
const INCOMPLETE: Duration = Duration::from_secs(5);

/// What the latest look found. Before the first there is neither map nor fault.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) map: Option<Arc<SwarmMap>>,
    /// Why the latest look failed.
    pub(super) fault: Option<PortError>,
}

/// Looks at the swarm.
pub(super) struct Watcher {
    pub(super) config: PetalsConfig,
    pub(super) dht: Dht,
    pub(super) host: Host,
    pub(super) trips: Mutex<RoundTrips>,
    pub(super) stale: Arc<Notify>,
}

impl Watcher {
    /// Looks until the task is aborted, at least once a period and soon after somebody says that the map is stale.
    pub(super) async fn run(self: Arc<Self>, views: watch::Sender<View>) {
        let mut failures = 0u32;
        loop {
            let begun = Instant::now();
            let wait = match self.look(&views).await {
                Ok(complete) => {
                    failures = 0;
                    if complete { self.config.refresh } else { self.config.refresh.min(INCOMPLETE) }
                }
                Err(fault) => {
                    tracing::warn!(model = %self.config.model, error = %fault, "cannot look at the swarm");
                    views.send_modify(|view| view.fault = Some(fault));
                    failures = failures.saturating_add(1);
                    self.config.refresh.min(BREATH.saturating_mul(2u32.saturating_pow(failures)))
                }
            };
            let _ = timeout(wait, self.stale.notified()).await; // elapsed or told: look again
            sleep_until(begun + BREATH).await;
        }
    }

    /// Whether every block has a server.
    async fn look(&self, views: &watch::Sender<View>) -> Result<bool, PortError> {
        let keys: Vec<String> = (0..self.config.blocks).map(|i| block_key(&self.config.dht_prefix, i)).collect();
        let found = self.dht.get_many(&keys, &view::is_record).await?;
        let servers = view::servers(&found, &self.config.dht_prefix, self.config.blocks);
        let mut map = self.map(&servers);
        // Who waits for the first map gets one with round trips; afterwards nobody has to wait for them.
        if views.borrow().map.is_some() {
            views.send_replace(View { map: Some(map.clone()), fault: None });
        }
        self.measure(&map).await;
        map = self.map(&servers);
        let missing = map.missing(BlockRange::first(self.config.blocks));
        tracing::debug!(servers = map.servers.len(), ?missing, "looked at the swarm");
        views.send_replace(View { map: Some(map), fault: None });
        Ok(missing.is_empty())
    }

    /// The servers that may be used, with what is known of the ways to them.
    fn map(&self, servers: &[Seen]) -> Arc<SwarmMap> {
        let connected: HashMap<String, bool> =
            self.host.connected().into_iter().map(|(peer, relayed)| (peer.to_base58(), relayed)).collect();
        let (trips, now) = (self.trips(), Instant::now());
        let admitted = servers.iter().filter(|seen| self.config.admits(&seen.peer.0));
        let info = |seen: &Seen| seen.infos(trips.get(&seen.peer, now), connected.get(&seen.peer.0).copied());
        Arc::new(pins::pinned(admitted.flat_map(info), &self.config.pinned_servers))
    }

    /// Measures the round trips that are known the least.
    async fn measure(&self, map: &SwarmMap) {
        let peers: Vec<PeerId> = {
            let mut peers: Vec<PeerId> = map.servers.iter().map(|server| server.peer.clone()).collect();
            peers.dedup();
            let mut trips = self.trips();
            trips.retain(|peer| peers.contains(peer));
            trips.due(peers, MOST_PINGS)
        };
        let deadline = Instant::now() + PINGING;
        let mut pings: FuturesUnordered<_> = peers.iter().map(|peer| self.ping(peer)).collect();
        let mut silent: Vec<&PeerId> = peers.iter().collect();
        while let Ok(Some((peer, trip))) = timeout_at(deadline, pings.next()).await {
            self.trips().put(peer.clone(), trip, Instant::now());
            silent.retain(|other| *other != peer);
        }
        for peer in silent {
            self.trips().put(peer.clone(), None, Instant::now());
        }
    }

    async fn ping<'a>(&self, peer: &'a PeerId) -> (&'a PeerId, view::Ping) {
        let Ok(id) = peer.0.parse() else { return (peer, None) };
        let mut best = None;
        for _ in 0..SAMPLES {
            match self.host.ping(id).await {
                Ok(trip) => best = Some(best.map_or(trip, |best: Duration| best.min(trip))),
                Err(fault) => {
                    tracing::debug!(%peer, error = %fault, "no answer to a ping");
                    break;
                }
            }
        }
        (peer, best)
    }

    fn trips(&self) -> MutexGuard<'_, RoundTrips> {
        self.trips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
