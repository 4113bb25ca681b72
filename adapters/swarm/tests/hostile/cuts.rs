//! Answers cut at every byte, by an end of the stream and by a break.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::FaultKind;
use corolla_swarm::wire::proto::Tensor;

use crate::{
    MIB,
    act::{Act, reply, unary},
    alone, assert_fault, cost,
    stage::{Stage, states, step},
    villain::Scripts,
};

const PATIENCE: Duration = Duration::from_secs(20);
const PROMPT: Duration = Duration::from_secs(10);

fn cut(bytes: &Bytes, at: usize, broken: bool) -> Act {
    let bytes = bytes.slice(..at);
    if broken { Act::Break(bytes) } else { Act::End(bytes) }
}

#[tokio::test]
async fn a_step_cut_anywhere() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    let whole = {
        let mut session = stage.dial().await.unwrap();
        let wanted = step(&mut *session, &states(1, 1)).await.unwrap();
        let tensor = Tensor { buffer: wanted.data().clone(), size: vec![1, 1, 8], ..Tensor::default() };
        reply(vec![Tensor { dtype: "float32".into(), ..tensor }]).len()
    };
    for broken in [false, true] {
        for at in 0..whole {
            let script = move |tensor| cut(&reply(vec![tensor]), at, broken);
            stage.villain.set(Scripts { step: Some((1, Arc::new(script))), ..Scripts::default() });
            let mut session = stage.dial().await.unwrap();
            let (outcome, time, peak) = cost(step(&mut *session, &states(1, 1))).await;
            let fault = assert_fault(&format!("{at}, {broken}"), outcome, FaultKind::Unavailable, "");
            assert!(fault.context().contains(&stage.villain.name()), "{fault}");
            assert!(time < PROMPT && peak < MIB, "cut at {at}: {time:?}, {peak} bytes");
        }
    }
    let script = move |tensor| cut(&reply(vec![tensor]), whole, false);
    stage.villain.set(Scripts { step: Some((1, Arc::new(script))), ..Scripts::default() });
    let mut session = stage.dial().await.unwrap();
    step(&mut *session, &states(1, 1)).await.unwrap();
}

#[tokio::test]
async fn an_introduction_cut_anywhere() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    let length = Arc::new(std::sync::OnceLock::new());
    let seen = length.clone();
    let script = move |info: Bytes| {
        let _ = seen.set(unary(info).len());
        Act::Break(Bytes::new())
    };
    stage.villain.set(Scripts { info: Some(Arc::new(script)), ..Scripts::default() });
    assert!(stage.dial().await.is_err());
    for broken in [false, true] {
        for at in 0..*length.get().unwrap() {
            let script = move |info: Bytes| cut(&unary(info), at, broken);
            stage.villain.set(Scripts { info: Some(Arc::new(script)), ..Scripts::default() });
            let (outcome, time, peak) = cost(stage.dial()).await;
            let fault = assert_fault(&format!("{at}, {broken}"), outcome, FaultKind::Unavailable, "rpc_info");
            assert!(fault.context().contains(&stage.villain.name()), "{fault}");
            assert!(time < PROMPT && peak < MIB, "cut at {at}: {time:?}, {peak} bytes");
        }
    }
    stage.villain.set(Scripts::default());
    stage.dial().await.unwrap();
}
