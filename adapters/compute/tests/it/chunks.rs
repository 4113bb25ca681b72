//! Longer steps: they run in chunks, and one-token steps in between.

use corolla_domain::model::{BlockRange, Hidden};

use crate::{BLOCKS, House, go, plain::Event::Block, states};

#[tokio::test]
async fn a_long_step_equals_one_in_pieces() {
    for house in [House::llama().await, House::bloom().await] {
        for (batch, lengths) in [(1, &[128, 128, 44][..]), (3, &[42, 42, 16]), (200, &[1, 1])] {
            let long = states(batch, lengths.iter().sum(), 1);
            let mut pieces = Vec::new();
            for length in lengths {
                let from = pieces.iter().map(Hidden::seq).sum();
                pieces.push(long.positions(from, from + length).unwrap());
            }
            house.ledger.events();
            let whole = house.lone(std::slice::from_ref(&long)).await;
            let wanted: Vec<_> = lengths.iter().flat_map(|length| [Block(batch * length); BLOCKS]).collect();
            assert_eq!(house.ledger.events(), wanted);
            assert_eq!(whole, [Hidden::concat(&house.lone(&pieces).await).unwrap()]);
        }
    }
}

/// Between two blocks of a chunk, a step of somebody else goes through all of its blocks.
#[tokio::test]
async fn one_token_steps_run_between_the_blocks_of_a_long_one() {
    let house = House::llama().await;
    let short = house.session(1, 5, 1).await;
    let long = house.session(1, 1, 2).await;
    let mut gate = house.hold().await;
    let long = go(long, states(1, 200, 3)).await;
    assert_eq!(gate.next().await, Block(128));
    let (mut fed, mut answers) = (vec![states(1, 5, 1)], Vec::new());
    let mut short = go(short, states(1, 1, 10)).await;
    for step in 10..15 {
        for _ in 0..BLOCKS {
            assert_eq!(gate.next().await, Block(1));
        }
        // What the long step does next, the short one's next step is queued before that is done.
        fed.push(states(1, 1, step));
        let rows = if step < 12 { 128 } else { 72 };
        assert_eq!(gate.next().await, Block(rows), "a block of the long step after a short one");
        let (session, answer) = short.await.unwrap();
        answers.push(answer.unwrap());
        short = go(session, states(1, 1, step + 1)).await;
    }
    drop(gate);
    assert!(short.await.unwrap().1.is_ok());
    assert_eq!(answers, house.lone(&fed).await[1..]);
    let wanted = house.lone(&[states(1, 1, 2), states(1, 200, 3)]).await;
    assert_eq!(long.await.unwrap().1.unwrap(), wanted[1]);
}

/// More rows than a batch may have: their step is a long one, of however few positions.
#[tokio::test]
async fn a_step_of_many_rows_lets_others_go_first() {
    let house = House::llama().await;
    let (many, one) = (house.session(40, 1, 1).await, house.session(1, 1, 2).await);
    let mut gate = house.hold().await;
    let (many, one) = (go(many, states(40, 1, 3)).await, go(one, states(1, 1, 4)).await);
    let mut events = Vec::new();
    for _ in 0..2 * BLOCKS {
        events.push(gate.next().await);
    }
    assert_eq!(events, [[Block(1); BLOCKS], [Block(40); BLOCKS]].concat());
    drop(gate);
    for (going, batch, seed) in [(many, 40, 1), (one, 1, 2)] {
        let answers = house.lone(&[states(batch, 1, seed), states(batch, 1, seed + 2)]).await;
        assert_eq!(going.await.unwrap().1.unwrap(), answers[1]);
    }
}

#[tokio::test]
async fn long_steps_take_turns() {
    let house = House::llama().await;
    let (first, second) = (house.session(1, 1, 1).await, house.session(1, 1, 2).await);
    let mut gate = house.hold().await;
    let (first, second) = (go(first, states(1, 300, 3)).await, go(second, states(1, 100, 4)).await);
    house.ledger.events();
    let mut events = Vec::new();
    for _ in 0..4 * BLOCKS {
        events.push(gate.next().await);
    }
    assert_eq!(
        events,
        [[Block(128); BLOCKS], [Block(100); BLOCKS], [Block(128); BLOCKS], [Block(44); BLOCKS]].concat()
    );
    drop(gate);
    for going in [first, second] {
        going.await.unwrap().1.unwrap();
    }
}

#[tokio::test]
async fn a_long_step_whose_caller_has_gone_stops_after_its_block() {
    let house = House::llama().await;
    let long = house.session(1, 1, 1).await;
    let mut gate = house.hold().await;
    let long = go(long, states(1, 300, 2)).await;
    assert_eq!(gate.next().await, Block(128));
    long.abort();
    assert!(long.await.is_err());
    let session = house.session_over(BlockRange::new(0, 1).unwrap(), 1);
    let (mut session, ()) = tokio::join!(session, async {
        tokio::task::yield_now().await;
        drop(gate);
    });
    assert_eq!(house.ledger.caches(), 1, "only the new session's");
    house.ledger.events();
    session.step(states(1, 1, 3).into()).await.unwrap();
    assert_eq!(house.ledger.events(), [Block(1)]);
}
