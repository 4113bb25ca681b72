//! Peers that misuse FIND_NODE: looking for somebody ends in time.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::ports::{FaultKind, PortError};
use corolla_swarm::{
    transport::{Host, HostConfig, Multiaddr, PeerId},
    wire::proto::{self, KadMessage, KadPeer},
};

use crate::{
    MIB,
    act::Act,
    alone, assert_fault, cost,
    villain::{Scripts, Villain},
};

/// A whole answer with its length in front.
fn answer(message: impl Into<Bytes>) -> Bytes {
    let message = message.into();
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut bytes);
    [&bytes[..], &message].concat().into()
}

fn naming(peers: Vec<KadPeer>) -> Bytes {
    answer(proto::encode(&KadMessage { closer: peers, ..KadMessage::default() }))
}

fn peer(id: PeerId, addresses: Vec<Bytes>) -> KadPeer {
    KadPeer { id: id.to_bytes().into(), addresses }
}

/// An address where nobody listens.
fn nowhere() -> Bytes {
    "/ip4/127.0.0.1/tcp/1".parse::<Multiaddr>().unwrap().to_vec().into()
}

fn acts(target: PeerId) -> Vec<(&'static str, Act)> {
    let strangers = |count: usize| (0..count).map(|_| peer(PeerId::random(), vec![nowhere()])).collect();
    let junk = || Bytes::from(vec![0xff; 65536]);
    vec![
        ("an end without a word", Act::End(Bytes::new())),
        ("a break without a word", Act::Break(Bytes::new())),
        ("nothing", Act::End(naming(vec![]))),
        ("a length without an end", Act::Endless(Bytes::new(), junk())),
        ("an answer of 256 KiB and one byte", Act::Say(Bytes::from_static(&[0x81, 0x80, 0x10]))),
        ("the largest answer, of junk", Act::Endless(Bytes::from_static(&[0x80, 0x80, 0x10]), junk())),
        ("bytes that are no answer", Act::Say(answer(vec![0xff; 1000]))),
        ("a hundred thousand peers", Act::Say(answer([0x42, 0].repeat(100_000)))),
        ("a hundred peers nobody can reach", Act::Say(naming(strangers(100)))),
        ("a peer without a name", Act::Say(naming(vec![KadPeer { id: junk(), addresses: vec![nowhere()] }]))),
        ("an address that is none", Act::Say(naming(vec![peer(target, vec![junk()])]))),
        ("thousands of addresses", Act::Say(naming(vec![peer(target, vec![nowhere(); 10_000])]))),
        ("hundreds of addresses of nobody", Act::Say(naming(vec![peer(target, vec![nowhere(); 500])]))),
    ]
}

async fn client(villain: &Villain, dial_timeout: Duration) -> Host {
    let initial_peers = vec![villain.address().parse().unwrap()];
    Host::start(HostConfig { initial_peers, dial_timeout, ..HostConfig::default() }).await.unwrap()
}

async fn misled(host: &Host, villain: &Villain, target: PeerId, act: Act) -> Result<(), PortError> {
    villain.set(Scripts { node: Some(Arc::new(move |()| act.clone())), ..Scripts::default() });
    host.connect(target).await
}

#[tokio::test]
async fn answers_that_lie() {
    let _alone = alone().await;
    let villain = Villain::start().await;
    let host = client(&villain, Duration::from_secs(20)).await;
    host.connect(villain.host.peer_id()).await.unwrap();
    for nth in 0..acts(PeerId::random()).len() {
        let target = PeerId::random();
        let (name, act) = acts(target).swap_remove(nth);
        let (outcome, time, peak) = cost(misled(&host, &villain, target, act)).await;
        let fault = assert_fault(name, outcome, FaultKind::Unavailable, "");
        assert!(fault.context().contains(&target.to_string()), "{name}: {fault}");
        println!("{name}: {time:?}, {} KiB", peak / 1024);
        assert!(time < Duration::from_secs(10) && peak < 8 * MIB, "{name}: {time:?}, {peak} bytes");
    }
}

/// Others are asked when the address that somebody named leads nowhere.
#[tokio::test]
async fn a_lie_does_not_end_the_search() {
    let _alone = alone().await;
    let (liar, knowing, target) = (Villain::start().await, Villain::start().await, Villain::start().await);
    let id = target.host.peer_id();
    let naming = |address: Bytes| Arc::new(move |()| Act::End(naming(vec![peer(id, vec![address.clone()])])));
    liar.set(Scripts { node: Some(naming(nowhere())), ..Scripts::default() });
    let host = client(&liar, Duration::from_secs(20)).await;
    host.connect(liar.host.peer_id()).await.unwrap();
    assert_fault("only a liar", host.connect(id).await, FaultKind::Unavailable, "");
    assert_eq!(liar.asked.load(SeqCst), 1);
    knowing
        .set(Scripts { node: Some(naming(target.host.listen_addresses()[0].to_vec().into())), ..Scripts::default() });
    host.add_address(knowing.host.peer_id(), knowing.host.listen_addresses()[0].clone()).await;
    host.connect(knowing.host.peer_id()).await.unwrap();
    host.connect(id).await.unwrap();
    assert_eq!(liar.asked.load(SeqCst), 2, "it was asked first");
}

#[tokio::test]
async fn answers_that_take_for_ever() {
    let _alone = alone().await;
    let villain = Villain::start().await;
    let host = client(&villain, Duration::from_millis(400)).await;
    while host.connect(villain.host.peer_id()).await.is_err() {}
    let drip = Act::Drip(naming(vec![peer(PeerId::random(), vec![nowhere()])]), Duration::from_millis(50));
    for act in [Act::Say(Bytes::new()), Act::Say(Bytes::from_static(&[0x80, 0x80, 0x10, 0])), drip] {
        let (outcome, time, peak) = cost(misled(&host, &villain, PeerId::random(), act)).await;
        assert_fault("a delay", outcome, FaultKind::TimedOut, "within 400ms");
        assert!(time < Duration::from_secs(5) && peak < 8 * MIB, "{time:?}, {peak} bytes");
    }
}
