//! One-token steps that run together.

use corolla_domain::{
    model::BlockRange,
    ports::{FaultKind, SessionNeed},
};

use crate::{
    BLOCKS, CACHE, Going, House, go,
    plain::{Event::Block, Fate},
    states,
};

/// Sessions that have seen 1, 2, ... positions, and a step of each that waits.
async fn waiting(house: &House, sessions: usize) -> (crate::plain::Gate, Vec<Going>) {
    let mut open = Vec::new();
    for nth in 0..sessions {
        open.push(house.session(1, nth + 1, nth as u64).await);
    }
    house.ledger.events();
    let gate = house.hold().await;
    let mut going = Vec::new();
    for (nth, session) in open.into_iter().enumerate() {
        going.push(go(session, states(1, 1, 100 + nth as u64)).await);
    }
    (gate, going)
}

/// Asserts that a step of [`waiting`] was answered as if it had been alone, and that its session goes on like that.
async fn assert_as_if_alone(house: &House, nth: usize, going: Going) {
    let (mut session, answer) = going.await.unwrap();
    let (seed, more) = (nth as u64, states(1, 2, 200 + nth as u64));
    let answers = house.lone(&[states(1, nth + 1, seed), states(1, 1, 100 + seed), more.clone()]).await;
    assert_eq!(answer.unwrap(), answers[1], "session {nth}");
    assert_eq!(session.step(more.into()).await.unwrap(), answers[2], "session {nth} afterwards");
}

#[tokio::test]
async fn steps_that_wait_run_together() {
    for house in [House::llama().await, House::bloom().await] {
        let (mut gate, going) = waiting(&house, 5).await;
        for _ in 0..BLOCKS {
            assert_eq!(gate.next().await, Block(5));
        }
        drop(gate);
        for (nth, going) in going.into_iter().enumerate() {
            assert_as_if_alone(&house, nth, going).await;
        }
    }
}

#[tokio::test]
async fn a_lone_step_waits_for_nobody() {
    let house = House::llama().await;
    let session = house.session(1, 1, 0).await;
    house.ledger.events();
    go(session, states(1, 1, 1)).await.await.unwrap().1.unwrap();
    assert_eq!(house.ledger.events(), [Block(1); BLOCKS]);
}

#[tokio::test]
async fn who_comes_in_time_catches_up() {
    let house = House::bloom().await;
    let late = [house.session(1, 2, 1).await, house.session(1, 3, 2).await];
    let (mut gate, mut going) = waiting(&house, 1).await;
    assert_eq!(gate.next().await, Block(1));
    for (nth, session) in late.into_iter().enumerate() {
        going.push(go(session, states(1, 1, 101 + nth as u64)).await);
    }
    let mut events = Vec::new();
    for _ in 0..BLOCKS {
        events.push(gate.next().await);
    }
    assert_eq!(events, [Block(2), Block(3), Block(3)], "the first block for two, then the others for all");
    drop(gate);
    for (nth, going) in going.into_iter().enumerate() {
        assert_as_if_alone(&house, nth, going).await;
    }
}

/// Three would wait two blocks each for one who saves one.
#[tokio::test]
async fn nobody_catches_up_where_that_costs_more_than_it_saves() {
    let house = House::llama().await;
    let late = house.session(1, 4, 3).await;
    let (mut gate, mut going) = waiting(&house, 3).await;
    assert_eq!([gate.next().await, gate.next().await], [Block(3); 2]);
    going.push(go(late, states(1, 1, 103)).await);
    assert_eq!(gate.next().await, Block(3));
    assert_eq!([gate.next().await, gate.next().await, gate.next().await], [Block(1); BLOCKS]);
    drop(gate);
    for (nth, going) in going.into_iter().enumerate() {
        assert_as_if_alone(&house, nth, going).await;
    }
}

#[tokio::test]
async fn a_batch_has_a_bounded_number_of_rows() {
    let house = House::llama().await;
    let mut open = vec![house.session(30, 1, 0).await];
    for nth in 1..6 {
        open.push(house.session(1, 1, nth).await);
    }
    house.ledger.events();
    let mut gate = house.hold().await;
    let mut going = Vec::new();
    for session in open {
        let rows = if going.is_empty() { 30 } else { 1 };
        going.push(go(session, states(rows, 1, 7)).await);
    }
    let mut events = Vec::new();
    for _ in 0..2 * BLOCKS {
        events.push(gate.next().await);
    }
    assert_eq!(events, [[Block(32); BLOCKS], [Block(3); BLOCKS]].concat());
    drop(gate);
    for going in going {
        going.await.unwrap().1.unwrap();
    }
}

