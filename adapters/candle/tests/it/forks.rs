//! Sessions that begin as a copy of another, over real pages: the same numbers, to the bit, as those of a lone session.

use corolla_compute::PAGE;
use corolla_domain::{
    fit::{self, KvType},
    model::Hidden,
    ports::{BlockSession, SessionNeed, StepInput},
};
use tempfile::TempDir;
use testkit::{
    local_model::noise,
    run::{Loaded, session},
    tiny::{Dtype, Tiny},
};

use crate::{
    contract::SIZE,
    run::{config, cpu, keeping, load_as},
};

const LENGTH: usize = 5 * PAGE;

fn states(seq: usize, seed: u64) -> Hidden {
    Hidden::from_f32((1, seq, SIZE.hidden), &noise(seq * SIZE.hidden, seed)).unwrap()
}

async fn step(session: &mut dyn BlockSession, hidden: Hidden) -> Vec<u32> {
    let out = session.step(StepInput::from(hidden)).await.unwrap();
    out.to_f32().into_iter().map(f32::to_bits).collect()
}

/// A lone session that was fed those pieces: what it answered to the last.
async fn alone(model: &Loaded, pieces: &[Hidden]) -> Vec<u32> {
    let mut lone = session(model, LENGTH).await;
    let mut last = Vec::new();
    for piece in pieces {
        last = step(&mut *lone, piece.clone()).await;
    }
    last
}

#[tokio::test]
async fn forks_answer_what_lone_sessions_answer_to_the_bit() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    let targets = KvType::ALL.into_iter().map(keeping).chain([cpu(fit::Dtype::Stored)]);
    for target in targets {
        let model = load_as(config(folder.path()), target).await;
        let before = model.engine.free_tokens();
        // To the end of a page, into the next one, and over its end.
        let begin = [states(2 * PAGE, 1), states(9, 2), states(PAGE, 3)];
        let mut first = session(&model, LENGTH).await;
        for piece in &begin {
            step(&mut *first, piece.clone()).await;
        }
        for common in 0..=begin.len() {
            let mut fed = begin[..common].to_vec();
            let to = fed.iter().map(Hidden::seq).sum();
            let mut fork = first.fork(to, SessionNeed { max_length: LENGTH, batch: 1 }).await.unwrap();
            for (nth, count) in [1, 7, 1, PAGE, 1].into_iter().enumerate() {
                let new = states(count, 10 + nth as u64);
                fed.push(new.clone());
                let found = step(&mut *fork, new).await;
                assert_eq!(found, alone(&model, &fed).await, "{target:?}: {count} positions after a fork at {to}");
            }
        }
        let on = step(&mut *first, states(1, 4)).await;
        assert_eq!(on, alone(&model, &[&begin[..], &[states(1, 4)]].concat()).await, "{target:?}: what was forked");
        drop(first);
        assert_eq!(model.engine.free_tokens(), before);
    }
}

/// Forks and the session they were forked from that step at once, in one batch.
#[tokio::test]
async fn forks_of_one_session_that_run_together_are_as_if_they_were_alone() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    let model = load_as(config(folder.path()), keeping(KvType::Q8)).await;
    let begin = states(PAGE + 30, 1);
    let mut first = session(&model, LENGTH).await;
    step(&mut *first, begin.clone()).await;
    let mut all = vec![first];
    for _ in 0..3 {
        let fork = all[0].fork(PAGE + 30, SessionNeed { max_length: 2 * PAGE, batch: 1 }).await.unwrap();
        all.push(fork);
    }
    let mut fed = vec![vec![begin]; all.len()];
    for nth in 0..8u64 {
        let steps = all.iter_mut().zip(&mut fed).enumerate().map(async |(which, (session, fed))| {
            let new = states(1, 100 * nth + which as u64);
            fed.push(new.clone());
            step(&mut **session, new).await
        });
        let found = futures_util::future::join_all(steps).await;
        for (found, fed) in found.into_iter().zip(&fed) {
            assert_eq!(found, alone(&model, fed).await);
        }
    }
}
