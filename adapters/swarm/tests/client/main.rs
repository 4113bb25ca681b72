//! The client against a server that may misbehave, both over real hosts on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod blocks;
mod contract;
mod fake;
mod forward;
mod party;
mod push;
mod seat;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden, Hop, PeerId},
    ports::{BlockSession, FaultKind, PortError, RemoteSwarm, SessionNeed, StepInput},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm};
use fake::{BLOCKS, Fake, History, Manner, PREFIX, WIDTH, until_open};

const NEED: SessionNeed = SessionNeed { max_length: 4096, batch: 1 };

fn config(fake: &Fake) -> PetalsConfig {
    config_at(vec![fake.address()])
}

fn config_at(initial_peers: Vec<String>) -> PetalsConfig {
    PetalsConfig {
        initial_peers,
        request_timeout: Duration::from_millis(1500),
        ..PetalsConfig::new("fake", BLOCKS, WIDTH, PREFIX)
    }
}

async fn client(dtype: ElementType) -> (Fake, PetalsSwarm, Hop) {
    let fake = Fake::start(dtype).await;
    let swarm = PetalsSwarm::start(config(&fake)).await.unwrap();
    let hop = Hop { peer: PeerId(fake.host.peer_id().to_base58()), blocks: BlockRange::first(BLOCKS) };
    (fake, swarm, hop)
}

/// Small whole numbers, exact in every type.
fn states(batch: usize, seq: usize, seed: usize) -> Hidden {
    let numbers: Vec<f32> = (0..batch * seq * WIDTH).map(|i| ((i * 7 + seed) % 3) as f32).collect();
    Hidden::from_f32((batch, seq, WIDTH), &numbers).unwrap()
}

async fn step(session: &mut dyn BlockSession, hidden: &Hidden) -> Result<Hidden, PortError> {
    session.step(StepInput::from(hidden.clone())).await
}

#[tokio::test]
async fn the_map_is_awaited_and_a_broken_record_costs_that_record() {
    let (fake, swarm, hop) = client(ElementType::F32).await;
    let map = swarm.map(&"fake".into()).await.unwrap();
    assert_eq!(map.servers.len(), 1, "{map:?}");
    let server = &map.servers[0];
    assert_eq!((&server.peer, server.blocks, server.free_tokens), (&hop.peer, hop.blocks, Some(512)));
    assert!(server.rtt.is_some_and(|rtt| rtt < Duration::from_secs(1)));
    assert_eq!(swarm.map(&"other".into()).await.unwrap_err().kind(), FaultKind::NotFound);
    assert_eq!(server.facts.relayed, Some(false), "as the connection tells, since the record does not");
    drop(fake);
}

#[tokio::test]
async fn blocked_servers_are_not_used() {
    let fake = Fake::start(ElementType::F32).await;
    let blocked_servers = vec![fake.host.peer_id().to_base58()];
    let swarm = PetalsSwarm::start(PetalsConfig { blocked_servers, ..config(&fake) }).await.unwrap();
    assert_eq!(swarm.map(&"fake".into()).await.unwrap().servers, []);
}

