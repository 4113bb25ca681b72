//! Steps of one token through a server that has all blocks: `steps INITIAL_PEER PREFIX BLOCKS HIDDEN SESSIONS STEPS`.
//!
//! Without embeddings, logits and text, so that what is measured is the server. As many sessions as asked step side by side,
//! each after its own step before; prints JSON: steps of all sessions per second, and milliseconds of a step (median, p99).

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use corolla_domain::{
    model::{BlockRange, Hidden, Hop},
    ports::{PortError, RemoteSwarm, SessionNeed},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm};
use tokio::{sync::Barrier, task::JoinSet};

const USAGE: &str = "usage: steps INITIAL_PEER PREFIX BLOCKS HIDDEN SESSIONS STEPS";
const WARM_UP: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peer, prefix, numbers @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let numbers: Vec<usize> = numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [blocks, width, sessions, steps] = numbers[..] else { return Err(USAGE.into()) };
    let config = PetalsConfig {
        initial_peers: vec![peer.clone()],
        ..PetalsConfig::new("measured", blocks, width, prefix.clone())
    };
    let swarm = Arc::new(PetalsSwarm::start(config).await?);
    let map = swarm.map(&"measured".into()).await?;
    let whole = BlockRange::first(blocks);
    let server = map.servers.iter().find(|server| server.blocks.contains(whole));
    let server = server.ok_or_else(|| format!("no server has all blocks: {map:?}"))?;
    let hop = Hop { peer: server.peer.clone(), blocks: whole };
    let (ready, mut running) = (Arc::new(Barrier::new(sessions + 1)), JoinSet::new());
    for nth in 0..sessions {
        running.spawn(session(swarm.clone(), hop.clone(), (nth, width, steps), ready.clone()));
    }
    ready.wait().await;
    let begun = Instant::now();
    let mut took = Vec::new();
    while let Some(times) = running.join_next().await {
        took.extend(times??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let report = serde_json::json!({
        "steps_per_s": took.len() as f64 / seconds, "median_ms": at(0.5), "p99_ms": at(0.99),
        "sessions": sessions, "steps": steps,
    });
    println!("{report}");
    Ok(())
}

/// How long each step of one session took.
async fn session(
    swarm: Arc<PetalsSwarm>,
    hop: Hop,
    (nth, width, steps): (usize, usize, usize),
    ready: Arc<Barrier>,
) -> Result<Vec<Duration>, PortError> {
    let mut session = swarm.dial(hop, SessionNeed { max_length: WARM_UP + steps, batch: 1 }).await?;
    let numbers: Vec<f32> = (0..width).map(|at| (((at * 7 + nth * 13) % 23) as f32 - 11.0) / 11.0).collect();
    let hidden = Hidden::from_f32((1, 1, width), &numbers)?;
    for _ in 0..WARM_UP {
        session.step(hidden.clone().into()).await?;
    }
    ready.wait().await;
    let mut took = Vec::with_capacity(steps);
    for _ in 0..steps {
        let begun = Instant::now();
        session.step(hidden.clone().into()).await?;
        took.push(begun.elapsed());
    }
    Ok(took)
}
