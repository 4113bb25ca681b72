use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{Pace, QUALITY, Seat, Trial, abandons, choose, measure, missing, reconsider};
use crate::{
    model::BlockRange,
    ports::{FaultKind, MockBlockEngine, MockBlockSession, PortError},
};

fn seat(peer: &str, (start, end): (usize, usize), throughput: f64) -> Seat {
    let blocks = BlockRange::new(start, end).unwrap();
    Seat { peer: peer.into(), blocks, throughput, online: true }
}

fn loading(seat: Seat) -> Seat {
    Seat { online: false, ..seat }
}

/// Where the first of them should move.
fn goal(seats: &[Seat], blocks: usize) -> Option<String> {
    reconsider(&seats[0], seats, blocks, QUALITY, &mut |_| ()).map(|range| range.to_string())
}

#[test]
fn who_comes_first_takes_the_first_blocks_and_the_next_the_next() {
    assert_eq!(choose(&[], 8, 3).to_string(), "0:3");
    let a = seat("a", (0, 3), 1.0);
    assert_eq!(choose(std::slice::from_ref(&a), 8, 3).to_string(), "3:6");
    assert_eq!(choose(&[a.clone(), seat("b", (3, 6), 1.0)], 8, 3).to_string(), "5:8");
    assert_eq!(choose(&[a], 8, 99).to_string(), "0:8", "no model has more blocks than it has");
    assert_eq!(choose(&[], 8, 0).to_string(), "0:1");
}

#[test]
fn a_server_that_loads_counts_where_one_is_chosen_for() {
    assert_eq!(choose(&[loading(seat("a", (0, 2), 1.0))], 4, 2).to_string(), "2:4");
}

#[test]
fn nobody_leaves_blocks_that_only_he_serves() {
    let slow = [seat("a", (0, 2), 100.0), seat("b", (2, 4), 1.0)];
    assert_eq!(goal(&slow, 4), None);
    let mut twice = vec![seat("a", (0, 2), 100.0), seat("b", (2, 4), 1.0), seat("c", (0, 2), 100.0)];
    assert_eq!(goal(&twice, 4).as_deref(), Some("2:4"));
    twice[2].online = false;
    assert_eq!(goal(&twice, 4), None, "c is not there yet");
}

#[test]
fn a_move_must_pay() {
    let seats = |slow| [seat("a", (0, 2), 10.0), seat("b", (2, 4), slow), seat("c", (0, 2), 10.0)];
    // The weakest block would do as much as the two fast ones let it: 10 instead of `slow`.
    assert_eq!(goal(&seats(7.4), 4).as_deref(), Some("2:4"));
    assert_eq!(goal(&seats(7.6), 4), None);
}

#[test]
fn a_missing_block_gets_the_server_that_is_there_twice() {
    assert_eq!(goal(&[seat("b", (0, 2), 1.0), seat("a", (0, 2), 9.0)], 4).as_deref(), Some("2:4"));
    assert_eq!(goal(&[seat("a", (0, 2), 9.0)], 4), None, "nobody gains where another block is missing then");
    let nothing = seat("b", (0, 2), 0.0);
    assert_eq!(goal(&[nothing, seat("a", (0, 2), 0.0)], 4).as_deref(), Some("2:4"), "whatever they promise");
    // The middle one only makes room: the last one can then take the missing block.
    let row = [seat("m", (1, 3), 5.0), seat("a", (0, 2), 1.0), seat("z", (3, 5), 9.0)];
    assert_eq!(goal(&row, 6).as_deref(), Some("2:4"));
    let row = [seat("z", (3, 5), 9.0), seat("a", (0, 2), 1.0), seat("m", (2, 4), 5.0)];
    assert_eq!(goal(&row, 6).as_deref(), Some("4:6"));
    let row = [seat("a", (3, 5), 5.0), seat("b", (1, 4), 1.0), seat("c", (5, 6), 9.0)];
    assert_eq!(goal(&row, 6), None, "block 4 is its own, and 0 is too far");
    let row = [seat("b", (1, 4), 1.0), seat("a", (3, 5), 5.0), seat("c", (5, 6), 9.0)];
    assert_eq!(goal(&row, 6).as_deref(), Some("0:3"));
}