#[tokio::test]
async fn a_swarm_that_is_not_there_is_a_typed_error() {
    let fake = Fake::start(ElementType::F32).await;
    let gone = config(&fake);
    drop(fake);
    let swarm = PetalsSwarm::start(gone).await.unwrap();
    let fault = swarm.map(&"fake".into()).await.unwrap_err();
    assert!(matches!(fault.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{fault}");
}

#[tokio::test]
async fn any_chunking_gives_the_same_and_long_prefills_are_split() {
    let (fake, swarm, hop) = client(ElementType::F32).await;
    let input = states(1, 2500, 1);
    let wanted = History::default().step(&input);
    let mut session = swarm.dial(hop.clone(), NEED).await.unwrap();
    assert_eq!(step(&mut *session, &input).await.unwrap(), wanted);
    let mut session = swarm.dial(hop, NEED).await.unwrap();
    let mut outputs = Vec::new();
    for (from, to) in [(0, 2000), (2000, 2001), (2001, 2500)] {
        outputs.push(step(&mut *session, &input.positions(from, to).unwrap()).await.unwrap());
    }
    assert_eq!(Hidden::concat(&outputs).unwrap(), wanted);
    assert_eq!(session.position(), 2500);
    assert_eq!(fake.ledger.opened.load(SeqCst), 2);
}

#[tokio::test]
async fn a_bf16_server_gets_bf16_and_the_caller_gets_its_own_type() {
    let (_fake, swarm, hop) = client(ElementType::Bf16).await;
    let input = states(2, 3, 1);
    let mut session = swarm.dial(hop, SessionNeed { max_length: 8, batch: 2 }).await.unwrap();
    assert_eq!(step(&mut *session, &input).await.unwrap(), History::default().step(&input));
}

#[tokio::test]
async fn a_rewind_and_a_dropped_step_are_as_if_never_gone() {
    let (fake, swarm, hop) = client(ElementType::F32).await;
    let (begin, astray, rest) = (states(1, 5, 1), states(1, 4, 2), states(1, 3, 3));
    let wanted = History::default().step(&Hidden::concat(&[begin.clone(), rest.clone()]).unwrap());
    let wanted = wanted.positions(5, 8).unwrap();
    let mut session = swarm.dial(hop, NEED).await.unwrap();
    step(&mut *session, &begin).await.unwrap();
    step(&mut *session, &astray).await.unwrap();
    session.rewind(5).await.unwrap();
    assert_eq!(session.rewind(6).await.unwrap_err().kind(), FaultKind::InvalidInput);
    until_open(&fake.ledger, 0).await;
    assert_eq!(step(&mut *session, &rest).await.unwrap(), wanted);

    session.rewind(5).await.unwrap();
    fake.set(Manner::Stall);
    let stalled = tokio::time::timeout(Duration::from_millis(100), step(&mut *session, &astray)).await;
    assert!(stalled.is_err());
    fake.set(Manner::Honest);
    assert_eq!((session.position(), step(&mut *session, &rest).await.unwrap()), (5, wanted));
    drop(session);
    until_open(&fake.ledger, 0).await;
}

#[tokio::test]
async fn misbehaviour_is_the_peers_fault_and_the_session_survives_it() {
    let (fake, swarm, hop) = client(ElementType::F32).await;
    let (begin, rest) = (states(1, 5, 1), states(1, 3, 3));
    let wanted = History::default().step(&Hidden::concat(&[begin.clone(), rest.clone()]).unwrap());
    let mut session = swarm.dial(hop, NEED).await.unwrap();
    step(&mut *session, &begin).await.unwrap();
    for (manner, kind, words) in [
        (Manner::WrongShape, FaultKind::Unavailable, "shape"),
        (Manner::NotANumber, FaultKind::Unavailable, "finite"),
        (Manner::Two, FaultKind::Unavailable, "2 tensors"),
        (Manner::Rubbish, FaultKind::Unavailable, "nonsense"),
        (Manner::HangUp, FaultKind::Unavailable, ""),
        (Manner::Fault("RuntimeError: out of luck"), FaultKind::Unavailable, "out of luck"),
        (Manner::Fault(""), FaultKind::Unavailable, ""),
        (Manner::Fault("Could not allocate 9 bytes, max cache size = 1 bytes"), FaultKind::Capacity, "allocate"),
        (Manner::Stall, FaultKind::TimedOut, "longer"),
    ] {
        fake.set(manner);
        let begun = Instant::now();
        let fault = step(&mut *session, &rest).await.unwrap_err();
        assert_eq!(fault.kind(), kind, "{manner:?}: {fault}");
        assert!(fault.context().contains(words), "{manner:?}: {fault}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{manner:?} took {:?}", begun.elapsed());
        assert_eq!(session.position(), 5);
    }
    fake.set(Manner::Honest);
    assert_eq!(step(&mut *session, &rest).await.unwrap(), wanted.positions(5, 8).unwrap());
}

#[tokio::test]
async fn a_full_cache_and_a_dead_peer_are_told_apart_when_dialling() {
    let (fake, swarm, hop) = client(ElementType::F32).await;
    let dial = |manner| {
        fake.set(manner);
        swarm.dial(hop.clone(), NEED)
    };
    let full = dial(Manner::Fault("Could not allocate 1 bytes")).await.err().unwrap();
    assert_eq!(full.kind(), FaultKind::Capacity, "{full}");
    let dead = dial(Manner::HangUp).await.err().unwrap();
    assert_eq!(dead.kind(), FaultKind::Unavailable, "{dead}");
    let silent = dial(Manner::Stall).await.err().unwrap();
    assert_eq!(silent.kind(), FaultKind::TimedOut, "{silent}");
    let nobody = Hop { peer: PeerId(libp2p::PeerId::random().to_base58()), blocks: hop.blocks };
    let nobody = swarm.dial(nobody, NEED).await.err().unwrap();
    assert!(matches!(nobody.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{nobody}");
    let nonsense = Hop { peer: PeerId("nobody".into()), blocks: hop.blocks };
    assert_eq!(swarm.dial(nonsense, NEED).await.err().unwrap().kind(), FaultKind::InvalidInput);
}

#[tokio::test]
async fn what_does_not_fit_the_session_is_refused_here() {
    let (fake, swarm, hop) = client(ElementType::F32).await;
    let mut session = swarm.dial(hop, SessionNeed { max_length: 6, batch: 1 }).await.unwrap();
    step(&mut *session, &states(1, 5, 1)).await.unwrap();
    let long = step(&mut *session, &states(1, 2, 1)).await.unwrap_err();
    assert_eq!(long.kind(), FaultKind::Capacity);
    let wide = Hidden::from_f32((1, 1, WIDTH + 1), &[0.0; WIDTH + 1]).unwrap();
    for bad in [states(2, 1, 1), wide] {
        assert_eq!(step(&mut *session, &bad).await.unwrap_err().kind(), FaultKind::InvalidInput);
    }
    step(&mut *session, &states(1, 1, 1)).await.unwrap();
    assert_eq!((session.position(), fake.ledger.positions.load(SeqCst)), (6, 6));
}
