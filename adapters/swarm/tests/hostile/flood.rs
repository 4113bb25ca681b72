//! Peers that open streams to us as fast as they can, and callers that announce much and send nothing.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden},
    ports::RemoteSwarm as _,
};
use corolla_swarm::{
    PetalsSwarm,
    rpc::{Rpc, RpcLimits},
    server::{BlockServer, BootstrapConfig, ServerConfig, ServerLimits, Speed},
    transport::{Host, HostConfig},
    wire::{
        frame::MAX_RECORD,
        inference::{Open, RPC_INFERENCE, StepMetadata, parse_hidden, step_request},
        proto::{self, Compression},
        server::block_uids,
        tensor,
    },
};
use futures_util::AsyncWriteExt as _;

use crate::{
    MIB,
    act::claim,
    alone,
    blocks::Blocks,
    cost,
    engine::Toy,
    fake::{BLOCKS, Fake, PREFIX, WIDTH},
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

/// A server of all blocks that takes the longest messages there are.
async fn roomy_server() -> BlockServer {
    let config = ServerConfig {
        dht_prefix: PREFIX.to_owned(),
        model_blocks: BLOCKS,
        blocks: BlockRange::first(BLOCKS),
        speed: Speed { inference: 100.0, forward: 1000.0, network: 1000.0 },
        hidden: WIDTH,
        dtype: ElementType::F32,
        public_name: None,
        update_period: Duration::from_secs(60),
        limits: ServerLimits { max_batch: 1 << 21, max_length: 1 << 21, ..ServerLimits::stock(false) },
    };
    let member = BootstrapConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], ..BootstrapConfig::default() };
    let mut server = BlockServer::join(member, config).await.unwrap();
    server.serve(Arc::new(Toy::new(BlockRange::first(BLOCKS), 1 << 21))).await.unwrap();
    server
}

async fn caller(server: &BlockServer) -> Host {
    let host = Host::start(HostConfig::default()).await.unwrap();
    host.add_address(server.peer_id(), server.addresses()[0].parse().unwrap()).await;
    host
}

/// Streams that say their message will have 64 MiB, and say no more, take no room from the long prompts of others.
#[tokio::test]
async fn long_messages_that_never_come() {
    let _alone = alone().await;
    let server = roomy_server().await;
    let (hostile, honest) = (caller(&server).await, Rpc::new(caller(&server).await, RpcLimits::default()));
    let numbers: Vec<f32> = (0..(1 << 16) * WIDTH).map(|i| (i % 3) as f32).collect();
    let prompt = Hidden::from_f32((1, 1 << 16, WIDTH), &numbers).unwrap();
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&prompt);
    let mut silent = Vec::new();
    let work = async {
        for _ in 0..128 {
            let mut stream = hostile.open_stream(server.peer_id(), RPC_INFERENCE).await.unwrap();
            stream.write_all(&claim(MAX_RECORD as u64)).await.unwrap();
            stream.flush().await.unwrap();
            silent.push(stream);
        }
        for nth in 0..8 {
            let open = Some(Open { max_length: prompt.seq(), ..Open::default() });
            let name = nth.to_string();
            let metadata = StepMetadata { session_id: &name, open, ..StepMetadata::default() }.encode();
            let tensor = tensor::encode(&prompt, Compression::None).unwrap();
            let request = step_request(&block_uids(PREFIX, 0..BLOCKS), tensor, None, metadata);
            let mut stream = honest.stream(server.peer_id(), RPC_INFERENCE).await.unwrap();
            let reply = stream.ask(proto::encode(&request), 8 * MIB, Duration::from_secs(20)).await.unwrap();
            assert_eq!(parse_hidden(reply.unwrap(), &prompt).unwrap(), wanted);
        }
    };
    let ((), time, peak) = cost(work).await;
    println!("{time:?}, {} streams, {} KiB", silent.len(), peak / 1024);
    assert!(peak < 128 * MIB, "{peak} bytes");
}
