//! The contract of the port, over servers that share the blocks, and servers that are pinned.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use corolla_domain::{
    model::{BlockRange, PeerId},
    ports::{FaultKind, RemoteSwarm, SessionNeed},
    routing::{Bans, Chain},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm};
use testkit::remote_swarm::{Subject, all};

use crate::{
    config_at,
    fake::{BLOCKS, WIDTH},
    party::Party,
    states, step,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_keeps_the_ports_contract() {
    let party = Party::start(&[(0, 3, "2.3.0.dev2"), (1, 4, "2.2.0.post1")]).await;
    let swarm = PetalsSwarm::start(config_at(party.addresses())).await.unwrap();
    let servers = party.0.clone();
    all(&Subject {
        swarm: Arc::new(swarm),
        model: "fake".into(),
        blocks: BlockRange::first(BLOCKS),
        width: WIDTH,
        tolerance: 1e-6,
        nobody: PeerId(libp2p::PeerId::random().to_base58()),
        open_sessions: Box::new(move || {
            let open = servers.iter().map(|server| server.deeds.open.load(SeqCst)).sum();
            Box::pin(async move { open })
        }),
    })
    .await;
}

#[tokio::test]
async fn pinned_blocks_are_run_by_their_server_or_by_nobody() {
    let party = Party::start(&[(0, 4, "2.2.0"), (0, 4, "2.2.0")]).await;
    let chain = async |pins: &[String]| {
        let pinned_servers = pins.iter().map(|pin| pin.parse().unwrap()).collect();
        let swarm = PetalsSwarm::start(PetalsConfig { pinned_servers, ..config_at(party.addresses()) }).await.unwrap();
        let swarm: Arc<dyn RemoteSwarm> = Arc::new(swarm);
        let need = SessionNeed { max_length: 16, batch: 1 };
        Chain::new(swarm, Arc::new(Bans::default()), "fake".into(), BlockRange::first(BLOCKS), need)
    };
    let (first, second) = (party.0[0].peer(), party.0[1].peer());
    let mut pinned = chain(&[format!("1:2@{first}"), format!("2:4@{second}")]).await;
    step(&mut pinned, &states(1, 2, 1)).await.unwrap();
    let route: Vec<_> = pinned.route().iter().map(ToString::to_string).collect();
    assert!(
        route.ends_with(&[format!("2:4@{second}")]) && route[..route.len() - 1].join(" ").contains(&first.to_string())
    );

    let absent = libp2p::PeerId::random();
    let fault = step(&mut chain(&[format!("1:3@{absent}")]).await, &states(1, 2, 1)).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert!(fault.context().contains("blocks 1, 2 of fake"), "{fault}");
}
