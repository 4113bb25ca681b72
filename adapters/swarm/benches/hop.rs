//! What a hop costs beyond the server's own time: `cargo bench -p corolla-swarm --bench hop [-- --json]`.
//!
//! One-token steps, batch 1, through 1, 2 and 4 servers that give back what they get. Client and servers are hosts of
//! their own in one process, each server with a thread of its own, and talk over TCP on loopback with noise and yamux.
//! So a step is everything but computing: encoding, both sides' transport, decoding. The share of the client is less
//! than that, since the servers' transport is in it. The slope is the cost of one more server in the chain.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on should fail")]

#[allow(dead_code, reason = "the tests of the client use the rest")]
#[path = "../tests/client/fake.rs"]
mod fake;

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden, Hop, ModelSpec, PeerId},
    ports::{BlockSession, RemoteSwarm, SessionNeed, StepInput},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm};
use fake::{BLOCKS, Fake, Manner, PREFIX};

const WIDTHS: [usize; 2] = [64, 14336];
const HOPS: [usize; 3] = [1, 2, 4];
const WARM_UP: usize = 50;
const STEPS: usize = 300;
/// Every number of hops gets its turn in each, so that a noisy minute spoils all of them alike.
const ROUNDS: usize = 5;

/// A server on a thread of its own; ends when this is dropped.
struct Server {
    peer: PeerId,
    address: String,
    _alive: SyncSender<()>,
}

impl Server {
    fn start(width: usize) -> Self {
        let (alive, dropped) = sync_channel::<()>(1);
        let (told, facts) = sync_channel(1);
        std::thread::spawn(move || serve(width, &told, &dropped));
        let (peer, address) = facts.recv().unwrap();
        Self { peer, address, _alive: alive }
    }
}

fn serve(width: usize, told: &SyncSender<(PeerId, String)>, dropped: &Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = runtime.block_on(Fake::start_wide(ElementType::F32, width));
    fake.set(Manner::Echo);
    told.send((PeerId(fake.host.peer_id().to_base58()), fake.address())).unwrap();
    let _ = dropped.recv(); // an error says that the other end was dropped
}

async fn client(width: usize, servers: &[Server]) -> PetalsSwarm {
    let spec = ModelSpec {
        id: "echo".into(),
        family: "bloom".into(),
        hidden: width,
        vocab: 1,
        blocks: BLOCKS,
        max_positions: None,
        eos: vec![],
        bos: None,
        dtype: "f32".into(),
    };
    let initial_peers = servers.iter().map(|server| server.address.clone()).collect();
    PetalsSwarm::start(PetalsConfig { initial_peers, ..PetalsConfig::new(&spec, PREFIX) }).await.unwrap()
}

/// The times of steps through the first `hops` servers.
async fn round(swarm: &PetalsSwarm, servers: &[Server], hops: usize, width: usize) -> Vec<Duration> {
    let mut chain: Vec<Box<dyn BlockSession>> = Vec::new();
    for server in &servers[..hops] {
        let hop = Hop { peer: server.peer.clone(), blocks: BlockRange::first(BLOCKS) };
        chain.push(swarm.dial(hop, SessionNeed { max_length: WARM_UP + STEPS, batch: 1 }).await.unwrap());
    }
    let token: Vec<f32> = (0..width).map(|i| i as f32).collect();
    let token = Hidden::from_f32((1, 1, width), &token).unwrap();
    let mut times = Vec::with_capacity(STEPS);
    for nth in 0..WARM_UP + STEPS {
        let begun = Instant::now();
        let mut hidden = token.clone();
        for session in &mut chain {
            hidden = session.step(StepInput { hidden }).await.unwrap();
        }
        if nth >= WARM_UP {
            times.push(begun.elapsed());
        }
        assert_eq!(hidden, token);
    }
    times
}

fn ms(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

/// The least squares line through the medians.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    over / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

#[tokio::main]
async fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    if !json {
        println!("{:>6} {:>5} {:>9} {:>9} {:>9}   ms a one-token step", "hidden", "hops", "min", "p50", "p99");
    }
    for width in WIDTHS {
        let most = HOPS.into_iter().max().unwrap();
        let servers: Vec<Server> = (0..most).map(|_| Server::start(width)).collect();
        let swarm = client(width, &servers).await;
        swarm.map(&"echo".into()).await.unwrap();
        let mut times = HOPS.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (hops, times) in HOPS.into_iter().zip(&mut times) {
                times.extend(round(&swarm, &servers, hops, width).await);
            }
        }
        let mut medians = Vec::new();
        for (hops, times) in HOPS.into_iter().zip(&mut times) {
            let [min, p50, p99] = [0, 50, 99].map(|percent| ms(times, percent));
            medians.push((hops as f64, p50));
            if json {
                println!(r#"{{"hidden":{width},"hops":{hops},"min_ms":{min:.4},"p50_ms":{p50:.4},"p99_ms":{p99:.4}}}"#);
            } else {
                println!("{width:>6} {hops:>5} {min:>9.3} {p50:>9.3} {p99:>9.3}");
            }
        }
        let per_hop = slope(&medians);
        if json {
            println!(r#"{{"hidden":{width},"per_hop_p50_ms":{per_hop:.4}}}"#);
        } else {
            println!("{width:>6}  more for each hop: {per_hop:.3} ms (p50)");
        }
    }
}
