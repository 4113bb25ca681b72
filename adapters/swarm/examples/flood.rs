//! A peer that means harm, to measure what others notice of it: `flood INITIAL_PEER PREFIX BLOCKS HIDDEN SECONDS`.
//!
//! All at once, to the initial peer, which should be a server of the blocks: sessions that ask for more than there is, steps
//! over the limit or of nonsense, streams that are opened and left without end, and records for the DHT. Prints
//! how many of each were tried. Only for servers of one's own.

use std::{
    collections::VecDeque,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::model::Hidden;
use corolla_swarm::{
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, Multiaddr, PeerId},
    wire::{
        inference::{RPC_FORWARD, RPC_INFERENCE, forward_request, step_request},
        msgpack::Value,
        proto::{self, Compression, StoreRequest},
        server::block_uids,
        tensor,
    },
};
use tokio::time::{Instant, timeout_at};

const USAGE: &str = "usage: flood INITIAL_PEER PREFIX BLOCKS HIDDEN SECONDS";
const LIMIT: Duration = Duration::from_secs(5);
/// Streams that are held at a time: a connection has no more.
const STREAMS: usize = 4000;
const RECORDS: usize = 64;

#[derive(Default)]
struct Tally {
    streams: AtomicUsize,
    openings: AtomicUsize,
    passes: AtomicUsize,
    records: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, prefix, blocks, width, seconds] = arguments.as_slice() else { return Err(USAGE.into()) };
    let address: Multiaddr = address.parse()?;
    let peer: PeerId = address.to_string().rsplit('/').next().ok_or("an address without a peer id")?.parse()?;
    let (blocks, width): (usize, usize) = (blocks.parse()?, width.parse()?);
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let host = Host::start(HostConfig { initial_peers: vec![address], ..HostConfig::default() });
    let rpc = Rpc::new(host.await?, RpcLimits::default());
    let uids = block_uids(prefix, 0..blocks);
    let tally = Arc::new(Tally::default());
    let all = async {
        tokio::join!(
            streams(&rpc, peer, &tally),
            openings(&rpc, peer, &uids, width, &tally),
            passes(&rpc, peer, &uids, width, &tally),
            records(&rpc, peer, &tally),
        )
    };
    let _ = timeout_at(end, all).await;
    let report = serde_json::json!({
        "streams": tally.streams.load(Relaxed), "openings": tally.openings.load(Relaxed),
        "passes": tally.passes.load(Relaxed), "records": tally.records.load(Relaxed),
    });
    println!("{report}");
    Ok(())
}

/// Streams that are opened and left; the oldest go when there are too many.
async fn streams(rpc: &Rpc, peer: PeerId, tally: &Tally) {
    let mut held = VecDeque::new();
    loop {
        match tokio::time::timeout(LIMIT, rpc.stream(peer, RPC_INFERENCE)).await {
            Ok(Ok(stream)) => held.push_back(stream),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        tally.streams.fetch_add(1, Relaxed);
        if held.len() > STREAMS {
            held.pop_front();
        }
    }
}

/// First messages of sessions: too long, too many rows, of no use.
async fn openings(rpc: &Rpc, peer: PeerId, uids: &str, width: usize, tally: &Tally) {
    let metadata = |length: i64| Value::map([("max_length", Value::Int(length))]).encode().into();
    let rows = |batch: usize, seq: usize| {
        let hidden = Hidden::from_f32((batch, seq, width), &vec![0.5; batch * seq * width]);
        hidden.and_then(|hidden| tensor::encode(&hidden, Compression::None).map_err(Into::into))
    };
    loop {
        for (length, batch, seq) in [(i64::MAX, 1, 1), (2048, 512, 1), (2048, 1, 4096), (-1, 1, 1)] {
            let Ok(hidden) = rows(batch, seq) else { continue };
            let request = proto::encode(&step_request(uids, hidden, None, metadata(length)));
            if let Ok(mut stream) = rpc.stream(peer, RPC_INFERENCE).await {
                let _ = stream.ask(request, 1 << 20, LIMIT).await;
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tally.openings.fetch_add(1, Relaxed);
        }
    }
}

/// Passes over the limit, of unknown blocks, and rubbish.
async fn passes(rpc: &Rpc, peer: PeerId, uids: &str, width: usize, tally: &Tally) {
    loop {
        for (uids, seq) in [(uids, 4096), ("nobody.0", 1), ("", 1)] {
            let hidden = Hidden::from_f32((1, seq, width), &vec![0.5; seq * width]);
            let Ok(tensor) = hidden.and_then(|hidden| tensor::encode(&hidden, Compression::None).map_err(Into::into))
            else {
                continue;
            };
            let request = proto::encode(&forward_request(uids, tensor, None));
            let _ = rpc.unary(peer, RPC_FORWARD, request, LIMIT).await;
            let _ = rpc.unary(peer, RPC_FORWARD, Bytes::from_static(&[0xff; 64]), LIMIT).await;
            tally.passes.fetch_add(2, Relaxed);
        }
    }
}

/// Records that nobody wants, each under a key of its own.
async fn records(rpc: &Rpc, peer: PeerId, tally: &Tally) {
    let expiration =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64());
    let mut nth = 0u64;
    loop {
        let mut request = StoreRequest::default();
        for _ in 0..RECORDS {
            nth += 1;
            let mut key = [0; 20];
            key[..8].copy_from_slice(&nth.to_le_bytes());
            request.keys.push(Bytes::copy_from_slice(&key));
            request.subkeys.push(Value::Nil.encode().into());
            request.values.push(Bytes::from(vec![0xc4; 1024]));
            request.expiration_time.push(expiration + 3600.0);
            request.in_cache.push(false);
        }
        let _ = rpc.unary(peer, "DHTProtocol.rpc_store", proto::encode(&request), LIMIT).await;
        tally.records.fetch_add(RECORDS, Relaxed);
    }
}
