//! Callers that mean harm, or are merely broken: each is refused within the limits, and others are served meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use corolla_domain::model::BlockRange;
use corolla_swarm::{
    rpc::Rpc,
    server::ServerLimits,
    wire::{
        inference::{RPC_FORWARD, RPC_INFERENCE, forward_request, parse_hidden, step_request},
        msgpack::Value,
        proto::{self, StoreRequest, Tensor},
        tensor::{self, Dtype},
    },
};
use futures_util::future::join_all;
use tokio::sync::Notify;

use crate::{
    BLOCKS, CACHE, House,
    blocks::Blocks,
    calls::{WAIT, ask, metadata, opening, raw, refused, uids},
    states, until,
};

pub(crate) fn tensor_of(shape: &[u32], dtype: Dtype) -> Tensor {
    let count: u32 = shape.iter().product();
    let buffer = vec![0; count as usize * dtype.size()];
    Tensor { buffer: buffer.into(), size: shape.to_vec(), ..tensor::dummy(dtype) }
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_in_the_references_words() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let (all, small) = (uids(0, 4), raw(&states(1, 1, 1)));
    let asked = |uid: &str, hidden: Tensor, extra: &[(&str, Value)]| step_request(uid, hidden, None, metadata(extra));
    let full = i64::try_from(CACHE).unwrap() + 1;
    for (request, words) in [
        (asked(&all, small.clone(), &[]), "rpc_inference metadata must contain int max_length"),
        (asked(&all, small.clone(), &[opening(99_999)]), "Cannot allocate KV cache for 99999 tokens, max = 2048"),
        (asked(&all, small.clone(), &[opening(-1)]), "Cannot allocate KV cache for -1 tokens"),
        (asked(&all, small.clone(), &[opening(i64::MAX)]), "Cannot allocate KV cache"),
        (asked(&all, small.clone(), &[opening(full)]), "Could not allocate"),
        (asked(&all, small.clone(), &[("max_length", Value::Float(3.0))]), "max_length of the wrong type"),
        (asked(&all, small.clone(), &[opening(3), ("points", Value::Nil)]), "points"),
        (asked(&all, small.clone(), &[opening(3), ("active_adapter", Value::from("lora"))]), "adapter lora not found"),
        (asked("", small.clone(), &[opening(3)]), "User did not provide any uids"),
        (asked("toy-petals.0 toy-petals.2", small.clone(), &[opening(3)]), "does not serve toy-petals.2"),
        (asked("toy-petals.3 toy-petals.4", small.clone(), &[opening(3)]), "does not serve toy-petals.4"),
        (asked("toy-petals.99999999999999999999", small.clone(), &[opening(3)]), "does not serve"),
        (asked(&"toy-petals.0 ".repeat(20_000), small, &[opening(3)]), "does not serve"),
        (asked(&all, tensor_of(&[1, 1, 8], Dtype::I64), &[opening(3)]), "floating type, got torch.int64"),
        (asked(&all, tensor_of(&[1, 8], Dtype::F32), &[opening(3)]), "3d tensor"),
        (asked(&all, tensor_of(&[1, 1, 9], Dtype::F32), &[opening(3)]), "hidden states of 9 numbers"),
        (asked(&all, tensor_of(&[0, 1, 8], Dtype::F32), &[opening(3)]), "no rows"),
        (
            asked(&all, tensor_of(&[1, 4, 8], Dtype::F32), &[opening(3)]),
            "Maximum length exceeded: prefix 0 + current 4",
        ),
        (asked(&all, tensor_of(&[2049, 1, 8], Dtype::F32), &[opening(1)]), "greater than max_batch_size (2048)"),
        (
            asked(&all, Tensor { size: vec![u32::MAX, u32::MAX, 8], ..tensor::dummy(Dtype::F32) }, &[opening(1)]),
            "max_batch_size",
        ),
    ] {
        let text = refused(&rpc, peer, request).await;
        assert!(text.contains(words), "{words:?} in {text:?}");
    }
    let mut unordered = step_request(&all, raw(&states(1, 1, 1)), Some(&[3]), metadata(&[opening(3)]));
    assert!(refused(&rpc, peer, unordered.clone()).await.contains("hypo_ids name rows that are not there"));
    unordered.tensors[2] = tensor_of(&[1], Dtype::F32);
    assert!(refused(&rpc, peer, unordered).await.contains("hypo ids must be int64, got torch.float32"));
    let large = forward_request(&all, tensor_of(&[3, 700, 8], Dtype::F32), None);
    let fault = rpc.unary(peer, RPC_FORWARD, proto::encode(&large), WAIT).await.unwrap_err();
    assert!(fault.context().contains("ValueError(\"Task size greater than max_batch_size (2048)"), "{fault}");
    until("every session has ended", || house.ledgers[0].open.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn who_goes_takes_cache_and_computation_along() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let ledger = &house.ledgers[0];
    ledger.hang.store(true, SeqCst);
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let request = step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, metadata(&[opening(64)]));
    stream.send(proto::encode(&request)).await.unwrap();
    let request = proto::encode(&forward_request(&uids(0, 4), raw(&states(1, 1, 1)), None));
    let forward = tokio::time::timeout(Duration::from_millis(300), rpc.unary(peer, RPC_FORWARD, request, WAIT));
    assert!(forward.await.is_err());
    drop(stream);
    until("nothing is computed", || ledger.running.load(SeqCst) == 0 && ledger.open.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn a_session_that_says_nothing_is_closed() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let mut silent = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let mut idle = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let request = step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, metadata(&[opening(64)]));
    ask(&mut idle, request).await.unwrap();
    assert_eq!(silent.next(WAIT).await.unwrap(), None);
    assert_eq!(idle.next(WAIT).await.unwrap(), None);
    until("the cache is free", || house.ledgers[0].open.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn sessions_wait_in_line_for_room() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let request = |patience: f64| {
        let extra = [opening(200), ("alloc_timeout", Value::Float(patience))];
        step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, metadata(&extra))
    };
    let mut first = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    ask(&mut first, request(0.0)).await.unwrap();
    assert!(refused(&rpc, peer, request(0.0)).await.contains("Could not allocate"));
    assert!(refused(&rpc, peer, request(0.3)).await.contains("Could not allocate"));
    let mut second = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let waiting = tokio::spawn(async move {
        let answer = ask(&mut second, request(30.0)).await.map(|_| ());
        (answer, second)
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(first);
    tokio::time::timeout(WAIT, waiting).await.unwrap().unwrap().0.unwrap();
}

/// Thousands of streams of one peer, on which nothing or rubbish is said: the server lets go of what is too much, and
/// answers others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_streams_do_not_keep_others_from_being_served() {
    let change = |config: corolla_swarm::server::ServerConfig| corolla_swarm::server::ServerConfig {
        limits: ServerLimits { sessions_of_peer: 16, ..config.limits },
        ..config
    };
    let house = House::with(&[(0, 4)], change).await;
    let (hostile, peer) = house.stranger(0).await;
    let (honest, _) = house.stranger(0).await;
    let (opened, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, enough) = (opened.clone(), all.clone());
    let flood = tokio::spawn(async move {
        let mut held = Vec::new();
        for round in 0..40 {
            for stream in join_all((0..250).map(|_| hostile.stream(peer, RPC_INFERENCE))).await.into_iter().flatten() {
                let mut stream = stream;
                let _ = stream.send(Bytes::from(vec![round; 64])).await; // it may be reset already
                held.push(stream);
                if count.fetch_add(1, SeqCst) == 500 {
                    enough.notify_one();
                }
            }
        }
        std::future::pending::<()>().await;
    });
    let hidden = states(1, 5, 1);
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&hidden);
    for _ in 0..50 {
        let request = proto::encode(&forward_request(&uids(0, 4), raw(&hidden), None));
        let reply = honest.unary(peer, RPC_FORWARD, request, WAIT).await.unwrap();
        assert_eq!(parse_hidden(reply, &hidden).unwrap(), wanted);
    }
    let flooded = tokio::time::timeout(WAIT, all.notified()).await;
    assert!(flooded.is_ok(), "{} streams", opened.load(SeqCst));
    flood.abort();
    until("no session is open", || house.servers[0].open_sessions() == 0).await;
}

