//! Private swarms as a whole: members generate, strangers are told why they cannot.

use std::{sync::Arc, time::Instant};

use corolla_domain::{
    model::BlockRange,
    ports::{BlockSession as _, RemoteSwarm as _, SessionNeed},
    routing::{Bans, Chain},
};
use corolla_swarm::{PetalsSwarm, transport::SwarmSecret};

use crate::{blocks::Blocks, *};

fn secret(fill: u8) -> Access {
    Access { secret: Some(SwarmSecret::new([fill; 32])), allowed: None }
}

async fn private(access: &Access) -> House {
    let bootstrap = entrance_for(&[], access.clone()).await.unwrap();
    let enter = |_, member| BootstrapConfig { access: access.clone(), ..member };
    House::behind(bootstrap, &[(0, 2), (2, 4)], enter).await
}

/// A step through all blocks.
async fn step(config: PetalsConfig) {
    let swarm = Arc::new(PetalsSwarm::start(config).await.unwrap());
    let need = SessionNeed { max_length: 64, batch: 1 };
    let mut chain = Chain::new(swarm, Arc::new(Bans::default()), "toy".into(), BlockRange::first(BLOCKS), need);
    let input = states(1, 5, 1);
    let expected = Blocks::new(BlockRange::first(BLOCKS)).step(&input);
    assert_eq!(chain.step(input.into()).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_with_a_secret_serves_its_members_alone() {
    let house = private(&secret(7)).await;
    step(PetalsConfig { access: secret(7), ..house.client() }).await;
    let start = Instant::now();
    let swarm = PetalsSwarm::start(PetalsConfig { access: secret(8), ..house.client() }).await.unwrap();
    let fault = swarm.map(&"toy".into()).await.unwrap_err();
    assert!(fault.context().contains("another swarm secret, or none"), "{fault}");
    let fault = BlockServer::join(member(&house.bootstrap.addresses()), server((0, 2))).await.err().unwrap();
    assert!(fault.context().contains("secret is missing here"), "{fault}");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_with_a_list_serves_its_members_alone() {
    let folder = tempfile::tempdir().unwrap();
    let name = |file: &str| Some(folder.path().join(file));
    let mut members = Vec::new();
    for file in ["bootstrap", "first", "second", "client"] {
        let config = HostConfig { identity: name(file), ..HostConfig::default() };
        members.push(Host::start(config).await.unwrap().peer_id());
    }
    let access = Access { secret: None, allowed: Some(members) };
    let (listen, identity) = (here(), name("bootstrap"));
    let config = BootstrapConfig { listen, identity, access: access.clone(), ..BootstrapConfig::default() };
    let bootstrap = Bootstrap::start(config).await.unwrap();
    let house = House::behind(bootstrap, &[(0, 2), (2, 4)], |nth, member| {
        let identity = name(["first", "second"][nth]);
        BootstrapConfig { access: access.clone(), identity, ..member }
    })
    .await;
    step(PetalsConfig { identity: name("client"), access: access.clone(), ..house.client() }).await;

    let stranger = PetalsSwarm::start(house.client()).await.unwrap();
    let fault = stranger.map(&"toy".into()).await.unwrap_err();
    assert!(fault.context().contains("listed peers only"), "{fault}");

    // A client that does not trust the second server has nobody for its blocks.
    let known = access.allowed.unwrap();
    let access = Access { secret: None, allowed: Some(vec![known[0], known[1]]) };
    let swarm = PetalsSwarm::start(PetalsConfig { identity: name("client"), access, ..house.client() }).await.unwrap();
    let map = swarm.map(&"toy".into()).await.unwrap();
    assert_eq!(map.servers.iter().map(|server| server.peer.0.clone()).collect::<Vec<_>>(), [known[1].to_base58()]);
}
