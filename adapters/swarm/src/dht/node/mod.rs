//! A full member of a hivemind DHT (wire protocol §3): answers its three methods, keeps records for others, and
//! publishes its own.

mod answer;
mod storage;
mod table;
mod upload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::ports::{FaultKind, PortError};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use libp2p::PeerId;
use tokio::{
    task::AbortHandle,
    time::{Instant, interval, timeout},
};

use self::{
    storage::{Place, Storage},
    table::Table,
};
use super::{Dht, DhtLimits, Member, message, unix_time};
use crate::{
    rpc::{Rpc, ServeLimits, Service, serve_unary},
    transport::Conduct,
    wire::{
        key::DhtId,
        proto::{self, StoreRequest, StoreResponse},
        record::{Dictionary, Entry},
    },
};

/// Nodes that keep a record.
const REPLICAS: usize = 5;
/// Records in one request.
const RECORDS: usize = 64;
/// Rounds in which nodes that did not answer are replaced by the next ones.
const ROUNDS: usize = 3;
/// How often some nodes are asked whether they still live, how many, and how long they must not have been heard of.
const CARE: Duration = Duration::from_secs(15);
const CARED_FOR: usize = 8;
const STALE: Duration = Duration::from_secs(60);

/// One record to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key, as text.
    pub key: String,
    /// Which entry of the key's dictionary it is.
    pub subkey: String,
    /// The value in msgpack.
    pub value: Bytes,
}

/// A node. Dropping it ends its services.
pub struct DhtNode {
    shared: Arc<Shared>,
    _services: Vec<Service>,
    care: AbortHandle,
}

/// What the handlers share.
struct Shared {
    dht: Dht,
    conduct: Conduct,
    member: Member,
    state: Mutex<State>,
}

struct State {
    storage: Storage,
    table: Table,
}

impl DhtNode {
    /// A node on the host of `rpc`, at a place of its own. It answers from now on; [`join`](Self::join) makes it known.
    /// One that is not `reachable` answers those who know it, but offers nobody to keep records: it is a client of the DHT.
    ///
    /// # Errors
    /// `Conflict` where the host has a node already.
    pub async fn start(rpc: Rpc, initial: Vec<PeerId>, reachable: bool) -> Result<Self, PortError> {
        let host = rpc.host().clone();
        let member = Member { peer: host.peer_id(), place: DhtId::of_bytes(&PeerId::random().to_bytes()) };
        let dht = Dht::over_as(Arc::new(rpc), initial, DhtLimits::default(), unix_time, reachable.then_some(member));
        let state = State { storage: Storage::default(), table: Table::new(member.place) };
        let shared = Arc::new(Shared { dht, conduct: host.conduct().clone(), member, state: Mutex::new(state) });
        let limits = ServeLimits::default();
        let ping = shared.clone();
        let store = shared.clone();
        let find = shared.clone();
        let services = vec![
            serve_unary(&host, message::PING, limits, move |peer, request| {
                let shared = ping.clone();
                Box::pin(async move { shared.ping(peer, request).await })
            })
            .await?,
            serve_unary(&host, message::STORE, limits, move |peer, request| {
                let shared = store.clone();
                Box::pin(async move { shared.store(peer, request) })
            })
            .await?,
            serve_unary(&host, message::FIND, limits, move |peer, request| {
                let shared = find.clone();
                Box::pin(async move { shared.find(peer, request) })
            })
            .await?,
        ];
        let care = tokio::spawn(shared.clone().care()).abort_handle();
        Ok(Self { shared, _services: services, care })
    }

    /// Makes the node known to the swarm of its initial peers, of which at least one must answer.
    ///
    /// # Errors
    /// `Unavailable` or `TimedOut` where none does.
    pub async fn join(&self) -> Result<(), PortError> {
        let shared = &self.shared;
        let joined = shared.dht.join().await?;
        shared.dht.search(&[shared.member.place], joined, &|_| true).await;
        Ok(())
    }

    /// Publishes records until `expiration` (seconds since 1970): keeps them here and offers each to the nearest nodes.
    ///
    /// # Errors
    /// `Unavailable` where there are other nodes and none took any of them, be it that they refused all.
    pub async fn publish(&self, records: &[Record], expiration: f64) -> Result<(), PortError> {
        self.shared.publish(records, expiration).await
    }