/// A message of records that nobody asked for.
fn records(count: usize) -> StoreRequest {
    StoreRequest {
        keys: (0..count).map(|nth| Bytes::from(vec![nth as u8; 20])).collect(),
        subkeys: vec![Bytes::from(Value::Nil.encode()); count],
        values: vec![Bytes::from_static(&[0xc0]); count],
        expiration_time: vec![1e10; count],
        in_cache: vec![false; count],
        ..StoreRequest::default()
    }
}

/// A peer that takes a server's time without end has to wait for its next calls; others have not, nor have its own sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_costs_without_end_is_slowed_down_alone() {
    const CALLS: usize = 20;
    /// Paced, they take twenty seconds: by then the others are long done.
    const MANY: usize = 400;
    let house = House::new(&[(0, 4)]).await;
    let (hostile, peer) = house.stranger(0).await;
    let (honest, _) = house.stranger(0).await;
    let step = |extra| step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, extra);
    let calls = |rpc: Rpc, count| async move {
        let call = || proto::encode(&forward_request("toy-petals.0", raw(&states(1, 1, 1)), None));
        for _ in 0..count {
            rpc.unary(peer, RPC_FORWARD, call(), WAIT).await.unwrap();
        }
    };
    // A record counts as a part of a call in vain: these are more of them than are held against anyone, and it takes a minute
    // until so much of it is forgiven that nobody has to wait.
    for _ in 0..160 {
        let _ = hostile.unary(peer, "DHTProtocol.rpc_store", proto::encode(&records(256)), WAIT).await;
    }
    let mut session = hostile.stream(peer, RPC_INFERENCE).await.unwrap();
    ask(&mut session, step(metadata(&[opening(64)]))).await.unwrap();
    let others = async {
        calls(honest, CALLS).await;
        ask(&mut session, step(Bytes::new())).await.unwrap();
    };
    tokio::select! {
        () = others => {}
        () = calls(hostile.clone(), MANY) => panic!("who has cost so much does not wait"),
    }
    let begun = Instant::now();
    calls(hostile, CALLS).await;
    assert!(begun.elapsed() > Duration::from_millis(50) * (CALLS as u32 - 1), "{:?}", begun.elapsed());
}

/// A server that shuts down lets sessions go on, takes no new ones, and is gone from the swarm.
#[tokio::test]
async fn a_server_says_goodbye() {
    let mut house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let step = |first: bool| {
        let extra = if first { metadata(&[opening(64)]) } else { Bytes::new() };
        step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, extra)
    };
    ask(&mut stream, step(true)).await.unwrap();
    let server = house.servers.remove(0);
    let leaving = tokio::spawn(server.shut_down(Duration::from_secs(20)));
    let refusal = loop {
        let mut other = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
        match ask(&mut other, step(true)).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(fault) => break fault,
        }
    };
    assert!(refusal.context().contains("shutting down"), "{refusal}");
    ask(&mut stream, step(false)).await.unwrap();
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), leaving).await.unwrap().unwrap();
}
