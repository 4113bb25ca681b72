//! What the stock server says of made-up swarms; `scripts/interop/placement.py` tells how the file is made.

use super::{QUALITY, Seat, choose, missing, reconsider};
use crate::model::{BlockRange, PeerId};

const SWARMS: &str = include_str!("../../../tests/fixtures/golden/placement.txt");

struct Case {
    blocks: usize,
    quality: f64,
    /// The first one is asked.
    seats: Vec<Seat>,
    count: usize,
    first: usize,
    moves: bool,
}

fn seat(text: &str) -> Seat {
    let parts: Vec<&str> = text.split(':').collect();
    let blocks = BlockRange::new(parts[1].parse().unwrap(), parts[2].parse().unwrap()).unwrap();
    Seat { peer: PeerId(parts[0].to_owned()), blocks, throughput: parts[3].parse().unwrap(), online: true }
}

fn cases() -> Vec<Case> {
    let case = |line: &str| {
        let fields: Vec<&str> = line.split(" | ").collect();
        let (count, first) = fields[3].split_once('@').unwrap();
        Case {
            blocks: fields[0].parse().unwrap(),
            quality: fields[1].parse().unwrap(),
            seats: fields[2].split(' ').map(seat).collect(),
            count: count.parse().unwrap(),
            first: first.parse().unwrap(),
            moves: fields[4] == "move",
        }
    };
    SWARMS.lines().map(case).collect()
}

#[test]
fn who_comes_takes_the_blocks_that_the_reference_takes() {
    for (nth, case) in cases().iter().enumerate() {
        let chosen = choose(&case.seats, case.blocks, case.count);
        assert_eq!((chosen.start(), chosen.len()), (case.first, case.count), "line {}", nth + 1);
    }
}

#[test]
fn who_is_there_moves_when_the_reference_moves() {
    let (mut same, mut repaired) = (0, 0);
    for (nth, case) in cases().iter().enumerate() {
        let goal =
            reconsider(&case.seats[0], &case.seats, case.blocks, case.quality, &mut |order| order.sort_unstable());
        if missing(&case.seats, case.blocks).is_empty() {
            assert_eq!(goal.is_some(), case.moves, "line {}: {goal:?}", nth + 1);
            same += usize::from(case.moves);
        } else if case.moves {
            // It waits for nobody where blocks are missing, so it moves wherever the reference does, and more often.
            assert!(goal.is_some(), "line {}", nth + 1);
            repaired += 1;
        }
    }
    assert!(same > 40 && repaired > 20, "{same} and {repaired} moves to compare");
}

#[test]
fn a_quality_of_nothing_keeps_everybody_where_he_is() {
    let moves = cases().into_iter().filter(|case| {
        reconsider(&case.seats[0], &case.seats, case.blocks, 0.0, &mut |order| order.sort_unstable()).is_some()
    });
    assert_eq!(moves.count(), 0);
    assert!((QUALITY - 0.75).abs() < f64::EPSILON);
}
