//! Backward passes: they take turns with steps, and stop where nobody waits for them.

use std::sync::Arc;

use corolla_domain::{
    model::{BlockRange, Hidden, TokenId},
    ports::{BackwardInput, BlockEngine, FaultKind, Gradients, PortError},
};
use tokio::task::JoinHandle;

use crate::{
    BLOCKS, CACHE, House, WIDTH, go,
    plain::Event::{self, Back, Block, Embed},
    states,
};

/// Rows and positions of the passes.
const SHAPE: (usize, usize) = (8, 40);
/// Positions of the groups that go through a block at a time: three rows, three, and the two that are left.
const GROUPS: [usize; 3] = [120, 120, 80];

fn input((batch, seq): (usize, usize)) -> BackwardInput {
    BackwardInput { hidden: states(batch, seq, 1), gradient: states(batch, seq, 2), prompts: Vec::new() }
}

/// Begins a pass, and comes back when its first group is in the worker's queue.
async fn begin(engine: &Arc<dyn BlockEngine>) -> JoinHandle<Result<Gradients, PortError>> {
    let engine = engine.clone();
    let pass = tokio::spawn(async move { engine.backward(engine.hosted(), input(SHAPE)).await });
    tokio::task::yield_now().await;
    pass
}

/// What a pass does: up to the last block with its inputs, and back through all.
fn whole() -> Vec<Event> {
    let forth = (1..BLOCKS).flat_map(|_| GROUPS.map(Block));
    forth.chain((0..BLOCKS).flat_map(|_| GROUPS.map(Back))).collect()
}

/// Between two groups of a pass, a step of somebody else goes through all of its blocks.
#[tokio::test]
async fn one_token_steps_run_between_the_groups_of_a_pass() {
    for house in [House::llama().await, House::bloom().await] {
        let session = house.session(1, 5, 0).await;
        let mut gate = house.hold().await;
        let pass = begin(&house.engine).await;
        let (mut fed, mut answers) = (vec![states(1, 5, 0)], Vec::new());
        let mut short = go(session, states(1, 1, 1)).await;
        for (group, seed) in whole().into_iter().zip(1..) {
            for _ in 0..BLOCKS {
                assert_eq!(gate.next().await, Block(1));
            }
            assert_eq!(gate.next().await, group);
            let (session, answer) = short.await.unwrap();
            fed.push(states(1, 1, seed));
            answers.push(answer.unwrap());
            short = go(session, states(1, 1, seed + 1)).await;
        }
        drop(gate);
        short.await.unwrap().1.unwrap();
        assert_eq!(answers, house.lone(&fed).await[1..]);
        let alone = house.engine.backward(house.engine.hosted(), input(SHAPE)).await.unwrap();
        assert_eq!(pass.await.unwrap().unwrap(), alone);
    }
}

/// In groups or each row by itself: derivatives are the same.
#[tokio::test]
async fn rows_in_groups_equal_lone_ones() {
    let house = House::bloom().await;
    let together = house.engine.backward(house.engine.hosted(), input(SHAPE)).await.unwrap();
    for row in [0, 2, 3, 5, 6, 7] {
        let BackwardInput { hidden, gradient, prompts } = input(SHAPE);
        let of = |hidden: Hidden| hidden.rows(row, row + 1).unwrap();
        let alone = BackwardInput { hidden: of(hidden), gradient: of(gradient), prompts };
        let alone = house.engine.backward(house.engine.hosted(), alone).await.unwrap();
        assert_eq!(of(together.hidden.clone()), alone.hidden, "row {row}");
    }
}

/// A pass whose caller goes is over when the group that is under way is done, on the way forth and on the way back.
#[tokio::test]
async fn a_dropped_pass_is_not_computed() {
    let house = House::llama().await;
    for done in [1, 2, 7, 10] {
        let mut gate = house.hold().await;
        let pass = begin(&house.engine).await;
        for group in whole().into_iter().take(done) {
            assert_eq!(gate.next().await, group);
        }
        pass.abort();
        assert!(pass.await.is_err());
        assert_eq!(house.engine.free_tokens(), CACHE, "what it would have kept is free at once");
        let local = house.local.clone();
        let last = tokio::spawn(async move { local.embed(vec![vec![TokenId(1)]]).await });
        assert_eq!(gate.next().await, Embed, "after {done} groups");
        drop(gate);
        last.await.unwrap().unwrap();
        assert_eq!(house.ledger.caches(), 0);
    }
}

#[tokio::test]
async fn nothing_is_computed_of_a_pass_that_is_refused() {
    let house = House::llama().await;
    let all = house.engine.hosted();
    house.ledger.events();
    let beyond = BlockRange::new(all.start(), all.end() + 1).unwrap();
    let large = |batch: usize, seq: usize| {
        let zeros = Hidden::from_f32((batch, seq, WIDTH), &vec![0.0; batch * seq * WIDTH]).unwrap();
        BackwardInput { hidden: zeros.clone(), gradient: zeros, prompts: Vec::new() }
    };
    let uneven = BackwardInput { gradient: states(1, 2, 2), ..input((1, 3)) };
    for (range, bad) in [(all, large(CACHE / 2, 1)), (all, large(1, CACHE / 2)), (beyond, input((1, 3))), (all, uneven)]
    {
        let error = house.engine.backward(range, bad).await.unwrap_err();
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
    assert_eq!(house.ledger.events(), []);
}
