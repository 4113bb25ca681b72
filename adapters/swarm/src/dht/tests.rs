//! Lookups in an in-memory network on a paused clock.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use super::*;
use crate::wire::{
    proto::{self, FindRequest, FindResponse, FindResult, NodeInfo, PingResponse, ResultType},
    record::Entry,
};

const NOW: f64 = 1_700_000_000.0;

fn now() -> f64 {
    NOW
}

/// How a node behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Never answers.
    Silent,
    /// Answers one result too few.
    Short,
    /// Answers bytes that are nothing.
    Rubbish,
    /// Names new neighbours for ever, none of which exists.
    Endless,
    /// Its clock is a minute off.
    Late,
}

struct Node {
    peer: PeerId,
    id: DhtId,
    manner: Manner,
    store: HashMap<DhtId, Dictionary>,
}

/// Every node knows every node; `find` names the 20 nearest to the key.
#[derive(Default)]
struct Network {
    nodes: Vec<Node>,
    calls: AtomicUsize,
    asked: Mutex<HashSet<PeerId>>,
}

impl Network {
    fn add(&mut self, manner: Manner) -> PeerId {
        let peer = PeerId::random();
        let id = DhtId::of_bytes(&peer.to_bytes());
        self.nodes.push(Node { peer, id, manner, store: HashMap::new() });
        peer
    }

    /// Stores an entry at the `replicas` nearest nodes.
    fn store(&mut self, key: &str, subkey: &str, value: &'static [u8], expiration: f64, replicas: usize) {
        let id = DhtId::of_key(key);
        let mut nearest: Vec<&mut Node> = self.nodes.iter_mut().collect();
        nearest.sort_by_key(|node| node.id.distance(&id));
        for node in nearest.into_iter().take(replicas) {
            let entry = Entry { value: Bytes::from_static(value), expiration };
            node.store.entry(id).or_default().entries.insert(subkey.to_owned(), entry);
        }
    }

    fn result(&self, node: &Node, key: DhtId) -> FindResult {
        let mut others: Vec<(PeerId, DhtId)> = if node.manner == Manner::Endless {
            let near = |nth: u8| std::array::from_fn(|i| if i == 19 { key.0[i] ^ nth } else { key.0[i] });
            (0..20).map(|nth| (PeerId::random(), DhtId(near(nth)))).collect()
        } else {
            self.nodes.iter().filter(|other| other.peer != node.peer).map(|other| (other.peer, other.id)).collect()
        };
        others.sort_by_key(|(_, id)| id.distance(&key));
        others.truncate(20);
        let found = node.store.get(&key);
        FindResult {
            r#type: if found.is_some() { ResultType::Dictionary } else { ResultType::NotFound }.into(),
            value: found.map(|dictionary| dictionary.encode().into()).unwrap_or_default(),
            expiration_time: NOW + 100.0,
            nearest_node_ids: others.iter().map(|(_, id)| Bytes::copy_from_slice(&id.0)).collect(),
            nearest_peer_ids: others.iter().map(|(peer, _)| peer.to_bytes().into()).collect(),
        }
    }
}

#[async_trait]
impl Unary for Network {
    async fn unary(&self, peer: PeerId, method: &str, request: Bytes, wait: Duration) -> Result<Bytes, PortError> {
        self.calls.fetch_add(1, SeqCst);
        self.asked.lock().unwrap().insert(peer);
        let node = self.nodes.iter().find(|node| node.peer == peer);
        let Some(node) = node.filter(|node| node.manner != Manner::Silent) else {
            tokio::time::sleep(wait).await;
            return Err(PortError::new(FaultKind::TimedOut, "silence"));
        };
        tokio::time::sleep(Duration::from_millis(5)).await;
        let info = Some(NodeInfo { node_id: Bytes::copy_from_slice(&node.id.0) });
        if method == message::PING {
            let dht_time = if node.manner == Manner::Late { NOW - 60.0 } else { NOW };
            return Ok(proto::encode(&PingResponse { peer: info, dht_time, available: false }));
        }
        let request: FindRequest = proto::decode(request).unwrap();
        let mut results: Vec<FindResult> =
            request.keys.iter().map(|key| self.result(node, DhtId::from_wire(key).unwrap())).collect();
        match node.manner {
            Manner::Rubbish => return Ok(Bytes::from_static(b"\xff\xff\xff")),
            Manner::Short => drop(results.pop()),
            _ => {}
        }
        Ok(proto::encode(&FindResponse { results, peer: info }))
    }
}

fn client(network: Network, initial: &[PeerId]) -> (Dht, Arc<Network>) {
    let network = Arc::new(network);
    (Dht::over(network.clone(), initial.to_vec(), DhtLimits::default(), now), network)
}

