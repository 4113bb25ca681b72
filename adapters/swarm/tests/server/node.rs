//! The DHT that nodes of ours make up: who joins is found, what is published is found everywhere, and goodbyes are heard.

use std::time::Duration;

use bytes::Bytes;
use corolla_domain::ports::{FaultKind, RemoteSwarm as _};
use corolla_swarm::{
    PetalsSwarm,
    dht::{Dht, DhtLimits, Record},
    rpc::{Rpc, RpcLimits},
    server::{BlockServer, Bootstrap, BootstrapConfig},
    transport::{Host, HostConfig},
    wire::{
        key::DhtId,
        msgpack::Value,
        proto::{self, FindRequest, FindResponse, PingRequest, PingResponse, StoreRequest, StoreResponse},
    },
};

use crate::{House, PREFIX, calls::WAIT, entrance, member, server};

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

async fn client(of: &Bootstrap) -> (Rpc, libp2p::PeerId) {
    let address: libp2p::Multiaddr = of.addresses()[0].parse().unwrap();
    let Some(libp2p::multiaddr::Protocol::P2p(peer)) = address.iter().last() else { panic!("{address}") };
    let host = Host::start(HostConfig { initial_peers: vec![address], ..HostConfig::default() }).await.unwrap();
    (Rpc::new(host, RpcLimits::default()), peer)
}

#[tokio::test]
async fn what_one_node_publishes_is_found_through_the_others() {
    let first = entrance(&[]).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(entrance(&first.addresses()).await.unwrap());
    }
    let record = |nth: usize| Record {
        key: format!("model.{nth}"),
        subkey: format!("peer-{nth}"),
        value: Bytes::from_static(b"\xa5hello"),
    };
    let records: Vec<Record> = (0..30).map(record).collect();
    others[2].node().publish(&records, now() + 60.0).await.unwrap();
    let publisher = others.remove(2);
    drop(publisher);
    let (rpc, peer) = client(&others[4]).await;
    let dht = Dht::new(rpc, vec![peer], DhtLimits::default());
    let keys: Vec<String> = records.iter().map(|record| record.key.clone()).collect();
    let found = dht.get_many(&keys, &|_| true).await.unwrap();
    for (nth, key) in keys.iter().enumerate() {
        assert_eq!(found[key].entries[&format!("peer-{nth}")].value, b"\xa5hello"[..], "{key}");
    }
}

#[tokio::test]
async fn a_node_alone_publishes_to_itself() {
    let alone = entrance(&[]).await.unwrap();
    let record = Record { key: "k".into(), subkey: "s".into(), value: Bytes::from_static(b"\x01") };
    alone.node().publish(&[record], now() + 60.0).await.unwrap();
    let (rpc, peer) = client(&alone).await;
    let found = Dht::new(rpc, vec![peer], DhtLimits::default()).get_many(&["k".into()], &|_| true).await.unwrap();
    assert_eq!(found["k"].entries.len(), 1);
}

/// A record that is longer than nodes keep: it is refused by all that are asked.
#[tokio::test]
async fn what_every_node_refuses_is_not_published() {
    let first = entrance(&[]).await.unwrap();
    let second = entrance(&first.addresses()).await.unwrap();
    let record = |bytes: usize| Record { key: "k".into(), subkey: "s".into(), value: vec![0; bytes].into() };
    let fault = second.node().publish(&[record(65 << 10)], now() + 60.0).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unavailable, "{fault}");
    assert!(fault.context().contains("refused the records"), "{fault}");
    second.node().publish(&[record(1), record(65 << 10)], now() + 60.0).await.unwrap();
}

