//! Peers that open streams to us as fast as they can.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use corolla_domain::{model::ElementType, ports::RemoteSwarm as _};
use corolla_swarm::{
    PetalsSwarm,
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig},
};

use crate::{
    MIB, alone, cost,
    fake::Fake,
    raw::{Manner, Raw},
    stage::{config, model},
};

const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";
/// Streams that are opened at least: as many as yamux lets a peer open before any is answered.
const STREAMS: usize = 250;

/// Floods a client with streams that begin like this; it connects, and looks at a swarm of others, nevertheless.
async fn flooded(begin: &[&[u8]], memory: usize) {
    let _alone = alone().await;
    let raw = Raw::start(Manner::Flood(begin.concat().into())).await;
    let fake = Fake::start(ElementType::F32).await;
    let host = Host::start(HostConfig::default()).await.unwrap();
    host.add_address(raw.peer, raw.address.clone()).await;
    let work = async {
        host.connect(raw.peer).await.unwrap();
        while raw.opened.load(SeqCst) < STREAMS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let config = config(vec![fake.address()], Duration::from_secs(5));
        let swarm = PetalsSwarm::over(Rpc::new(host.clone(), RpcLimits::default()), config).await.unwrap();
        assert_eq!(swarm.map(&model()).await.unwrap().servers.len(), 1);
    };
    let limited = async { tokio::time::timeout(Duration::from_secs(20), work).await.unwrap() };
    let ((), time, peak) = cost(limited).await;
    println!("{time:?}, {} streams, {} KiB", raw.opened.load(SeqCst), peak / 1024);
    assert!(peak < memory, "{peak} bytes");
}

#[tokio::test]
async fn silent_streams() {
    flooded(&[], 8 * MIB).await;
}

#[tokio::test]
async fn streams_that_end_in_mid_name() {
    flooded(&[HEADER, &[0xff, 0x7f], &[b'x'; 16_000]], 32 * MIB).await;
}

#[tokio::test]
async fn streams_of_endless_proposals() {
    flooded(&[HEADER, &b"\x07/other\n".repeat(30_000)], 128 * MIB).await;
}

#[tokio::test]
async fn pings_without_end() {
    flooded(&[HEADER, b"\x11/ipfs/ping/1.0.0\n", &[7; 200_000]], 128 * MIB).await;
}

#[tokio::test]
async fn questions_who_we_are_without_end() {
    flooded(&[HEADER, b"\x0f/ipfs/id/1.0.0\n", &[7; 200_000]], 128 * MIB).await;
}