#[test]
fn what_strangers_claim_does_not_break_the_rule() {
    let own = seat("a", (0, 2), 1.0);
    for claim in [f64::INFINITY, f64::NAN, f64::MAX, -5.0, 0.0] {
        let seats = [own.clone(), seat("b", (0, 4), claim), seat("c", (2, 90), claim), seat("d", (50, 90), claim)];
        let found = reconsider(&own, &seats, 4, QUALITY, &mut |_| ());
        assert!(found.is_none_or(|range| range.end() <= 4));
        assert!(choose(&seats, 4, 2).end() <= 4);
    }
    // Not itself, but somebody under its name.
    assert_eq!(goal(&[own, seat("a", (2, 4), 1.0)], 4), None);
    assert_eq!(goal(&[seat("a", (0, 4), 1.0)], 4), None, "who has everything stays");
    assert_eq!(goal(&[seat("a", (2, 9), 1.0)], 8), None, "a span beyond the model is nowhere to begin from");
}

#[test]
fn blocks_are_abandoned_where_nobody_else_serves_them() {
    let others = [seat("b", (0, 3), 1.0), loading(seat("c", (3, 5), 1.0))];
    let span = |start, end| BlockRange::new(start, end).unwrap();
    assert!(!abandons(span(1, 3), &others));
    assert!(abandons(span(2, 4), &others), "c only loads block 3");
    assert_eq!(missing(&others, 7), [5, 6]);
}

/// An engine of two blocks whose clock only goes on while it computes: `step` ms for each position.
fn engine(step: u64, room: usize) -> (MockBlockEngine, Arc<AtomicU64>, Arc<AtomicUsize>) {
    let (clock, stepped) = (Arc::new(AtomicU64::new(7)), Arc::new(AtomicUsize::new(0)));
    let mut mock = MockBlockEngine::new();
    mock.expect_hosted().returning(|| BlockRange::new(3, 5).unwrap());
    mock.expect_free_tokens().return_const(room);
    let (time, count) = (clock.clone(), stepped.clone());
    mock.expect_open().returning(move |range, need| {
        assert_eq!(range.len(), 2);
        if need.max_length > room {
            return Err(PortError::new(FaultKind::Capacity, "no room"));
        }
        let (time, count, mut left) = (time.clone(), count.clone(), need.max_length);
        let mut session = MockBlockSession::new();
        session.expect_step().returning(move |input| {
            left = left.checked_sub(input.hidden.seq()).expect("no more than was set aside");
            time.fetch_add(step * input.hidden.seq() as u64, SeqCst);
            count.fetch_add(input.hidden.seq(), SeqCst);
            Ok(input.hidden)
        });
        Ok(Box::new(session))
    });
    (mock, clock, stepped)
}

async fn measured(step: u64, room: usize, trial: Trial) -> (Result<Pace, PortError>, usize) {
    let (engine, clock, stepped) = engine(step, room);
    let clock = move || Duration::from_millis(clock.load(SeqCst));
    (measure(&engine, 4, trial, &clock).await, stepped.load(SeqCst))
}

#[tokio::test]
async fn an_engine_is_tried_for_as_long_as_is_needed_to_tell() {
    let (quick, positions) = measured(1, 5000, Trial::default()).await;
    assert_eq!(quick.unwrap(), Pace { inference: 2000.0, forward: 2000.0 });
    assert_eq!(positions, 100 + 32 + 64 + 128 + 256 + 512 + 1024);
    let (slow, positions) = measured(500, 5000, Trial::default()).await;
    assert_eq!(slow.unwrap(), Pace { inference: 4.0, forward: 4.0 });
    assert_eq!(positions, 2 + 4 + 32, "a slow one is not kept busy for long");
    let (small, positions) = measured(1, 40, Trial::default()).await;
    assert_eq!((small.unwrap().forward, positions), (2000.0, 40 + 32 + 40));
    let (tiny, positions) = measured(1, 1, Trial::default()).await;
    assert_eq!((tiny.unwrap().inference, positions), (2000.0, 2));
    assert_eq!(measured(1, 0, Trial::default()).await.0.unwrap_err().kind(), FaultKind::Capacity);
}
