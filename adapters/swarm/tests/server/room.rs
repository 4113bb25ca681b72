//! Room for what callers send: who takes it up, for how long, and what others hear meanwhile.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use bytes::Bytes;
use corolla_domain::model::BlockRange;
use corolla_swarm::{
    rpc::Rpc,
    server::{BlockServer, ServerConfig, ServerLimits},
    transport::PeerId,
    wire::{
        frame::{UnaryDecoder, UnaryFrame, encode_unary_request},
        inference::{RPC_FORWARD, RPC_INFERENCE, forward_request, parse_hidden, step_request},
        msgpack::Value,
        proto::{self, ExpertRequest, Tensor},
        serving::RPC_PUSH,
        tensor::{self, Dtype},
    },
};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    BLOCKS, House,
    blocks::Blocks,
    calls::{WAIT, ask, metadata, opening, raw, refused, uids},
    engine::Toy,
    member, server, states, until,
};

const MIB: usize = 1 << 20;

/// Takes messages of some MiB, and has room for one of 2 MiB besides short ones.
fn narrow(config: ServerConfig) -> ServerConfig {
    let limits = ServerLimits { max_batch: 1 << 17, max_length: 1 << 17, room: 5 * MIB, ..config.limits };
    ServerConfig { limits, ..config }
}

/// With 2 MiB that nobody reads, behind its arguments.
fn long(request: ExpertRequest) -> ExpertRequest {
    let ballast = Tensor { buffer: vec![0; 2 * MIB].into(), ..tensor::dummy(Dtype::U8) };
    ExpertRequest { tensors: [request.tensors, vec![ballast]].concat(), ..request }
}

fn step(extra: &[(&str, Value)]) -> ExpertRequest {
    step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, metadata(extra))
}

/// Whether a long message of somebody else finds room. It asks for blocks that are not there.
async fn finds_room(rpc: &Rpc, peer: PeerId) -> bool {
    let request = step_request("toy-petals.9", raw(&states(1, 1, 1)), None, metadata(&[opening(3)]));
    let text = refused(rpc, peer, long(request)).await;
    assert!(text.contains("does not serve") || text.contains("Could not allocate"), "{text}");
    text.contains("does not serve")
}

/// Waits until a long message of somebody else finds room, or none.
async fn until_there_is(room: bool, rpc: &Rpc, peer: PeerId) {
    let looking = async { while finds_room(rpc, peer).await != room {} };
    tokio::time::timeout(WAIT, looking).await.unwrap_or_else(|_| panic!("there should be room: {room}"));
}

/// What waits for a step and what a step is computed of takes room, and those who then find none are told.
#[tokio::test]
async fn input_takes_room_until_its_step_is_done() {
    let house = House::with(&[(0, 4)], narrow).await;
    let ((rpc, peer), (other, _)) = (house.stranger(0).await, house.stranger(0).await);
    let ledger = &house.ledgers[0];
    for case in ["computed", "read ahead", "pushed"] {
        ledger.hang.store(true, SeqCst);
        assert!(finds_room(&other, peer).await, "{case}");
        let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
        let opened = step(&[opening(9), ("session_id", Value::from(case))]);
        let opened = if case == "computed" { long(opened) } else { opened };
        stream.send(proto::encode(&opened)).await.unwrap();
        until("a step is under way", || ledger.running.load(SeqCst) == 1).await;
        match case {
            "read ahead" => stream.send(proto::encode(&long(step(&[])))).await.unwrap(),
            "pushed" => {
                let push = proto::encode(&long(step(&[("session_id", Value::from(case))])));
                rpc.unary(peer, RPC_PUSH, push, WAIT).await.unwrap();
            }
            _ => {}
        }
        until_there_is(false, &other, peer).await;
        // Short messages do not notice, long ones are refused wherever they come.
        let refusal =
            refused(&other, peer, step_request("toy-petals.9", raw(&states(1, 1, 1)), None, Bytes::new())).await;
        assert!(refusal.contains("does not serve"), "{case}: {refusal}");
        let pass = proto::encode(&long(forward_request(&uids(0, 4), raw(&states(1, 1, 1)), None)));
        let refusal = other.unary(peer, RPC_FORWARD, pass, WAIT).await.unwrap_err();
        assert!(refusal.context().contains("AllocationFailed('Could not allocate"), "{case}: {refusal}");
        drop(stream);
        until_there_is(true, &other, peer).await;
        ledger.hang.store(false, SeqCst);
    }
    // What is done with gives its room back while the session goes on.
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    ask(&mut stream, long(step(&[opening(9)]))).await.unwrap();
    for _ in 0..8 {
        ask(&mut stream, long(step(&[]))).await.unwrap();
    }
    until_there_is(true, &other, peer).await;
}

/// A pass is under way until its caller has read the reply.
#[tokio::test]
async fn a_reply_counts_until_it_is_written() {
    let house = House::new(&[]).await;
    let config = narrow(server((0, 4)));
    let config = ServerConfig { limits: ServerLimits { room: 64 * MIB, ..config.limits }, ..config };
    let mut server = BlockServer::join(member(&house.bootstrap.addresses()), config).await.unwrap();
    server.serve(Arc::new(Toy::new(BlockRange::first(BLOCKS), 1 << 17))).await.unwrap();
    let house = House { servers: vec![server], ..house };
    let (rpc, peer) = house.stranger(0).await;
    let hidden = states(1, 1 << 16, 1);
    let request = proto::encode(&forward_request(&uids(0, 4), raw(&hidden), None));
    let frame = encode_unary_request([7; 16], &peer.to_bytes(), RPC_FORWARD, request).unwrap();
    let mut stream = rpc.host().open_stream(peer, RPC_FORWARD).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    stream.flush().await.unwrap();
    let mut chunk = vec![0; 65536];
    let mut decoder = UnaryDecoder::new(8 * MIB);
    let count = stream.read(&mut chunk[..16]).await.unwrap();
    decoder.push(&chunk[..count]);
    assert_eq!(house.servers[0].open_sessions(), 1);
    let reply = loop {
        match decoder.next().unwrap() {
            Some(UnaryFrame::Reply { outcome, .. }) => break outcome.unwrap(),
            Some(UnaryFrame::Request { .. }) => panic!("a request"),
            None => {
                let count = stream.read(&mut chunk).await.unwrap();
                decoder.push(&chunk[..count]);
            }
        }
    };
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&hidden);
    assert_eq!(parse_hidden(reply, &hidden).unwrap(), wanted);
    until("nothing is under way", || house.servers[0].open_sessions() == 0).await;
}
