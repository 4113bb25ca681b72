//! Against a swarm of stock Python servers of the seeded tiny BLOOM (or Llama) on loopback.
//!
//! ```text
//! INITIAL_PEER=/ip4/127.0.0.1/tcp/31400/p2p/Qm... GOLDEN=golden.json MODEL=tiny-bloom \
//!     cargo test -p corolla-swarm --test client_live -- --ignored --nocapture --test-threads 1
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod contract;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use corolla_domain::{
    model::{BlockRange, Hidden, Hop, ModelId, ModelSpec, SwarmMap},
    ports::{BlockSession, FaultKind, RemoteSwarm, SessionNeed, StepInput},
    routing::{Bans, Chain, plan},
};
use corolla_swarm::{
    PetalsConfig, PetalsSwarm,
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, PeerId},
    wire::inference::{RPC_INFO, info_request, parse_info},
};

const BLOCKS: usize = 4;
const NEED: SessionNeed = SessionNeed { max_length: 64, batch: 1 };

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

struct Live {
    swarm: Arc<PetalsSwarm>,
    rpc: Rpc,
    prefix: String,
    golden: serde_json::Value,
}

impl Live {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut PetalsConfig)) -> Self {
        let name = variable("MODEL", "tiny-bloom");
        let text = std::fs::read_to_string(variable("GOLDEN", "/tmp/petals/ref/golden.json")).unwrap();
        let golden = serde_json::from_str::<serde_json::Value>(&text).unwrap()["models"][&name].take();
        let prefix = golden["dht_prefix"].as_str().unwrap().to_owned();
        let spec = ModelSpec {
            id: name.as_str().into(),
            family: "bloom".into(),
            hidden: 64,
            vocab: 256,
            blocks: BLOCKS,
            max_positions: None,
            eos: vec![],
            bos: None,
            dtype: "f32".into(),
        };
        let peers = vec![variable("INITIAL_PEER", "")];
        let mut config = PetalsConfig { initial_peers: peers, ..PetalsConfig::new(&spec, &prefix) };
        change(&mut config);
        let rpc = Rpc::new(Host::start(HostConfig::default()).await.unwrap(), RpcLimits::default());
        let swarm = Arc::new(PetalsSwarm::over(rpc.clone(), config).await.unwrap());
        Self { swarm, rpc, prefix, golden }
    }

    fn model(&self) -> ModelId {
        ModelId(variable("MODEL", "tiny-bloom"))
    }

    async fn map(&self) -> Arc<SwarmMap> {
        self.swarm.map(&self.model()).await.unwrap()
    }

    async fn route(&self) -> Vec<Hop> {
        plan(&*self.map().await, BlockRange::first(BLOCKS), 64, |_| false).unwrap()
    }

    /// Hidden states of the golden file, `[1, seq, 64]`.
    fn hidden(&self, name: &str) -> Hidden {
        let rows = self.golden["hidden"][name].as_array().unwrap();
        let numbers: Vec<f32> =
            rows.iter().flat_map(|row| row.as_array().unwrap()).map(|n| n.as_f64().unwrap() as f32).collect();
        Hidden::from_f32((1, rows.len(), 64), &numbers).unwrap()
    }

    async fn free(&self, hop: &Hop) -> u64 {
        let peer: PeerId = hop.peer.0.parse().unwrap();
        let uid = format!("{}.{}", self.prefix, hop.blocks.start());
        let reply = self.rpc.unary(peer, RPC_INFO, info_request(&uid), Duration::from_secs(10)).await.unwrap();
        parse_info(reply).unwrap().cache_tokens_available.unwrap()
    }
}

async fn step(session: &mut dyn BlockSession, hidden: &Hidden, from: usize, to: usize) -> Hidden {
    session.step(StepInput::from(hidden.positions(from, to).unwrap())).await.unwrap()
}

