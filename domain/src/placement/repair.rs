//! Blocks without a server: who leaves them so, and who should come.
//!
//! The reference moves a server only if the swarm is complete once all have moved as it imagines. Where servers overlap in
//! one place and a block is missing in another, it may find that nobody gains by moving alone, and never get there. Here
//! every move either gives a server to a block that had none, or takes what is there twice nearer to the first block that
//! has none; so as long as all together have enough places, the swarm becomes complete, and it does not go in circles.

use std::cmp::Reverse;

use super::{
    Seat,
    load::{Load, compare},
};
use crate::model::BlockRange;

/// Blocks of a model of `blocks` that nobody has or loads, in order.
#[must_use]
pub fn missing(seats: &[Seat], blocks: usize) -> Vec<usize> {
    let counts = counts(seats, blocks);
    (0..blocks).filter(|block| counts[*block] == 0).collect()
}

/// Whether a block of `span` has no server among `others` that serves now.
#[must_use]
pub fn abandons(span: BlockRange, others: &[Seat]) -> bool {
    let serving: Vec<Seat> = others.iter().filter(|seat| seat.online).cloned().collect();
    let counts = counts(&serving, span.end());
    (span.start()..span.end()).any(|block| counts[block] == 0)
}

/// How many servers each block has.
fn counts(seats: &[Seat], blocks: usize) -> Vec<usize> {
    let mut counts = vec![0; blocks];
    for seat in seats {
        let end = seat.blocks.end().min(blocks);
        counts.get_mut(seat.blocks.start()..end).unwrap_or_default().iter_mut().for_each(|count| *count += 1);
    }
    counts
}

/// Where `own` should go in a swarm that lacks blocks.
pub(super) fn place(own: &Seat, others: &[Seat], blocks: usize) -> Option<BlockRange> {
    let counts = counts(others, blocks);
    let (here, length) = (own.blocks, own.blocks.len());
    let alone = |range: BlockRange| (range.start()..range.end()).filter(|block| counts[*block] == 0).count();
    // Whoever goes takes the blocks that only he has along.
    let only_mine: Vec<usize> = (here.start()..here.end()).filter(|block| counts[*block] == 0).collect();
    let keeps = |range: &BlockRange| only_mine.iter().all(|block| range.start() <= *block && *block < range.end());
    let mut load = Load::none(blocks);
    others.iter().for_each(|seat| load.add(seat.blocks, seat.throughput));
    let runs = (0..=blocks - length).filter_map(|start| BlockRange::new(start, start + length)).filter(keeps);
    let weakness = |range: &BlockRange| load.sorted(range.start(), length);
    // The most missing blocks; of equal runs the one whose blocks have the least, then the first.
    let best = runs
        .min_by(|a, b| Reverse(alone(*a)).cmp(&Reverse(alone(*b))).then_with(|| compare(&weakness(a), &weakness(b))))?;
    if alone(best) > alone(here) {
        return Some(best);
    }
    slide(here, &counts)
}

/// One step of what is there twice towards the first missing block.
fn slide(here: BlockRange, counts: &[usize]) -> Option<BlockRange> {
    let has_others = |block: &usize| counts[*block] > 0;
    let mine = here.start()..here.end();
    let hole = (0..counts.len()).find(|block| !has_others(block) && !mine.contains(block))?;
    if hole < mine.start {
        let by = mine.clone().rev().take_while(has_others).count().min(mine.start - hole);
        return BlockRange::new(mine.start - by, mine.end - by).filter(|_| by > 0);
    }
    let by = mine.clone().take_while(has_others).count().min(hole + 1 - mine.end);
    BlockRange::new(mine.start + by, mine.end + by).filter(|_| by > 0)
}