    /// What other nodes keep under `keys`, see [`Dht::get_many`].
    ///
    /// # Errors
    /// As there.
    pub async fn get_many(
        &self,
        keys: &[String],
        sound: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<BTreeMap<String, Dictionary>, PortError> {
        self.shared.dht.get_many(keys, sound).await
    }

    /// How many bits a second go from here to the initial peer that takes most: it is sent pings of half a MiB more
    /// than they need. What comes the other way is not measured; a network at home is slower outwards.
    ///
    /// # Errors
    /// `Unavailable` or `TimedOut` where no initial peer answers.
    pub async fn upload(&self) -> Result<f64, PortError> {
        upload::measure(&self.shared.dht).await
    }
}

impl Drop for DhtNode {
    fn drop(&mut self) {
        self.care.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nodes to begin a search at.
    async fn seeds(&self) -> Vec<(PeerId, DhtId)> {
        let near = self.state().table.nearest(&self.member.place, 2 * REPLICAS, None);
        let mut seeds: BTreeMap<PeerId, DhtId> = self.dht.seeds().into_iter().chain(near).collect();
        if seeds.is_empty() && !self.dht.initial.is_empty() {
            match self.dht.join().await {
                Ok(joined) => seeds.extend(joined),
                Err(error) => tracing::debug!(%error, "the initial peers of the DHT do not answer"),
            }
        }
        seeds.into_iter().collect()
    }

    async fn publish(&self, records: &[Record], expiration: f64) -> Result<(), PortError> {
        let now = unix_time();
        let ids: Vec<DhtId> = records.iter().map(|record| DhtId::of_key(&record.key)).collect();
        {
            let mut state = self.state();
            for (record, id) in records.iter().zip(&ids) {
                let entry = Entry { value: record.value.clone(), expiration };
                let place = Place::Subkey(record.subkey.clone());
                state.storage.store(self.member.peer, *id, &place, &entry, now);
            }
        }
        let mut keys: Vec<DhtId> = ids.clone();
        keys.sort_unstable();
        keys.dedup();
        let alone = self.dht.initial.is_empty();
        let Some(outcome) = self.dht.search(&keys, self.seeds().await, &|_| true).await else {
            let none = PortError::new(FaultKind::Unavailable, "no node of the DHT answers");
            return if alone { Ok(()) } else { Err(none) };
        };
        let mut candidates: BTreeMap<DhtId, Vec<PeerId>> = keys.iter().copied().zip(outcome.nearest).collect();
        let mut acknowledged: BTreeMap<DhtId, BTreeSet<PeerId>> = BTreeMap::new();
        let mut taken = 0;
        for _ in 0..ROUNDS {
            let mut shares: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
            for (nth, id) in ids.iter().enumerate() {
                let missing = REPLICAS - acknowledged.get(id).map_or(0, BTreeSet::len).min(REPLICAS);
                for peer in candidates[id].iter().take(missing) {
                    shares.entry(*peer).or_default().push(nth);
                }
            }
            for (id, candidates) in &mut candidates {
                let missing = REPLICAS - acknowledged.get(id).map_or(0, BTreeSet::len).min(REPLICAS);
                candidates.drain(..missing.min(candidates.len()));
            }
            if shares.is_empty() {
                break;
            }
            let mut offers: FuturesUnordered<_> = shares
                .iter()
                .flat_map(|(peer, share)| share.chunks(RECORDS).map(move |some| (*peer, some)))
                .map(|(peer, some)| self.offer(peer, some, (records, &ids), expiration))
                .collect();
            while let Some((peer, some, outcome)) = offers.next().await {
                match outcome {
                    Ok(count) => {
                        taken += count;
                        for nth in some {
                            acknowledged.entry(ids[*nth]).or_default().insert(peer);
                        }
                    }
                    Err(error) => tracing::debug!(%peer, %error, "a node took no record"),
                }
            }
        }
        if taken > 0 || alone {
            return Ok(());
        }
        let why = if acknowledged.is_empty() {
            "no node of the DHT took a record"
        } else {
            "every node of the DHT that was asked refused the records: it has later ones, or no room"
        };
        Err(PortError::new(FaultKind::Unavailable, why))
    }

    /// Offers some records to one node, and says how many it took. One that refuses is there nevertheless: others are not
    /// asked in its place.
    async fn offer<'a>(
        &self,
        peer: PeerId,
        some: &'a [usize],
        (records, ids): (&[Record], &[DhtId]),
        expiration: f64,
    ) -> (PeerId, &'a [usize], Result<usize, PortError>) {
        let entry = |nth: &usize| (ids[*nth], &records[*nth].subkey, &records[*nth].value);
        let request = message::store_request(some.iter().map(entry), expiration, self.dht.place());
        let wait = self.dht.limits.wait;
        let reply = timeout(wait, self.dht.network.unary(peer, message::STORE, request, wait)).await;
        let reply = reply.unwrap_or_else(|_| Err(PortError::new(FaultKind::TimedOut, "it did not answer")));
        let outcome = reply.and_then(|reply| {
            let reply: StoreResponse = proto::decode(reply)?;
            let taken = reply.store_ok.iter().take(some.len()).filter(|ok| **ok).count();
            if taken < some.len() {
                tracing::debug!(%peer, refused = some.len() - taken, "a node has later records, or no room");
            }
            Ok(taken)
        });
        (peer, some, outcome)
    }

    /// Asks nodes that were not heard of for a while whether they live, for ever.
    async fn care(self: Arc<Self>) {
        let mut ticks = interval(CARE);
        loop {
            ticks.tick().await;
            let Some(before) = Instant::now().checked_sub(STALE) else { continue };
            let stale = self.state().table.stale(before, CARED_FOR);
            let mut pings: FuturesUnordered<_> = stale.iter().map(|peer| self.call_back(*peer)).collect();
            while let Some((peer, id)) = pings.next().await {
                let mut state = self.state();
                match id {
                    Some(id) => state.table.heard(peer, id, Instant::now()),
                    None => state.table.remove(&peer),
                }
            }
        }
    }
}

impl std::fmt::Debug for DhtNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DhtNode").field("place", &self.shared.member.place).finish_non_exhaustive()
    }
}

/// One entry of a store request.
type Offered = (DhtId, Place, Entry);

/// Reads a store request: its lists must be of one length.
fn offered(request: StoreRequest) -> Result<Vec<Option<Offered>>, String> {
    let count = request.keys.len();
    let lists = [request.subkeys.len(), request.values.len(), request.expiration_time.len(), request.in_cache.len()];
    if lists.iter().any(|length| *length != count) {
        return Err("AssertionError('keys, subkeys, values, expirations and in_cache must be of one length')".into());
    }
    let parts = request.keys.into_iter().zip(request.subkeys).zip(request.values).zip(request.expiration_time);
    Ok(parts
        .map(|(((key, tag), value), expiration)| {
            Some((DhtId::from_wire(&key).ok()?, Place::read(&tag)?, Entry { value, expiration }))
        })
        .collect())
}