/// The largest difference, as a part of the largest number.
fn apart(a: &Hidden, b: &Hidden) -> f32 {
    assert_eq!((a.batch(), a.seq(), a.width()), (b.batch(), b.seq(), b.width()));
    let largest = b.to_f32().into_iter().map(f32::abs).fold(f32::MIN_POSITIVE, f32::max);
    a.to_f32().iter().zip(b.to_f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

/// How far a run of blocks may be from the reference: f32 servers by default.
fn tolerance() -> f32 {
    variable("TOLERANCE", "0.0001").parse().unwrap()
}

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn the_map_is_complete_and_measured() {
    let begun = Instant::now();
    let live = Live::start().await;
    let map = live.map().await;
    println!("first map after {:?}", begun.elapsed());
    println!("{map:#?}");
    assert_eq!(map.missing(BlockRange::first(BLOCKS)), [] as [usize; 0]);
    assert!(map.servers.iter().all(|s| s.rtt.is_some_and(|rtt| rtt < Duration::from_secs(1))), "{map:?}");
    assert!(map.servers.iter().all(|s| s.free_tokens.is_some() && s.facts.version.is_some()), "{map:?}");
    let other = live.swarm.map(&"another".into()).await.unwrap_err();
    assert_eq!(other.kind(), FaultKind::NotFound);
}

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn hidden_states_are_those_of_the_reference() {
    let live = Live::start().await;
    let (input, middle, end) =
        (live.hidden("block_inputs_0"), live.hidden("after_block_1"), live.hidden("after_block_3"));
    let chain = || {
        let swarm: Arc<dyn RemoteSwarm> = live.swarm.clone();
        Chain::new(swarm, Arc::new(Bans::default()), live.model(), BlockRange::first(BLOCKS), NEED)
    };
    let whole = step(&mut chain(), &input, 0, input.seq()).await;
    println!("a prefill of {} positions is {:.1e} off", input.seq(), apart(&whole, &end));
    assert!(apart(&whole, &end) < tolerance());

    let mut pieces = chain();
    let mut outputs = Vec::new();
    for (from, to) in [(0, 4), (4, 5), (5, 6), (6, input.seq())] {
        outputs.push(step(&mut pieces, &input, from, to).await);
    }
    println!("route {:?}", pieces.route().iter().map(ToString::to_string).collect::<Vec<_>>());
    let joined = Hidden::concat(&outputs).unwrap();
    println!("the same in pieces is {:.1e} off", apart(&joined, &end));
    assert!(apart(&joined, &end) < tolerance());

    let hop = live.route().await.remove(0);
    if hop.blocks == BlockRange::first(2) {
        let mut half = live.swarm.dial(hop, NEED).await.unwrap();
        let output = step(&mut *half, &input, 0, input.seq()).await;
        println!("the lower half is {:.1e} off", apart(&output, &middle));
        assert!(apart(&output, &middle) < tolerance());
    }
}

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn rewinding_and_dropped_steps_are_as_if_never_gone() {
    let live = Live::start().await;
    let input = live.hidden("block_inputs_0");
    let hop = live.route().await.remove(0);
    let whole = step(&mut *live.swarm.dial(hop.clone(), NEED).await.unwrap(), &input, 0, input.seq()).await;
    let mut session = live.swarm.dial(hop, NEED).await.unwrap();
    step(&mut *session, &input, 0, 4).await;
    step(&mut *session, &input, 1, 5).await; // astray
    session.rewind(4).await.unwrap();
    for wait in [0, 200, 2000] {
        let hidden = input.positions(0, 3).unwrap();
        let wait = Duration::from_micros(wait);
        if tokio::time::timeout(wait, session.step(StepInput::from(hidden))).await.is_ok() {
            session.rewind(4).await.unwrap();
        }
        assert_eq!(session.position(), 4);
    }
    let rest = step(&mut *session, &input, 4, input.seq()).await;
    let off = apart(&rest, &whole.positions(4, input.seq()).unwrap());
    println!("after a rewind and dropped steps: {off:.1e} off");
    assert!(off < tolerance());
}

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn a_drop_frees_the_servers_cache_at_once_and_a_full_cache_is_capacity() {
    let live = Live::start().await;
    let hop = live.route().await.remove(0);
    let before = live.free(&hop).await;
    let session = live.swarm.dial(hop.clone(), NEED).await.unwrap();
    let during = live.free(&hop).await;
    drop(session);
    let dropped = Instant::now();
    while live.free(&hop).await != before {
        assert!(dropped.elapsed() < Duration::from_secs(5), "the cache was not freed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("cache {before}, {during} during a session; freed {:?} after the drop", dropped.elapsed());
    assert!(during < before);

    for max_length in [2048, 1 << 20] {
        let mut sessions = Vec::new();
        let refused = loop {
            match live.swarm.dial(hop.clone(), SessionNeed { max_length, batch: 1 }).await {
                Ok(session) => sessions.push(session),
                Err(refused) => break refused,
            }
        };
        println!("after {} sessions of {max_length}: {refused}", sessions.len());
        assert_eq!(refused.kind(), FaultKind::Capacity, "{refused}");
    }
}

/// `KILL` is the id of a process group, the server that is to die in the middle; without it nobody dies.
#[tokio::test]
#[ignore = "needs a reference swarm of its own, and KILL"]
async fn the_chain_survives_a_killed_server() {
    let live = Live::start().await;
    let (input, end) = (live.hidden("block_inputs_0"), live.hidden("after_block_3"));
    let swarm: Arc<dyn RemoteSwarm> = live.swarm.clone();
    let mut chain = Chain::new(swarm, Arc::new(Bans::default()), live.model(), BlockRange::first(BLOCKS), NEED);
    let mut outputs = vec![step(&mut chain, &input, 0, 8).await];
    println!("route {:?}", chain.route().iter().map(ToString::to_string).collect::<Vec<_>>());
    let victim = variable("KILL", "");
    if !victim.is_empty() {
        let killed = std::process::Command::new("kill").args(["-9", "--", &format!("-{victim}")]).status();
        assert!(killed.unwrap().success());
    }
    for at in 8..input.seq() {
        let begun = Instant::now();
        outputs.push(step(&mut chain, &input, at, at + 1).await);
        println!("step {at} took {:?}", begun.elapsed());
    }
    println!("route {:?}", chain.route().iter().map(ToString::to_string).collect::<Vec<_>>());
    let off = apart(&Hidden::concat(&outputs).unwrap(), &end);
    println!("{off:.1e} off");
    assert!(off < tolerance());
}

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn single_steps_are_timed() {
    let live = Live::start().await;
    let input = live.hidden("block_inputs_0").positions(0, 1).unwrap();
    let need = SessionNeed { max_length: 600, batch: 1 };
    for hop in live.route().await {
        let mut session = live.swarm.dial(hop.clone(), need).await.unwrap();
        let mut times = Vec::new();
        for _ in 0..320 {
            let begun = Instant::now();
            session.step(StepInput::from(input.clone())).await.unwrap();
            times.push(begun.elapsed());
        }
        let mut times = times.split_off(20);
        times.sort();
        let mean = times.iter().sum::<Duration>() / 300;
        println!("{hop}: {:.1} steps/s, p50 {:?}, p95 {:?}", 1.0 / mean.as_secs_f64(), times[150], times[285]);
    }
}