#[tokio::test]
async fn other_blocks_are_another_batch() {
    let house = House::llama().await;
    let part = |start, end| BlockRange::new(start, end).unwrap();
    let mut open = Vec::new();
    for (start, end) in [(0, 2), (0, 3), (0, 2), (1, 3)] {
        open.push(house.session_over(part(start, end), 1).await);
    }
    let mut gate = house.hold().await;
    let mut going = Vec::new();
    for session in open {
        going.push(go(session, states(1, 1, 7)).await);
    }
    let mut events = Vec::new();
    for _ in 0..2 + 3 + 2 {
        events.push(gate.next().await);
    }
    assert_eq!(events, [&[Block(2); 2][..], &[Block(1); 5]].concat());
    drop(gate);
    for going in going {
        going.await.unwrap().1.unwrap();
    }
}

#[tokio::test]
async fn who_goes_in_mid_batch_disturbs_nobody_and_leaves_nothing() {
    let house = House::llama().await;
    let (mut gate, mut going) = waiting(&house, 3).await;
    assert_eq!(gate.next().await, Block(3));
    let gone = going.remove(1);
    gone.abort();
    assert!(gone.await.is_err());
    assert_eq!([gate.next().await, gate.next().await], [Block(2); 2]);
    assert_eq!(house.ledger.caches(), 2 * BLOCKS, "its cache is freed before the others are done");
    assert_eq!(house.engine.free_tokens(), CACHE - 2 * 512);
    drop(gate);
    for (nth, going) in [0, 2].into_iter().zip(going) {
        assert_as_if_alone(&house, nth, going).await;
    }
    assert_eq!((house.ledger.caches(), house.engine.free_tokens()), (0, CACHE));
}

/// The session lives on: only its step was dropped, in mid-batch, and it asks anew at once.
#[tokio::test]
async fn a_step_dropped_in_mid_batch_was_never_called() {
    let house = House::bloom().await;
    let mut dropped = house.session(1, 3, 2).await;
    let (mut gate, going) = waiting(&house, 2).await;
    {
        let mut step = dropped.step(states(1, 1, 55).into());
        assert!(futures_util::poll!(&mut step).is_pending());
        assert_eq!(gate.next().await, Block(3));
    }
    let again = go(dropped, states(1, 1, 102)).await;
    assert_eq!(gate.next().await, Block(1), "it catches up");
    assert_eq!(gate.next().await, Block(3));
    drop(gate);
    for (nth, going) in going.into_iter().chain([again]).enumerate() {
        assert_as_if_alone(&house, nth, going).await;
    }
}

#[tokio::test]
async fn where_all_have_gone_nothing_is_computed() {
    let house = House::llama().await;
    let (mut gate, going) = waiting(&house, 3).await;
    assert_eq!(gate.next().await, Block(3));
    for going in going {
        going.abort();
        assert!(going.await.is_err());
    }
    let last = house.local.clone();
    let last = tokio::spawn(async move { last.embed(vec![vec![corolla_domain::model::TokenId(1)]]).await });
    assert_eq!(gate.next().await, crate::plain::Event::Embed);
    drop(gate);
    last.await.unwrap().unwrap();
    assert_eq!(house.ledger.caches(), 0);
}

/// The one at position 2, and nobody else, whether its cache reports an error or panics.
#[tokio::test]
async fn a_session_whose_cache_fails_fails_alone() {
    for (fate, kind) in [(Fate::Failure, FaultKind::Capacity), (Fate::Panic, FaultKind::Internal)] {
        let house = House::llama().await;
        let (gate, mut going) = waiting(&house, 4).await;
        house.ledger.decide(move |place| if place.position == 2 { fate } else { Fate::Success });
        drop(gate);
        let (mut session, answer) = going.remove(1).await.unwrap();
        assert_eq!((answer.unwrap_err().kind(), session.position()), (kind, 2));
        house.ledger.decide(|_| Fate::Success);
        let answers = house.lone(&[states(1, 2, 1), states(1, 1, 101)]).await;
        assert_eq!(session.step(states(1, 1, 101).into()).await.unwrap(), answers[1], "as if never called");
        for (nth, going) in [0, 2, 3].into_iter().zip(going) {
            assert_as_if_alone(&house, nth, going).await;
        }
    }
}

#[tokio::test]
async fn the_budget_is_free_as_soon_as_a_session_is_dropped() {
    let house = House::llama().await;
    let need = SessionNeed { max_length: CACHE, batch: 1 };
    for _ in 0..200 {
        let mut session = house.engine.open(house.engine.hosted(), need).await.unwrap();
        session.step(states(1, 1, 1).into()).await.unwrap();
        drop(session);
        assert_eq!(house.engine.free_tokens(), CACHE);
    }
}
