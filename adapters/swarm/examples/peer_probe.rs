//! Calls one peer of a swarm and prints what it says: `peer_probe INITIAL_PEER [PEER_ID] [CALLS]`.
//!
//! Without a peer id the initial peer itself is called; with one, its address is found through the initial peer.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use bytes::Bytes;
use corolla_swarm::{
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, Multiaddr, PeerId},
};

const LIMIT: Duration = Duration::from_secs(10);
/// A `PingRequest` of a client that wants its peer's clock.
const PING: &[u8] = &[0x12, 0x00, 0x18, 0x01];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: Multiaddr = arguments.next().ok_or("usage: peer_probe INITIAL_PEER [PEER_ID] [CALLS]")?.parse()?;
    let named = arguments.next().map(|text| text.parse::<PeerId>()).transpose()?;
    let calls = arguments.next().map_or(Ok(200), |text| text.parse::<usize>())?;
    let first: PeerId = address.to_string().rsplit('/').next().ok_or("an address without a peer id")?.parse()?;
    let peer = named.unwrap_or(first);

    let host = Host::start(HostConfig { initial_peers: vec![address], ..HostConfig::default() }).await?;
    let start = Instant::now();
    host.connect(peer).await?;
    println!("{} connected to {peer} in {:?}; connections {:?}", host.peer_id(), start.elapsed(), host.connected());
    let mut pings = Vec::new();
    for _ in 0..5 {
        pings.push(host.ping(peer).await?);
    }
    println!("ping {pings:?}");

    let rpc = Rpc::new(host, RpcLimits::default());
    show("DHTProtocol.rpc_ping", rpc.unary(peer, "DHTProtocol.rpc_ping", PING.into(), LIMIT).await);
    let info = "TransformerConnectionHandler.rpc_info";
    show(info, rpc.unary(peer, info, Bytes::new(), LIMIT).await);
    show("no such method", rpc.unary(peer, "Nobody.rpc_nothing", Bytes::new(), LIMIT).await);
    show("nonsense", rpc.unary(peer, "DHTProtocol.rpc_ping", Bytes::from_static(&[0xff; 9]), LIMIT).await);
    let inference = "TransformerConnectionHandler.rpc_inference";
    match rpc.stream(peer, inference).await {
        Ok(mut stream) => {
            stream.send(Bytes::new()).await?;
            println!("{inference}, empty request: {:?}", stream.next(LIMIT).await);
        }
        Err(error) => println!("{inference}: {error}"),
    }

    let mut times = Vec::new();
    for _ in 0..calls {
        let start = Instant::now();
        rpc.unary(peer, "DHTProtocol.rpc_ping", PING.into(), LIMIT).await?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("{calls} rpc_ping one by one: median {:?}, slowest {:?}", times[calls / 2], times[calls - 1]);
    let start = Instant::now();
    let mut parallel = tokio::task::JoinSet::new();
    for _ in 0..calls {
        let rpc = rpc.clone();
        parallel.spawn(async move { rpc.unary(peer, "DHTProtocol.rpc_ping", PING.into(), LIMIT).await });
    }
    let good = parallel.join_all().await.iter().filter(|outcome| outcome.is_ok()).count();
    println!("{calls} rpc_ping at once: {good} answered in {:?}", start.elapsed());
    Ok(())
}

fn show(what: &str, outcome: Result<Bytes, impl std::fmt::Debug>) {
    match outcome {
        Ok(bytes) => println!("{what}: {} bytes {}", bytes.len(), bytes.escape_ascii()),
        Err(error) => println!("{what}: {error:?}"),
    }
}
