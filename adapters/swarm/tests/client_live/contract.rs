//! The contract of the port over stock servers, and forward passes of both forms.

use std::{sync::Arc, time::Instant};

use corolla_domain::{
    model::{BlockRange, Hidden, Hop, PeerId},
    ports::{FaultKind, RemoteSwarm as _, SessionNeed, StepInput},
};
use testkit::{
    local_model::noise,
    remote_swarm::{LONGEST, Subject, all},
};

use crate::{BLOCKS, Live, apart, tolerance};

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn stock_servers_keep_the_ports_contract() {
    let live = Arc::new(Live::start().await);
    let mut idle = Vec::new();
    for server in &live.map().await.servers {
        let hop = Hop { peer: server.peer.clone(), blocks: server.blocks };
        // How much a session of the suite takes is measured: releases count differently.
        let free = live.free(&hop).await;
        let need = SessionNeed { max_length: LONGEST, batch: 1 };
        let session = live.swarm.dial(hop.clone(), need).await.unwrap();
        let taken = free - live.free(&hop).await;
        drop(session);
        println!("{hop}: {free} free, a session takes {taken}");
        assert!(taken > 0, "{hop}");
        idle.push((free, taken, hop));
    }
    let (observer, idle) = (live.clone(), Arc::new(idle));
    all(&Subject {
        swarm: live.swarm.clone(),
        model: live.model(),
        blocks: BlockRange::first(BLOCKS),
        width: 64,
        tolerance: tolerance(),
        nobody: PeerId(libp2p::PeerId::random().to_base58()),
        open_sessions: Box::new(move || {
            let (live, idle) = (observer.clone(), idle.clone());
            Box::pin(async move {
                let mut open = 0;
                for (all, taken, hop) in idle.iter() {
                    open += all.saturating_sub(live.free(hop).await).div_ceil(*taken);
                }
                usize::try_from(open).unwrap()
            })
        }),
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a reference swarm: see the head of this file"]
async fn forward_equals_sessions_whole_and_in_pieces() {
    // A stock server on a CPU takes 2048 positions at once, which are less than 1 MiB of so small a model.
    const MOST_UNARY: usize = 64 << 10;
    let live = Live::with(|config| config.most_unary = MOST_UNARY).await;
    for (batch, seq) in [(1, 7), (3, 16), (16, 16), (20, 31), (8, 256)] {
        let input = Hidden::from_f32((batch, seq, 64), &noise(batch * seq * 64, 3)).unwrap();
        let form = if input.data().len() > MOST_UNARY { "streamed" } else { "unary" };
        let (route, begun) = (live.route().await, Instant::now());
        let mut state = input.clone();
        for hop in &route {
            state = live.swarm.forward(hop.clone(), state).await.unwrap();
        }
        let took = begun.elapsed();
        let mut worst = 0.0f32;
        for row in [0, batch / 2, batch - 1] {
            let mut alone = input.rows(row, row + 1).unwrap();
            for hop in &route {
                let need = SessionNeed { max_length: seq, batch: 1 };
                let mut session = live.swarm.dial(hop.clone(), need).await.unwrap();
                alone = session.step(StepInput::from(alone)).await.unwrap();
            }
            worst = worst.max(apart(&state.rows(row, row + 1).unwrap(), &alone));
        }
        println!("{batch} rows of {seq} ({} bytes, {form}): {took:?}, {worst:.1e} off", input.data().len());
        assert!(worst < tolerance(), "{batch} rows of {seq}: {worst}");
    }
    let long = Hidden::from_f32((1, 2049, 64), &noise(2049 * 64, 4)).unwrap();
    let refused = live.swarm.forward(live.route().await.remove(0), long).await.unwrap_err();
    println!("{refused}");
    assert_eq!(refused.kind(), FaultKind::Capacity, "{refused}");
}
