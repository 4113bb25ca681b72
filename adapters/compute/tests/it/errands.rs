//! Everything that is not a step: scores for all who want some, short calls, and calls that fail.

use corolla_compute::{LoadConfig, Model};
use corolla_domain::{
    model::{LogitRow, TokenId, Want},
    ports::FaultKind,
};

use crate::{
    House, go,
    plain::{Event::Block, Event::Embed, Event::Head, Fate, Plain},
    states,
};

#[tokio::test]
async fn scores_are_computed_for_all_at_once() {
    let house = House::llama().await;
    let mut gate = house.hold().await;
    let mut going = Vec::new();
    for seed in 0..4 {
        let local = house.local.clone();
        going.push(tokio::spawn(async move { local.logits(states(1, 1, seed), Want::All).await }));
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.next().await, Head(4));
    drop(gate);
    for (seed, going) in going.into_iter().enumerate() {
        let alone = house.local.logits(states(1, 1, seed as u64), Want::All).await.unwrap();
        assert_eq!(going.await.unwrap().unwrap().rows, alone.rows);
    }
}

/// A whole prompt is scored a few rows at a time, and one row for somebody else goes with the first of them.
#[tokio::test]
async fn many_rows_of_scores_leave_room_for_one() {
    let house = House::llama().await;
    let want = || Want::Top { k: 2, also: vec![TokenId(7)] };
    let mut gate = house.hold().await;
    let (local, other) = (house.local.clone(), house.local.clone());
    let many = tokio::spawn(async move { local.logits(states(2, 15, 1), want()).await });
    tokio::task::yield_now().await;
    let one = tokio::spawn(async move { other.logits(states(1, 1, 2), want()).await });
    tokio::task::yield_now().await;
    assert_eq!([gate.next().await, gate.next().await, gate.next().await], [Head(9), Head(16), Head(6)]);
    drop(gate);
    let rows: Vec<LogitRow> = many.await.unwrap().unwrap().rows;
    let mut alone = Vec::new();
    for row in 0..2 {
        for at in 0..15 {
            let one = states(2, 15, 1).rows(row, row + 1).unwrap().positions(at, at + 1).unwrap();
            alone.extend(house.local.logits(one, want()).await.unwrap().rows);
        }
    }
    assert_eq!(rows, alone);
    assert_eq!(one.await.unwrap().unwrap().rows, house.local.logits(states(1, 1, 2), want()).await.unwrap().rows);
}

#[tokio::test]
async fn short_calls_and_scores_do_not_wait_for_a_batch_to_end() {
    let house = House::llama().await;
    let session = house.session(1, 3, 1).await;
    let mut gate = house.hold().await;
    let going = go(session, states(1, 1, 2)).await;
    assert_eq!(gate.next().await, Block(1));
    let (local, other) = (house.local.clone(), house.local.clone());
    let embedded = tokio::spawn(async move { local.embed(vec![vec![TokenId(5)]]).await });
    let scored = tokio::spawn(async move { other.logits(states(1, 1, 3), Want::All).await });
    tokio::task::yield_now().await;
    assert_eq!([gate.next().await, gate.next().await, gate.next().await], [Embed, Head(1), Block(1)]);
    drop(gate);
    going.await.unwrap().1.unwrap();
    embedded.await.unwrap().unwrap();
    scored.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_fails_its_call_only() {
    let house = House::llama().await;
    let mut session = house.session(1, 2, 1).await;
    house.ledger.decide(|_| Fate::Panic);
    for seq in [1, 3] {
        let error = session.step(states(1, seq, 2).into()).await.unwrap_err();
        assert_eq!(error.kind(), FaultKind::Internal);
        assert!(error.context().contains("a made-up panic"), "{error}");
    }
    house.ledger.decide(|_| Fate::Success);
    let answers = house.lone(&[states(1, 2, 1), states(1, 1, 2)]).await;
    assert_eq!(session.step(states(1, 1, 2).into()).await.unwrap(), answers[1]);
}

#[tokio::test]
async fn a_panic_while_loading_is_an_error() {
    let config = LoadConfig {
        id: "none".into(),
        path: "/nowhere".into(),
        ends: true,
        blocks: corolla_compute::BlockChoice::All,
        cache_tokens: 1,
    };
    let made = Model::load::<Plain>(config, || panic!("no luck")).await;
    assert!(made.is_err_and(|e| e.context().contains("no luck")));
}

#[tokio::test]
async fn a_call_whose_caller_has_gone_is_not_run() {
    let house = House::llama().await;
    let gate = house.hold().await;
    house.ledger.events();
    let local = house.local.clone();
    let gone = tokio::spawn(async move { local.embed(vec![vec![TokenId(5)]]).await });
    let session = house.session_over(house.engine.hosted(), 1);
    let mut session = Box::pin(session);
    assert!(futures_util::poll!(&mut session).is_pending());
    tokio::task::yield_now().await;
    gone.abort();
    assert!(gone.await.is_err());
    drop(session);
    drop(gate);
    house.local.embed(vec![vec![TokenId(6)]]).await.unwrap();
    assert_eq!(house.ledger.events(), [Embed], "only the last one");
    assert_eq!((house.ledger.caches(), house.engine.free_tokens()), (0, crate::CACHE));
}
