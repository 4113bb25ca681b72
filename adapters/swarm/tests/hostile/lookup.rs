//! Nodes of the DHT that misuse `rpc_ping` and `rpc_find`: what the honest node knows is found nevertheless.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use corolla_domain::{model::ElementType, ports::FaultKind};
use corolla_swarm::{
    dht::{Dht, DhtLimits},
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, PeerId},
    wire::{
        msgpack::{EXT_DICTIONARY, Value},
        proto::{self, FindResponse, FindResult, PingResponse, ResultType},
        record::{Dictionary, Entry},
        server::{ServerRecord, ServerState, block_key},
    },
};

use crate::{
    MIB,
    act::{Act, Misdeed, delay, misdeed, unary},
    alone, cost,
    fake::{BLOCKS, Fake, PREFIX},
    villain::{Scripts, Villain, announcement, node, now},
};

/// Within this ends what does not wait for anything, on a busy machine too.
const LONG: Duration = Duration::from_secs(20);

/// A frame with one thing changed in each result.
fn with(change: impl Fn(&mut FindResult) + Send + Sync + 'static) -> impl Fn(FindResponse) -> Act + Send + Sync {
    move |mut found| {
        found.results.iter_mut().for_each(&change);
        Act::Say(unary(proto::encode(&found)))
    }
}

/// A dictionary of this msgpack in place of its list of entries.
fn listing(list: &[u8]) -> Bytes {
    let head = [&[0x93][..], &Value::Float(f64::INFINITY).encode(), &Value::Float(now()).encode()].concat();
    Value::Ext(EXT_DICTIONARY, [&head[..], list].concat().into()).encode().into()
}

fn dictionary(entries: impl IntoIterator<Item = (String, Bytes, f64)>) -> Bytes {
    let entry = |(subkey, value, expiration)| (subkey, Entry { value, expiration });
    Dictionary { entries: entries.into_iter().map(entry).collect(), broken: 0 }.encode().into()
}

