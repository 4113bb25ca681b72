//! The highest scores of all rows, found by computing few of them exactly.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{bounds::Bounds, candidates::Candidates};
use crate::cpu::kernels::ROWS;

/// After so many rows the best ones are known so well that hardly fewer rows remain than will be computed.
pub(super) const TRIED: usize = 64;

/// Bounds of all rows for one row of activations.
#[derive(Clone, Copy)]
pub(super) struct RowBounds<'a> {
    /// Those for all rows of activations, side by side.
    all: &'a [Bounds],
    /// Rows of activations.
    many: usize,
    /// Which one.
    nth: usize,
    rows: usize,
}

impl<'a> RowBounds<'a> {
    /// Bounds for row `nth` of `many`: those of sixteen rows of the head for each of them, then those of the next sixteen.
    pub(super) fn new(all: &'a [Bounds], (nth, many): (usize, usize), rows: usize) -> Self {
        Self { all, many, nth, rows }
    }

    /// The bounds of one row.
    pub(super) fn of(&self, row: u32) -> (f32, f32) {
        let (block, lane) = (row as usize / ROWS, row as usize % ROWS);
        let bounds = &self.all[block * self.many + self.nth];
        (bounds.lower[lane], bounds.upper[lane])
    }

    /// Lower or upper bounds of all rows, in order.
    pub(super) fn sides(&self, side: fn(&Bounds) -> &[f32; ROWS]) -> impl Iterator<Item = f32> {
        let nth = self.nth;
        let blocks = self.all.chunks_exact(self.many).map(move |block| side(&block[nth]));
        blocks.flatten().copied().take(self.rows)
    }
}

/// Rows with their exact scores.
pub(in crate::cpu) type Scored = Vec<(u32, f32)>;

/// What a search found.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    /// The highest, of equals those of lower number; in no particular order.
    pub best: Scored,
    /// How many were computed.
    pub visited: usize,
}

/// Why nothing was found.
#[derive(Debug, PartialEq)]
pub(super) enum Doubt {
    /// So many rows might be among the highest.
    TooMany(usize),
    /// The exact score of a row is outside its bounds: they are those of other weights.
    Foreign(u32),
}

/// The `k` rows with the highest scores, `k` being at least 1. Rows are visited in order of their upper bounds until no
/// other can be among them. Gives up where more than `limit` would be, and at the latest when so many were.
///
/// `scores` gives exact ones. A score that is no number is above or below all others, as `total_cmp` has it.
pub(super) fn highest(
    bounds: RowBounds<'_>,
    k: usize,
    limit: usize,
    scores: impl Fn(&[u32]) -> Vec<f32>,
) -> Result<Found, Doubt> {
    let enough = kth_lower(bounds, k);
    let could = (0u32..).zip(bounds.sides(|bounds| &bounds.upper)).filter(|(_, upper)| *upper >= enough);
    let mut candidates = Candidates::new(could.map(|(row, upper)| (row, f64::from(upper))).collect(), k);
    let (mut best, mut visited, limit) = (Vec::new(), 0, limit.max(k));
    loop {
        if let Some(least) = least(&best, k) {
            // A row that can be as high as the last one still counts: its number may be lower.
            candidates.keep(f64::from(least));
        }
        let left = candidates.left().len();
        let rows = candidates.take();
        if visited + rows.len() > limit || visited >= TRIED && visited + left > limit {
            return Err(Doubt::TooMany(visited + left));
        }
        if rows.is_empty() {
            return Ok(Found { best, visited });
        }
        for (row, score) in rows.iter().zip(scores(&rows)) {
            let (lower, upper) = bounds.of(*row);
            if score < lower || score > upper {
                return Err(Doubt::Foreign(*row));
            }
            best.push((*row, score));
        }
        visited += rows.len();
        keep(&mut best, k);
    }
}

/// The `k`-th highest lower bound: at least `k` rows score as high.
fn kth_lower(bounds: RowBounds<'_>, k: usize) -> f32 {
    let mut highest: BinaryHeap<Reverse<Ordered>> = BinaryHeap::with_capacity(k + 1);
    let mut least = f32::NEG_INFINITY;
    for lower in bounds.sides(|bounds| &bounds.lower) {
        if highest.len() < k {
            highest.push(Reverse(Ordered(lower)));
        } else if lower > least {
            highest.pop();
            highest.push(Reverse(Ordered(lower)));
        } else {
            continue;
        }
        least = highest.peek().map_or(least, |lowest| lowest.0.0);
    }
    if highest.len() < k { f32::NEG_INFINITY } else { least }
}