fn any(_: &[u8]) -> bool {
    true
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("model.{i}")).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_are_found_wherever_they_are() {
    let mut network = Network::default();
    let first = network.add(Manner::Honest);
    for _ in 0..80 {
        network.add(Manner::Honest);
    }
    for key in keys(24) {
        network.store(&key, "server", b"here", NOW + 60.0, 5);
    }
    let (dht, network) = client(network, &[first]);
    let found = dht.get_many(&keys(25), &any).await.unwrap();
    assert!(keys(24).iter().all(|key| found[key].entries["server"].value == b"here"[..]));
    assert_eq!(found["model.24"], Dictionary::default(), "a key nobody knows");
    assert!(network.calls.load(SeqCst) < 512);
}

#[tokio::test(start_paused = true)]
async fn dictionaries_of_several_nodes_are_merged_by_latest_expiration() {
    let mut network = Network::default();
    let peers: Vec<PeerId> = (0..3).map(|_| network.add(Manner::Honest)).collect();
    network.store("model.0", "a", b"old", NOW + 10.0, 3);
    network.store("model.0", "a", b"new", NOW + 20.0, 1);
    network.store("model.0", "b", b"b", NOW + 5.0, 2);
    network.store("model.0", "c", b"expired", NOW - 1.0, 3);
    let (dht, _) = client(network, &peers[..1]);
    let found = dht.get_many(&keys(1), &any).await.unwrap();
    let values: Vec<_> = found["model.0"].entries.iter().map(|(k, e)| (k.as_str(), &e.value[..])).collect();
    assert_eq!(values, [("a", &b"new"[..]), ("b", b"b")]);
}

#[tokio::test(start_paused = true)]
async fn broken_and_silent_nodes_cost_themselves_only() {
    let mut network = Network::default();
    let first = network.add(Manner::Honest);
    let bad = [Manner::Silent, Manner::Short, Manner::Rubbish];
    let bad: Vec<PeerId> = bad.into_iter().map(|manner| network.add(manner)).collect();
    for _ in 0..10 {
        network.add(Manner::Honest);
    }
    network.store("model.0", "server", b"here", NOW + 60.0, 14);
    let (dht, network) = client(network, &[first]);
    let begun = Instant::now();
    assert_eq!(dht.get_many(&keys(1), &any).await.unwrap()["model.0"].entries.len(), 1);
    assert!(begun.elapsed() <= DhtLimits::default().wait + Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(bad.iter().all(|peer| network.asked.lock().unwrap().contains(peer)));

    network.asked.lock().unwrap().clear();
    dht.get_many(&keys(1), &any).await.unwrap();
    assert!(!network.asked.lock().unwrap().contains(&bad[0]), "it failed a moment ago: it is on the blacklist");
}

#[tokio::test(start_paused = true)]
async fn endless_neighbours_cost_bounded_calls_and_time() {
    let mut network = Network::default();
    let hostile = network.add(Manner::Endless);
    let honest = network.add(Manner::Honest);
    network.store("model.7", "server", b"here", NOW + 60.0, 2);
    let (dht, network) = client(network, &[hostile, honest]);
    let begun = Instant::now();
    let found = dht.get_many(&keys(64), &any).await.unwrap();
    assert_eq!(found["model.7"].entries.len(), 1);
    assert!(network.calls.load(SeqCst) <= 520, "{} calls", network.calls.load(SeqCst));
    assert!(begun.elapsed() <= Duration::from_secs(31), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_initial_peer_with_another_clock_is_not_used() {
    let mut network = Network::default();
    let late = network.add(Manner::Late);
    let (dht, _) = client(network, &[late]);
    let fault = dht.get_many(&keys(1), &any).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert!(fault.context().contains("-60.0 s off"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_a_typed_error_within_the_deadline() {
    let mut network = Network::default();
    let peers = [network.add(Manner::Silent), network.add(Manner::Silent)];
    let (dht, _) = client(network, &peers);
    let begun = Instant::now();
    let fault = dht.get_many(&keys(1), &any).await.unwrap_err();
    assert!(matches!(fault.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{fault}");
    assert!(begun.elapsed() <= Duration::from_secs(11));
    assert_eq!(dht.get_many(&keys(MOST_KEYS + 1), &any).await.unwrap_err().kind(), FaultKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn strangers_never_take_the_place_of_an_initial_peer() {
    let mut network = Network::default();
    let first = network.add(Manner::Silent);
    let (dht, _) = client(network, &[first]);
    let place = |peer: &PeerId| DhtId::of_bytes(&peer.to_bytes());
    for _ in 0..2 * MOST_KNOWN {
        let stranger = PeerId::random();
        dht.keep(stranger, place(&stranger));
    }
    assert_eq!(dht.seeds().len(), MOST_KNOWN);
    dht.keep(first, place(&first));
    assert!(dht.search(&[DhtId::of_key("model.0")], vec![(first, place(&first))], &any).await.is_none());
    assert!(!dht.seeds().iter().any(|(peer, _)| *peer == first), "it failed a moment ago");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(dht.seeds().iter().any(|(peer, _)| *peer == first), "it is asked again");
}