fn valued(dictionary: Bytes) -> impl Fn(FindResponse) -> Act + Send + Sync {
    with(move |result| (result.r#type, result.value) = (ResultType::Dictionary.into(), dictionary.clone()))
}

fn near(peers: impl Fn() -> Vec<Bytes> + Send + Sync + 'static) -> impl Fn(FindResponse) -> Act + Send + Sync {
    with(move |result| {
        result.nearest_peer_ids = peers();
        result.nearest_node_ids = (0..result.nearest_peer_ids.len()).map(|nth| vec![nth as u8; 20].into()).collect();
    })
}

fn strangers(count: usize) -> Vec<Bytes> {
    (0..count).map(|_| PeerId::random().to_bytes().into()).collect()
}

fn bombs() -> Vec<Misdeed<FindResponse>> {
    let (soon, record) = (now() + 100.0, || Bytes::from(announcement().encode()));
    let peers = |count: usize| (0..count).map(|_| PeerId::random().to_base58());
    let huge = ServerRecord { adapters: vec!["x".repeat(250); 900], ..announcement() };
    let many = [&[0xdd, 0, 3, 0, 0][..], &[0xc0; 0x30000]].concat();
    let nested = [&[0x91].repeat(200_000)[..], &[0xc0]].concat();
    vec![
        misdeed("2^32-1 entries", "", valued(listing(&[0xdd, 0xff, 0xff, 0xff, 0xff]))),
        misdeed("200,000 entries of nothing", "", valued(listing(&many))),
        misdeed("lists inside each other", "", valued(listing(&nested))),
        misdeed("no dictionary", "", valued(Bytes::from_static(&[0xc0]))),
        misdeed("2500 servers", "", valued(dictionary(peers(2500).map(|peer| (peer, record(), soon))))),
        misdeed("a subkey of 900 KB", "", valued(dictionary([("x".repeat(900_000), record(), soon)]))),
        misdeed("values of 250 KB", "", valued(dictionary(peers(4).map(|peer| (peer, huge.encode().into(), soon))))),
        misdeed("values of 900 KB", "", valued(dictionary([("x".into(), vec![0xc0; 900_000].into(), soon)]))),
        misdeed("values that are nothing", "", valued(dictionary(peers(1000).map(|peer| (peer, Bytes::new(), soon))))),
    ]
}

fn neighbours() -> Vec<Misdeed<FindResponse>> {
    vec![
        misdeed("thousands of neighbours", "", near(|| strangers(5000))),
        misdeed("neighbours nobody can reach", "", near(|| strangers(20))),
        misdeed("neighbours without names", "", near(|| vec![Bytes::from_static(b"nobody"); 100])),
        misdeed(
            "neighbours without places",
            "",
            with(|result| {
                result.nearest_peer_ids = strangers(20);
                result.nearest_node_ids = vec![Bytes::from_static(b"nowhere"); 20];
            }),
        ),
        misdeed("no result", "", |found| Act::Say(unary(proto::encode(&FindResponse { results: vec![], ..found })))),
        misdeed("ten thousand results", "", |_| Act::Say(unary([0x12, 0].repeat(10_000)))),
        misdeed("results of an unknown kind", "", with(|result| result.r#type = 77)),
        misdeed("bytes that are no reply", "", |_| Act::Say(unary(vec![0xff; 1000]))),
        misdeed("a length without an end", "", |_| Act::Endless(Bytes::new(), vec![0xff; 65536].into())),
        misdeed("an end without a word", "", |_| Act::End(Bytes::new())),
        misdeed("a break without a word", "", |_| Act::Break(Bytes::new())),
    ]
}

fn delays() -> Vec<Misdeed<FindResponse>> {
    vec![
        delay("silence", |_| Act::Say(Bytes::new())),
        delay("a drip", |found| Act::Drip(unary(proto::encode(&found)), Duration::from_millis(50))),
    ]
}

/// A villain, an honest node, and a client that knows both.
struct Nodes {
    villain: Villain,
    honest: Fake,
    rpc: Rpc,
}

impl Nodes {
    async fn new() -> Self {
        let (villain, honest) = (Villain::start().await, Fake::start(ElementType::F32).await);
        let host = Host::start(HostConfig::default()).await.unwrap();
        for peer in [&villain.host, &honest.host] {
            host.add_address(peer.peer_id(), peer.listen_addresses()[0].clone()).await;
            host.connect(peer.peer_id()).await.unwrap();
        }
        Self { villain, honest, rpc: Rpc::new(host, RpcLimits::default()) }
    }

    /// What a lookup finds of the honest server; both nodes are asked, and may take `wait` to answer.
    async fn look_up(&self, wait: Duration) -> Vec<ServerRecord> {
        let limits = DhtLimits { wait, join: wait, lookup: 2 * wait, ..DhtLimits::default() };
        let initial = vec![self.villain.host.peer_id(), self.honest.host.peer_id()];
        let keys: Vec<String> = (0..BLOCKS).map(|block| block_key(PREFIX, block)).collect();
        let dht = Dht::new(self.rpc.clone(), initial, limits);
        let found = dht.get_many(&keys, &|value| ServerRecord::decode(value).is_ok()).await.unwrap();
        let name = self.honest.host.peer_id().to_base58();
        let known = found.values().filter_map(|dictionary| dictionary.entries.get(&name));
        known.map(|entry| ServerRecord::decode(&entry.value).unwrap()).collect()
    }

    async fn try_all(&self, misdeeds: Vec<Misdeed<FindResponse>>, memory: usize) {
        for Misdeed { name, script, kind, .. } in misdeeds {
            let wait = if kind == FaultKind::TimedOut { Duration::from_millis(900) } else { LONG };
            self.villain.set(Scripts { find: Some(script), ..Scripts::default() });
            self.villain.asked.store(0, SeqCst);
            let (found, time, peak) = cost(self.look_up(wait)).await;
            println!("{name}: {time:?}, {} KiB", peak / 1024);
            assert_eq!(found.len(), BLOCKS, "{name}: the honest server is not found");
            assert!(time < LONG && peak < memory, "{name}: {time:?}, {peak} bytes");
            assert!((1..100).contains(&self.villain.asked.load(SeqCst)), "{name}: asked {:?}", self.villain.asked);
        }
    }
}

#[tokio::test]
async fn dictionary_bombs() {
    let _alone = alone().await;
    Nodes::new().await.try_all(bombs(), 48 * MIB).await;
}

#[tokio::test]
async fn neighbours_and_frames_that_lie() {
    let _alone = alone().await;
    Nodes::new().await.try_all(neighbours(), 24 * MIB).await;
}

#[tokio::test]
async fn nodes_that_take_for_ever() {
    let _alone = alone().await;
    Nodes::new().await.try_all(delays(), 8 * MIB).await;
}

#[tokio::test]
async fn a_search_that_leads_to_the_client_itself_ends() {
    let _alone = alone().await;
    let nodes = Nodes::new().await;
    let me = Bytes::from(nodes.rpc.host().peer_id().to_bytes());
    nodes.try_all(vec![misdeed("the client itself", "", near(move || vec![me.clone(); 20]))], 8 * MIB).await;
}

#[tokio::test]
async fn nodes_that_lead_to_each_other_are_asked_once() {
    let _alone = alone().await;
    let (nodes, second) = (Nodes::new().await, Villain::start().await);
    let peers = [nodes.villain.host.peer_id(), second.host.peer_id()].map(|peer| Bytes::from(peer.to_bytes()));
    let host = nodes.rpc.host();
    host.add_address(second.host.peer_id(), second.host.listen_addresses()[0].clone()).await;
    second.set(Scripts {
        find: Some(std::sync::Arc::new(near({
            let peers = peers.clone();
            move || peers.to_vec()
        }))),
        ..Scripts::default()
    });
    nodes.try_all(vec![misdeed("each other", "", near(move || peers.to_vec()))], 8 * MIB).await;
    assert_eq!((nodes.villain.asked.load(SeqCst), second.asked.load(SeqCst)), (1, 1));
}

#[tokio::test]
async fn false_records_with_long_lives_displace_nobody() {
    let _alone = alone().await;
    let nodes = Nodes::new().await;
    let name = nodes.honest.host.peer_id().to_base58();
    let offline = ServerRecord::new(ServerState::Offline, 0.0);
    for expiration in [now() + 1e6, 1e18, f64::MAX, f64::INFINITY, f64::NAN, -1.0, now() - 1.0] {
        let false_record = dictionary([(name.clone(), offline.encode().into(), expiration)]);
        nodes.try_all(vec![misdeed("a false record", "", valued(false_record))], 8 * MIB).await;
        assert!(nodes.look_up(LONG).await.iter().all(|record| record.state == ServerState::Online), "{expiration}");
    }
}

#[tokio::test]
async fn nodes_that_misuse_the_ping() {
    let _alone = alone().await;
    let nodes = Nodes::new().await;
    let pong = |dht_time: f64| proto::encode(&PingResponse { peer: Some(node()), dht_time, available: false });
    let mut acts: Vec<Act> = [f64::NAN, f64::INFINITY, 0.0, 1e300].map(|time| Act::Say(unary(pong(time)))).to_vec();
    acts.push(Act::Say(unary(proto::encode(&PingResponse { dht_time: now(), ..PingResponse::default() }))));
    acts.push(Act::Say(unary(vec![0xff; 100])));
    acts.push(Act::Endless(Bytes::new(), vec![0xff; 65536].into()));
    acts.push(Act::Break(Bytes::new()));
    acts.push(Act::Drip(unary(pong(now())), Duration::from_millis(50)));
    for act in acts {
        let wait = if matches!(act, Act::Drip(..)) { Duration::from_millis(900) } else { LONG };
        let ping = std::sync::Arc::new(move |_| act.clone());
        nodes.villain.set(Scripts { ping: Some(ping), ..Scripts::default() });
        let (found, time, peak) = cost(nodes.look_up(wait)).await;
        assert_eq!(found.len(), BLOCKS);
        assert_eq!(nodes.villain.asked.load(SeqCst), 0, "it did not say who it is and what time it is");
        assert!(time < LONG && peak < 8 * MIB, "{time:?}, {peak} bytes");
    }
}
