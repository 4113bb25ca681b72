//! Who is reached directly, who through relays, and what strangers cannot make a checker do.

use bytes::Bytes;
use corolla_domain::{
    model::BlockRange,
    ports::{BlockSession as _, RemoteSwarm as _, SessionNeed},
    routing::{Bans, Chain},
};
use corolla_swarm::{
    PetalsSwarm,
    server::{RPC_CHECK, Reach, Way, reachability},
    transport::{Multiaddr, SwarmSecret},
    wire::{
        inference::{RPC_INFO, info_request, parse_info},
        proto::{self, NodeInfo, PingRequest, PingResponse},
    },
};

use crate::{blocks::Blocks, calls::WAIT, *};

fn everywhere() -> Vec<String> {
    vec!["/ip4/0.0.0.0/tcp/0".to_owned()]
}

fn about(peer: PeerId) -> Bytes {
    proto::encode(&PingRequest { peer: Some(NodeInfo { node_id: peer.to_bytes().into() }), validate: false })
}

async fn ask(rpc: &Rpc, peer: PeerId, about_whom: PeerId) -> Result<bool, PortError> {
    let reply = rpc.unary(peer, RPC_CHECK, about(about_whom), WAIT).await?;
    Ok(proto::decode::<PingResponse>(reply)?.available)
}

fn peer_of(addresses: &[String]) -> PeerId {
    addresses[0].rsplit('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_is_reached_hears_so_from_others() {
    let folder = tempfile::tempdir().unwrap();
    for access in [
        Access::default(),
        Access { secret: Some(SwarmSecret::new([7; 32])), allowed: None },
        Access { secret: None, allowed: Some(Vec::new()) },
    ] {
        let name = |file: &str| Some(folder.path().join(file));
        let mut access = access;
        if let Some(allowed) = &mut access.allowed {
            for file in ["entrance", "member"] {
                let config = HostConfig { identity: name(file), ..HostConfig::default() };
                allowed.push(Host::start(config).await.unwrap().peer_id());
            }
        }
        let config = BootstrapConfig {
            listen: here(),
            identity: name("entrance"),
            access: access.clone(),
            ..BootstrapConfig::default()
        };
        let entrance = Bootstrap::start(config).await.unwrap();
        let member = BootstrapConfig {
            listen: everywhere(),
            identity: name("member"),
            initial_peers: entrance.addresses(),
            access,
            reach: Reach::Ask,
        };
        let found = reachability(&member).await.unwrap();
        assert_eq!(found.way, Way::Direct { said: 1 }, "{found}");
        let member = Bootstrap::start(member).await.unwrap();
        assert_eq!(member.reachability().way, Way::Direct { said: 1 });
    }
}

#[tokio::test]
async fn who_is_not_reached_hears_so_and_nobody_else_is_called() {
    let entrance = entrance(&[]).await.unwrap();
    let address: Multiaddr = entrance.addresses()[0].parse().unwrap();
    let checker = peer_of(&entrance.addresses());
    // A caller that listens nowhere.
    let host = Host::start(HostConfig { initial_peers: vec![address], ..HostConfig::default() }).await.unwrap();
    let rpc = Rpc::new(host.clone(), RpcLimits::default());
    assert!(!ask(&rpc, checker, host.peer_id()).await.unwrap());
    assert!(ask(&rpc, checker, checker).await.unwrap());
    let error = ask(&rpc, checker, PeerId::random()).await.unwrap_err();
    assert!(error.context().contains("its own request only"), "{error}");
    let error = rpc.unary(checker, RPC_CHECK, Bytes::from_static(b"\xff"), WAIT).await.unwrap_err();
    assert!(error.context().contains("DecodeError"), "{error}");
}

/// On loopback everybody reaches everybody; here the server says that nobody does, and the way through its relay is taken
/// by a caller that knows no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_a_relay_serves() {
    for access in [Access::default(), Access { secret: Some(SwarmSecret::new([7; 32])), allowed: None }] {
        let bootstrap = entrance_for(&[], access.clone()).await.unwrap();
        let relay = peer_of(&bootstrap.addresses());
        let enter = |_, member| BootstrapConfig { access: access.clone(), reach: Reach::Relayed, ..member };
        let house = House::behind(bootstrap, &[(0, 4)], enter).await;
        let found = house.servers[0].reachability();
        assert_eq!(found.way, Way::Relayed(vec![relay]), "{found}");
        let addresses = house.servers[0].addresses();
        let circuit = addresses.iter().find(|address| address.contains("/p2p-circuit/")).unwrap();

        let host = Host::start(HostConfig { access: access.clone(), ..HostConfig::default() }).await.unwrap();
        let server = house.servers[0].peer_id();
        host.add_address(server, circuit.parse().unwrap()).await;
        assert!(ask(&Rpc::new(host.clone(), RpcLimits::default()), server, server).await.unwrap());
        assert!(host.is_relayed(server));
        let rpc = Rpc::new(host, RpcLimits::default());
        let info = parse_info(rpc.unary(server, RPC_INFO, info_request(""), WAIT).await.unwrap()).unwrap();
        assert_eq!(info.dht_client_mode, Some(true));

        let swarm = Arc::new(PetalsSwarm::start(PetalsConfig { access, ..house.client() }).await.unwrap());
        let map = swarm.map(&"toy".into()).await.unwrap();
        assert_eq!(map.servers.len(), 1, "{map:?}");
        let need = SessionNeed { max_length: 64, batch: 1 };
        let blocks = BlockRange::first(BLOCKS);
        let mut chain = Chain::new(swarm, Arc::new(Bans::default()), "toy".into(), blocks, need);
        let input = states(1, 5, 1);
        assert_eq!(chain.step(input.clone().into()).await.unwrap(), Blocks::new(blocks).step(&input));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_slot_is_taken_anew() {
    let folder = tempfile::tempdir().unwrap();
    let config = |port: &str| BootstrapConfig {
        listen: vec![format!("/ip4/127.0.0.1/tcp/{port}")],
        identity: Some(folder.path().join("relay")),
        ..BootstrapConfig::default()
    };
    let relay = Bootstrap::start(config("0")).await.unwrap();
    let port = relay.addresses()[0].split('/').nth(4).unwrap().to_owned();
    let second = entrance(&relay.addresses()).await.unwrap();
    let initial_peers = [relay.addresses(), second.addresses()].concat();
    let enter = BootstrapConfig { reach: Reach::Relayed, ..member(&initial_peers) };
    let server = BlockServer::join(enter, server((0, 2))).await.unwrap();
    let relays = |count: usize| {
        let server = &server;
        move || matches!(server.reachability().way, Way::Relayed(relays) if relays.len() == count)
    };
    until("both relays give a slot", relays(2)).await;
    drop(relay);
    until("one is lost", relays(1)).await;
    let mut again = Err(PortError::internal("not tried"));
    while again.is_err() {
        again = Bootstrap::start(config(&port)).await; // the port may still be taken
    }
    tokio::time::timeout(Duration::from_secs(90), async {
        while !relays(2)() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
}
