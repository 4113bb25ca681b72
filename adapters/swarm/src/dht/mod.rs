//! The hivemind DHT (wire protocol §3): [`Dht`] is a client, which looks keys up and serves nobody; [`DhtNode`] a member,
//! which also answers, keeps records for others and publishes its own.
//!
//! Everything a peer says is bounded before it is kept: nodes and calls of a search by `search`, records by
//! `merge`, time by deadlines. A record that cannot be read costs that record; a reply that cannot be read costs
//! that peer a place on the blacklist.

mod blacklist;
mod merge;
mod message;
mod node;
mod search;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use corolla_domain::ports::{FaultKind, PortError};
use futures_util::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;
use tokio::time::{Instant, timeout_at};

pub use self::node::{DhtNode, Record};
use self::{
    blacklist::Blacklist,
    merge::Merged,
    message::Answer,
    search::{Bounds, Call, Search},
};
use crate::{
    rpc::Rpc,
    wire::{key::DhtId, record::Dictionary},
};

/// Keys of one lookup.
const MOST_KEYS: usize = 1024;
/// Nodes that answered and are asked first next time.
const MOST_KNOWN: usize = 256;

/// Limits of a [`Dht`].
#[derive(Debug, Clone, Copy)]
pub struct DhtLimits {
    /// How long one peer may take to answer, including the way to it.
    pub wait: Duration,
    /// How long the initial peers may take to answer the first time.
    pub join: Duration,
    /// How long one lookup may take; what has been found by then is the result.
    pub lookup: Duration,
    /// Peers asked at once.
    pub parallel: usize,
    /// How far an initial peer's clock may be from ours.
    pub skew: Duration,
}

impl Default for DhtLimits {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { wait: s(5), join: s(10), lookup: s(20), parallel: 16, skew: s(3) }
    }
}

/// Unary calls to peers: the only thing the DHT needs from the network.
#[async_trait]
pub(crate) trait Unary: Send + Sync {
    /// One request, one reply.
    async fn unary(&self, peer: PeerId, method: &str, request: Bytes, wait: Duration) -> Result<Bytes, PortError>;
}

#[async_trait]
impl Unary for Rpc {
    async fn unary(&self, peer: PeerId, method: &str, request: Bytes, wait: Duration) -> Result<Bytes, PortError> {
        Rpc::unary(self, peer, method, request, wait).await
    }
}

#[derive(Default)]
struct State {
    blacklist: Blacklist,
    /// Nodes that answered lately, and initial peers that ever did: nobody else can take their places.
    known: HashMap<PeerId, DhtId>,
}

/// Who a full member of the DHT is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    peer: PeerId,
    place: DhtId,
}

/// What a search came to.
struct Outcome<'a> {
    found: Merged<'a>,
    /// For each key the nodes near it that answered, nearest first.
    nearest: Vec<Vec<PeerId>>,
}

/// Looks things up in a hivemind DHT.
pub struct Dht {
    network: Arc<dyn Unary>,
    initial: Vec<PeerId>,
    limits: DhtLimits,
    clock: fn() -> f64,
    /// Who is asking; `None` for who only asks.
    me: Option<Member>,
    state: Mutex<State>,
}

impl Dht {
    /// A client of the DHT that the `initial` peers belong to. Contacts nobody before the first lookup.
    #[must_use]
    pub fn new(rpc: Rpc, initial: Vec<PeerId>, limits: DhtLimits) -> Self {
        Self::over(Arc::new(rpc), initial, limits, unix_time)
    }

    pub(crate) fn over(network: Arc<dyn Unary>, initial: Vec<PeerId>, limits: DhtLimits, clock: fn() -> f64) -> Self {
        Self::over_as(network, initial, limits, clock, None)
    }

    fn over_as(
        network: Arc<dyn Unary>,
        initial: Vec<PeerId>,
        limits: DhtLimits,
        clock: fn() -> f64,
        me: Option<Member>,
    ) -> Self {
        Self { network, initial, limits, clock, me, state: Mutex::default() }
    }

