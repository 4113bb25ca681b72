//! What a hop costs beyond the server's own time: `cargo bench -p corolla-swarm --bench hop [-- --json]`.
//!
//! One-token steps, batch 1, through 1, 2 and 4 servers that give back what they get. Client and servers are hosts of
//! their own in one process, each server with a thread of its own, and talk over TCP on loopback with noise and yamux.
//! So a step is everything but computing: encoding, both sides' transport, decoding. What the servers' threads compute
//! meanwhile, the servers' own time, is counted by the kernel; the rest is the client's, all waiting and waking included.
//! The slope is the cost of one more server in the chain.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on should fail")]

#[allow(dead_code, reason = "the tests of the client use the rest")]
#[path = "../tests/client/fake.rs"]
mod fake;

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden, Hop, PeerId},
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

/// How the kernel knows the servers' threads.
const SERVER: &str = "echo-server";

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
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).thread_name(SERVER).enable_all().build().unwrap();
    let fake = runtime.block_on(Fake::start_wide(ElementType::F32, width));
    fake.set(Manner::Echo);
    told.send((PeerId(fake.host.peer_id().to_base58()), fake.address())).unwrap();
    let _ = dropped.recv(); // an error says that the other end was dropped
}

async fn client(width: usize, servers: &[Server]) -> PetalsSwarm {
    let initial_peers = servers.iter().map(|server| server.address.clone()).collect();
    PetalsSwarm::start(PetalsConfig { initial_peers, ..PetalsConfig::new("echo", BLOCKS, width, PREFIX) })
        .await
        .unwrap()
}

/// Time that the servers' threads have been running, so far and together; nothing where the kernel does not say.
fn servers_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |folder: std::path::PathBuf| -> Option<u64> {
        let name = std::fs::read_to_string(folder.join("comm")).ok()?;
        let times = std::fs::read_to_string(folder.join("schedstat")).ok().filter(|_| name.trim() == SERVER)?;
        times.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter_map(|thread| of(thread.path())).sum())
}

/// What was measured with some number of hops.
#[derive(Default)]
struct Measured {
    steps: Vec<Duration>,
    servers: Duration,
}

/// Steps through the first `hops` servers.
async fn round(swarm: &PetalsSwarm, servers: &[Server], hops: usize, width: usize, measured: &mut Measured) {
    let mut chain: Vec<Box<dyn BlockSession>> = Vec::new();
    for server in &servers[..hops] {
        let hop = Hop { peer: server.peer.clone(), blocks: BlockRange::first(BLOCKS) };
        chain.push(swarm.dial(hop, SessionNeed { max_length: WARM_UP + STEPS, batch: 1 }).await.unwrap());
    }
    let token: Vec<f32> = (0..width).map(|i| i as f32).collect();
    let token = Hidden::from_f32((1, 1, width), &token).unwrap();
    let mut before = Duration::ZERO;
    for nth in 0..WARM_UP + STEPS {
        if nth == WARM_UP {
            before = servers_time();
        }
        let begun = Instant::now();
        let mut hidden = token.clone();
        for session in &mut chain {
            hidden = session.step(StepInput::from(hidden)).await.unwrap();
        }
        if nth >= WARM_UP {
            measured.steps.push(begun.elapsed());
        }
        assert_eq!(hidden, token);
    }
    measured.servers += servers_time() - before;
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
        println!("ms of a one-token step; `servers` is the servers' own time in it, `client` the rest of p50");
        println!(
            "{:>6} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "hidden", "hops", "min", "p50", "p99", "servers", "client"
        );
    }
    for width in WIDTHS {
        let most = HOPS.into_iter().max().unwrap();
        let servers: Vec<Server> = (0..most).map(|_| Server::start(width)).collect();
        let swarm = client(width, &servers).await;
        swarm.map(&"echo".into()).await.unwrap();
        let mut all = HOPS.map(|_| Measured::default());
        for _ in 0..ROUNDS {
            for (hops, measured) in HOPS.into_iter().zip(&mut all) {
                round(&swarm, &servers, hops, width, measured).await;
            }
        }
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for (hops, Measured { steps, servers }) in HOPS.into_iter().zip(&mut all) {
            let [min, p50, p99] = [0, 50, 99].map(|percent| ms(steps, percent));
            let theirs = servers.as_secs_f64() * 1e3 / steps.len() as f64;
            let ours = p50 - theirs;
            whole.push((hops as f64, p50));
            rest.push((hops as f64, ours));
            if json {
                let names = format!(r#""hidden":{width},"hops":{hops},"min_ms":{min:.4},"p50_ms":{p50:.4}"#);
                println!(r#"{{{names},"p99_ms":{p99:.4},"servers_ms":{theirs:.4},"client_ms":{ours:.4}}}"#);
            } else {
                println!("{width:>6} {hops:>5} {min:>8.3} {p50:>8.3} {p99:>8.3} {theirs:>8.3} {ours:>8.3}");
            }
        }
        let (whole, rest) = (slope(&whole), slope(&rest));
        if json {
            println!(r#"{{"hidden":{width},"per_hop_ms":{whole:.4},"per_hop_client_ms":{rest:.4}}}"#);
        } else {
            println!("{width:>6}  each further hop: {whole:.3} ms, of which {rest:.3} ms are the client's");
        }
    }
}