#[tokio::test]
async fn servers_come_and_go_in_the_swarms_map() {
    let mut house = House::new(&[(0, 2), (2, 4)]).await;
    let swarm = PetalsSwarm::start(house.client()).await.unwrap();
    assert_eq!(swarm.map(&"toy".into()).await.unwrap().servers.len(), 2);
    house.servers.remove(1).shut_down(Duration::ZERO).await;
    // One that is still loading is known and not used.
    let joining = BlockServer::join(member(&house.bootstrap.addresses()), server((2, 4))).await.unwrap();
    let swarm = PetalsSwarm::start(house.client()).await.unwrap();
    let map = swarm.map(&"toy".into()).await.unwrap();
    assert_eq!(map.servers.len(), 1, "{map:?}");
    assert_eq!(map.servers[0].peer.0, house.servers[0].peer_id().to_base58());
    drop(joining);
}

#[tokio::test]
async fn what_cannot_be_entered_is_an_error() {
    let gone = entrance(&[]).await.unwrap();
    let addresses = gone.addresses();
    drop(gone);
    assert!(BlockServer::join(member(&addresses), server((0, 2))).await.is_err());
    assert!(BlockServer::join(member(&["/ip4/127.0.0.1/tcp/1".into()]), server((0, 2))).await.is_err());
    for listen in [vec!["nowhere".to_owned()], vec![]] {
        assert!(Bootstrap::start(BootstrapConfig { listen, ..BootstrapConfig::default() }).await.is_err());
    }
}

#[tokio::test]
async fn strangers_cannot_make_a_node_keep_or_say_too_much() {
    let node = entrance(&[]).await.unwrap();
    let (rpc, peer) = client(&node).await;
    let key = |nth: usize| Bytes::copy_from_slice(&DhtId::of_key(&format!("{PREFIX}.{nth}")).0);
    let store =
        async |request: StoreRequest| rpc.unary(peer, "DHTProtocol.rpc_store", proto::encode(&request), WAIT).await;
    let mut taken = 0;
    for round in 0..60 {
        let mut request = StoreRequest::default();
        for nth in 0..12 {
            request.keys.push(key(round * 12 + nth));
            request.subkeys.push(Value::from("flood").encode().into());
            request.values.push(vec![0; 60 << 10].into());
            request.expiration_time.push(now() + 3600.0);
            request.in_cache.push(false);
        }
        let reply: StoreResponse = proto::decode(store(request).await.unwrap()).unwrap();
        taken += reply.store_ok.iter().filter(|ok| **ok).count();
    }
    assert!((100..150).contains(&taken), "{taken} of 720 values of 60 KiB: a peer's share are 8 MiB");

    // Lists of different lengths, and ids of other lengths.
    let short = StoreRequest { keys: vec![key(0)], ..StoreRequest::default() };
    assert!(store(short).await.unwrap_err().context().contains("AssertionError"));
    let find = async |keys: Vec<Bytes>| {
        let request = proto::encode(&FindRequest { keys, peer: None });
        rpc.unary(peer, "DHTProtocol.rpc_find", request, WAIT).await
    };
    assert!(find(vec![Bytes::from_static(b"short")]).await.is_err());
    // What is asked for at once is more than a reply may hold: the rest is left out.
    let reply: FindResponse = proto::decode(find((0..120).map(key).collect()).await.unwrap()).unwrap();
    assert_eq!(reply.results.len(), 120);
    let bytes: usize = reply.results.iter().map(|result| result.value.len()).sum();
    assert!(bytes > 2 << 20 && bytes < 4 << 20, "{bytes}");

    // A caller that claims a place where nobody answers is not available.
    let claim = corolla_swarm::wire::proto::NodeInfo { node_id: Bytes::from_static(&[9; 20]) };
    let ping = PingRequest { peer: Some(claim), validate: true };
    let reply = rpc.unary(peer, "DHTProtocol.rpc_ping", proto::encode(&ping), WAIT).await.unwrap();
    let reply: PingResponse = proto::decode(reply).unwrap();
    assert!(!reply.available && (reply.dht_time - now()).abs() < 3.0);
    let reply: FindResponse = proto::decode(find(vec![key(0)]).await.unwrap()).unwrap();
    assert!(reply.results[0].nearest_node_ids.is_empty());
}