    /// The dictionaries stored under `keys`, merged over the nodes nearest to each: of two records with the same
    /// subkey the one that expires later counts, unless its value is not `sound`. A key that nobody knows has an empty
    /// dictionary.
    ///
    /// # Errors
    /// `InvalidInput` for too many keys; `Unavailable` or `TimedOut` where no peer answers at all.
    pub async fn get_many(
        &self,
        keys: &[String],
        sound: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<BTreeMap<String, Dictionary>, PortError> {
        if keys.len() > MOST_KEYS {
            return Err(PortError::invalid(format!("{} keys in one lookup of at most {MOST_KEYS}", keys.len())));
        }
        let ids: Vec<DhtId> = keys.iter().map(|key| DhtId::of_key(key)).collect();
        let mut seeds = self.seeds();
        if seeds.is_empty() {
            seeds = self.join().await?;
        }
        let found = match self.search(&ids, seeds, sound).await {
            Some(outcome) => outcome.found,
            None => match self.search(&ids, self.join().await?, sound).await {
                Some(outcome) => outcome.found,
                None => return Err(PortError::new(FaultKind::TimedOut, "no peer of the DHT answers a lookup")),
            },
        };
        Ok(keys.iter().cloned().zip(found.into_dictionaries()).collect())
    }

    /// Nodes that answered before.
    fn seeds(&self) -> Vec<(PeerId, DhtId)> {
        let (state, now) = (self.state(), Instant::now());
        state.known.iter().filter(|(p, _)| !state.blacklist.holds(p, now)).map(|(p, id)| (*p, *id)).collect()
    }

    /// Asks all initial peers who they are and what time it is.
    async fn join(&self) -> Result<Vec<(PeerId, DhtId)>, PortError> {
        let deadline = Instant::now() + self.limits.join;
        let mut pings: FuturesUnordered<_> = self.initial.iter().map(|peer| self.ping(*peer)).collect();
        let mut grace = deadline;
        let (mut joined, mut last) = (Vec::new(), None);
        while let Ok(Some((peer, outcome))) = timeout_at(grace, pings.next()).await {
            match outcome {
                Ok(id) => {
                    self.keep(peer, id);
                    joined.push((peer, id));
                    grace = deadline.min(Instant::now() + Duration::from_secs(3)); // the rest may hurry up
                }
                Err(fault) => {
                    tracing::debug!(%peer, error = %fault, "an initial peer cannot be used");
                    last = Some(fault);
                }
            }
        }
        match (joined.is_empty(), last) {
            (false, _) => Ok(joined),
            (true, Some(fault)) => {
                let text = format!("none of {} initial peers can be used: {fault}", self.initial.len());
                Err(PortError::new(FaultKind::Unavailable, text).with_source(fault))
            }
            (true, None) => Err(PortError::new(FaultKind::TimedOut, "no initial peer answers")),
        }
    }

    async fn ping(&self, peer: PeerId) -> (PeerId, Result<DhtId, PortError>) {
        let begun = (self.clock)();
        let reply =
            self.network.unary(peer, message::PING, message::ping_request(self.place(), true), self.limits.join).await;
        let ended = (self.clock)();
        (peer, reply.and_then(|reply| self.check_ping(reply, begun, ended)))
    }

    fn check_ping(&self, reply: Bytes, begun: f64, ended: f64) -> Result<DhtId, PortError> {
        let (id, time) = message::ping_reply(reply)?;
        let skew = self.limits.skew.as_secs_f64();
        if time >= begun - skew && time <= ended + skew {
            return Ok(id);
        }
        let text = format!("its clock is {:+.1} s off this machine's", time - ended);
        Err(PortError::new(FaultKind::Unavailable, text))
    }

    /// `None` where nobody answered.
    async fn search<'a>(
        &self,
        ids: &[DhtId],
        seeds: Vec<(PeerId, DhtId)>,
        sound: &'a (dyn Fn(&[u8]) -> bool + Sync),
    ) -> Option<Outcome<'a>> {
        let deadline = Instant::now() + self.limits.lookup;
        let mut search = Search::new(Bounds::default(), ids, seeds);
        let mut merged = Merged::new(ids.len(), (self.clock)(), sound);
        let mut calls = FuturesUnordered::new();
        let mut answers = 0;
        loop {
            while calls.len() < self.limits.parallel
                && let Some(call) = search.next()
            {
                calls.push(self.find(call, ids));
            }
            let Ok(Some((call, answer))) = timeout_at(deadline, calls.next()).await else { break };
            match answer {
                Ok(answer) => {
                    answers += 1;
                    let node = answer.node;
                    let now = Instant::now();
                    let me = self.me.map(|me| me.peer);
                    let neighbours: Vec<_> = {
                        let mut state = self.state();
                        state.blacklist.clear(&call.peer);
                        let asked = |p: &PeerId| Some(*p) != me && !state.blacklist.holds(p, now);
                        answer.neighbours.into_iter().filter(|(p, _)| asked(p)).collect()
                    };
                    if let Some(id) = node {
                        self.keep(call.peer, id);
                    }
                    search.answered(&call, neighbours);
                    for (key, dictionary) in call.keys.iter().zip(answer.results) {
                        if let Some(dictionary) = dictionary {
                            merged.offer(call.peer, *key, &dictionary);
                        }
                    }
                }
                Err(fault) => {
                    tracing::debug!(peer = %call.peer, error = %fault, "a DHT peer failed");
                    let mut state = self.state();
                    if !self.initial.contains(&call.peer) {
                        state.known.remove(&call.peer);
                    }
                    state.blacklist.strike(call.peer, Instant::now());
                    drop(state);
                    search.failed(&call);
                }
            }
        }
        (answers > 0).then(|| Outcome { found: merged, nearest: search.nearest() })
    }

    async fn find(&self, call: Call, ids: &[DhtId]) -> (Call, Result<Answer, PortError>) {
        let keys: Vec<DhtId> = call.keys.iter().map(|k| ids[*k]).collect();
        let request = message::find_request(&keys, self.place());
        let wait = self.limits.wait;
        let reply = match tokio::time::timeout(wait, self.network.unary(call.peer, message::FIND, request, wait)).await
        {
            Ok(reply) => reply,
            Err(_) => Err(PortError::new(FaultKind::TimedOut, format!("{} did not answer", call.peer))),
        };
        let answer = reply.and_then(|reply| message::find_reply(reply, keys.len()));
        (call, answer)
    }

    fn place(&self) -> Option<DhtId> {
        self.me.map(|me| me.place)
    }

    /// Remembers a node that answered.
    fn keep(&self, peer: PeerId, id: DhtId) {
        let mut state = self.state();
        if state.known.len() < MOST_KNOWN || state.known.contains_key(&peer) || self.initial.contains(&peer) {
            state.known.insert(peer, id);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
