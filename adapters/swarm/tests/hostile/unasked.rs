//! Servers that say more than they were asked.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::FaultKind;
use corolla_swarm::wire::proto::{self, ExpertResponse, Tensor};
use tokio::time::timeout;

use crate::{
    MEMORY, MIB,
    act::{Act, claim, record, reply},
    alone, assert_fault, cost,
    stage::{Stage, states, step},
    villain::Scripts,
};

type Answer = fn(Tensor) -> Act;

const PATIENCE: Duration = Duration::from_secs(20);

/// What comes behind an honest answer, whole or not, at once or in time: the next step does not take it for its own.
#[tokio::test]
async fn what_nobody_asked_for_is_not_taken_for_an_answer() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    let behind: [(&str, Answer); 4] = [
        ("a second answer", |t| Act::Say([reply(vec![t.clone()]), reply(vec![t])].concat().into())),
        ("half an answer", |t| Act::Say([&reply(vec![t])[..], &claim(100)[..7]].concat().into())),
        ("an error", |t| Act::Say([&reply(vec![t])[..], &[1, 0, 0, 0, 0, 0, 0, 0, 0]].concat().into())),
        ("endless answers", |t| Act::Endless(reply(vec![t.clone()]), reply(vec![t]))),
    ];
    for (name, script) in behind {
        stage.villain.set(Scripts { step: Some((1, Arc::new(script))), ..Scripts::default() });
        let work = async {
            let mut session = stage.dial().await.unwrap();
            step(&mut *session, &states(5, 1)).await.unwrap();
            let words = if name == "an error" { "failed" } else { "nobody asked for" };
            let fault = assert_fault(name, step(&mut *session, &states(3, 3)).await, FaultKind::Unavailable, words);
            assert!(fault.context().contains(&stage.villain.name()), "{fault}");
            stage.assert_taken_over(name).await;
        };
        let ((), time, peak) = cost(async { timeout(PATIENCE, work).await.unwrap() }).await;
        println!("{name}: {time:?}, {} KiB", peak / 1024);
        assert!(peak < 4 * MIB, "{name}: {peak} bytes");
    }
}

/// Sessions keep hidden states, not what they came in.
#[tokio::test]
async fn the_wrapping_of_an_answer_is_not_kept() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    let padded = |tensor: Tensor| {
        let metadata = Bytes::from(vec![7; 60_000]);
        record(&proto::encode(&ExpertResponse { tensors: vec![tensor], metadata }))
    };
    let mut kept = Vec::new();
    let before = MEMORY.current_usage();
    for nth in 0..64 {
        // A script answers once, so each answer comes from a session of its own.
        let script = move |tensor| Act::Say(padded(tensor));
        stage.villain.set(Scripts { step: Some((1, Arc::new(script))), ..Scripts::default() });
        let mut session = stage.dial().await.unwrap();
        kept.push(step(&mut *session, &states(1, nth)).await.unwrap());
    }
    let grown = MEMORY.current_usage().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes for {} hidden states", kept.len());
}
