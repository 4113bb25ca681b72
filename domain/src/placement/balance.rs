//! The rule of the Petals reference (wire protocol §8.2): a swarm is as fast as its weakest block.
//!
//! Every server decides for itself, from what it sees of the others, so all must decide alike: a swarm of ours and of
//! stock servers settles only where both follow one rule. Where some block has no server at all the reference may wait for
//! ever for a state that no single move leads to; there `repair` decides.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::{
    Seat,
    load::Load,
    repair::{self, abandons, missing},
};
use crate::model::BlockRange;

/// The weakest block's throughput of now over that after all have moved, below which a server moves.
pub const QUALITY: f64 = 0.75;
/// A server that looks for a better place counts itself this much more than once where it is: rounding must not make it move.
const EPS: f64 = 1e-3;
/// Throughput beyond which a server's word is not believed: sums must stay finite.
const MOST_THROUGHPUT: f64 = 1e12;
/// Rounds in which others are imagined to move until nobody wants to.
const ROUNDS: usize = 64;

/// Puts things in an order by chance.
pub type Shuffle<'a> = &'a mut dyn FnMut(&mut [usize]);

/// An order by chance, each time another; the same ones for the same `seed`.
pub fn shuffle(seed: u64) -> impl FnMut(&mut [usize]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    move |order| {
        for last in (1..order.len()).rev() {
            let chosen = rng.next_u64() % (last as u64 + 1);
            order.swap(last, usize::try_from(chosen).unwrap_or(last));
        }
    }
}

/// The `count` blocks of a model of `blocks` that a server which comes should take: where the least is done. `count` beyond
/// the model is all of it.
#[must_use]
pub fn choose(seats: &[Seat], blocks: usize, count: usize) -> BlockRange {
    let blocks = blocks.max(1);
    load(&sorted(seats, blocks), blocks).weakest(count.clamp(1, blocks))
}

/// Where the server `own` should move; `None` where it should stay. `seats` is the swarm as it sees it, with or without
/// itself. `quality` is [`QUALITY`], or 0 for a server that never moves.
///
/// In a swarm that has every block it moves where the swarm, once all have moved as they would, is so much faster that
/// `quality` is missed, and only if each of its blocks has another server meanwhile that serves and does not merely load.
/// In one that lacks blocks it moves where that helps to complete it, and never away from a block that only it has.
#[must_use]
pub fn reconsider(own: &Seat, seats: &[Seat], blocks: usize, quality: f64, shuffle: Shuffle<'_>) -> Option<BlockRange> {
    if own.blocks.len() >= blocks || own.blocks.end() > blocks || quality <= 0.0 {
        return None;
    }
    let others: Vec<Seat> = seats.iter().filter(|seat| seat.peer != own.peer).cloned().collect();
    let all: Vec<Seat> = others.iter().chain([own]).cloned().collect();
    if !missing(&all, blocks).is_empty() {
        return repair::place(own, &others, blocks);
    }
    let (goal, found) = balanced(own, sorted(&all, blocks), blocks, shuffle)?;
    (found < quality - EPS && !abandons(own.blocks, &others)).then_some(goal)
}

/// Where `own` would go, and the weakest block's throughput of now over that of then.
fn balanced(own: &Seat, mut seats: Vec<Seat>, blocks: usize, shuffle: Shuffle<'_>) -> Option<(BlockRange, f64)> {
    let mut load = load(&seats, blocks);
    let initial = load.least();
    let me = seats.iter().position(|seat| seat.peer == own.peer)?;
    let throughput = seats[me].throughput;
    load.add(own.blocks, -throughput * (1.0 + EPS));
    if initial > EPS && load.least() <= 0.0 {
        return None; // some block has no other server
    }
    let goal = load.weakest(own.blocks.len());
    if goal.start() == own.blocks.start() {
        return None;
    }
    load.add(own.blocks, throughput * EPS);
    load.add(goal, throughput);
    seats[me].blocks = goal;
    settle(&mut seats, &mut load, shuffle)?;
    let then = load.least();
    (then >= initial && then >= EPS).then(|| (goal, initial / then))
}

/// Has all move until nobody wants to any more; `None` where that takes too long.
fn settle(seats: &mut [Seat], load: &mut Load, shuffle: Shuffle<'_>) -> Option<()> {
    let mut order: Vec<usize> = (0..seats.len()).collect();
    for _ in 0..ROUNDS {
        shuffle(&mut order);
        let mut moved = false;
        for nth in &order {
            let Seat { blocks: span, throughput, .. } = seats[*nth];
            load.add(span, -throughput * (1.0 + EPS));
            let goal = load.weakest(span.len());
            load.add(span, throughput * EPS);
            moved |= goal != span;
            seats[*nth].blocks = goal;
            load.add(goal, throughput);
        }
        if !moved {
            return Some(());
        }
    }
    None
}

fn load(sorted: &[Seat], blocks: usize) -> Load {
    let mut load = Load::none(blocks);
    sorted.iter().for_each(|seat| load.add(seat.blocks, seat.throughput));
    load
}

/// By name, so that sums come out alike wherever they are made; cut to the model's blocks, and to what can be believed.
fn sorted(seats: &[Seat], blocks: usize) -> Vec<Seat> {
    let sane = |seat: &Seat| {
        let span = BlockRange::new(seat.blocks.start(), seat.blocks.end().min(blocks))?;
        let throughput = if seat.throughput.is_finite() { seat.throughput.clamp(0.0, MOST_THROUGHPUT) } else { 0.0 };
        Some(Seat { blocks: span, throughput, ..seat.clone() })
    };
    let mut seats: Vec<Seat> = seats.iter().filter_map(sane).collect();
    seats.sort_by(|a, b| a.peer.cmp(&b.peer));
    seats
}