/// The `k`-th highest score; the last one where [`keep`] was called before.
fn least(best: &[(u32, f32)], k: usize) -> Option<f32> {
    best.get(k - 1).map(|(_, score)| *score)
}

/// Keeps the `k` highest, the last of them at the end.
fn keep(best: &mut Vec<(u32, f32)>, k: usize) {
    if best.len() >= k {
        best.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        best.truncate(k);
    }
}

/// A number that is not NaN, with an order.
#[derive(PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Scores, and bounds that are `off` around them.
    fn around(scores: &[f32], off: f32) -> Vec<Bounds> {
        let block = |scores: &[f32]| {
            let mut bounds = Bounds::OPEN;
            for (r, score) in scores.iter().enumerate() {
                (bounds.lower[r], bounds.upper[r]) = (score - off, score + off);
            }
            bounds
        };
        scores.chunks(ROWS).map(block).collect()
    }

    fn find(scores: &[f32], bounds: &[Bounds], k: usize, limit: usize) -> Result<Found, Doubt> {
        let view = RowBounds::new(bounds, (0, 1), scores.len());
        let mut found = highest(view, k, limit, |rows| rows.iter().map(|row| scores[*row as usize]).collect())?;
        found.best.sort_unstable_by_key(|(row, _)| *row);
        Ok(found)
    }

    #[test]
    fn few_rows_are_visited_and_of_equals_the_first_wins() {
        let scores: Vec<f32> = (0..100).map(|i| ((i * 37) % 50) as f32).collect();
        let bounds = around(&scores, 1.5);
        let found = find(&scores, &bounds, 1, 100).unwrap();
        let first = scores.iter().position(|score| *score == 49.0).unwrap() as u32;
        assert_eq!(found.best, [(first, 49.0)]);
        assert!((3..=7).contains(&found.visited), "{}", found.visited);
        let three = find(&scores, &bounds, 3, 100).unwrap();
        let mut order: Vec<u32> = (0..100).collect();
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let mut wanted = order[..3].to_vec();
        wanted.sort_unstable();
        assert_eq!(three.best.iter().map(|(row, _)| *row).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_row_whose_bound_only_ties_is_visited() {
        let scores = [1.0, 2.0, 2.0];
        let mut bounds = around(&scores, 0.0);
        bounds[0].upper[2] = 9.0;
        assert_eq!(find(&scores, &bounds, 1, 3).unwrap(), Found { best: vec![(1, 2.0)], visited: 2 });
    }

    #[test]
    fn where_too_many_are_alike_few_are_visited() {
        let visits = Cell::new(0);
        let given_up = |scores: &[f32], limit: usize| {
            visits.set(0);
            let bounds = around(scores, 0.5);
            let view = RowBounds::new(&bounds, (0, 1), scores.len());
            let found = highest(view, 1, limit, |rows| {
                visits.set(visits.get() + rows.len());
                vec![1.0; rows.len()]
            });
            (found, visits.get())
        };
        assert_eq!(given_up(&[1.0; 40], 39), (Err(Doubt::TooMany(40)), 31));
        assert_eq!(given_up(&[1.0; 4000], 3999), (Err(Doubt::TooMany(4000)), 127));
        let scores = [1.0; 40];
        let bounds = around(&scores, 0.5);
        assert_eq!(find(&scores, &bounds, 1, 40).unwrap().best, [(0, 1.0)]);
        assert_eq!(find(&scores, &bounds, 40, 1).unwrap().best.len(), 40);
        assert_eq!(find(&scores, &bounds, 50, 1).unwrap().best.len(), 40);
    }

    #[test]
    fn bounds_of_other_weights_are_found_out() {
        let scores = [1.0, 3.0, 2.0];
        let bounds = around(&[1.0, 2.5, 2.0], 0.25);
        assert_eq!(find(&scores, &bounds, 1, 3), Err(Doubt::Foreign(1)));
    }

    #[test]
    fn what_is_no_number_is_where_total_cmp_has_it() {
        let scores = [1.0, f32::NAN, -f32::NAN, 2.0];
        let mut bounds = around(&[1.0, 0.0, 0.0, 2.0], 0.25);
        for r in [1, 2] {
            (bounds[0].lower[r], bounds[0].upper[r]) = (f32::NEG_INFINITY, f32::INFINITY);
        }
        let rows = |k| find(&scores, &bounds, k, 4).unwrap().best.iter().map(|(row, _)| *row).collect::<Vec<_>>();
        assert_eq!((rows(1), rows(2), rows(3)), (vec![1], vec![1, 3], vec![0, 1, 3]));
    }
}
