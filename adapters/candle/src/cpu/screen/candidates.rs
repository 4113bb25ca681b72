//! Rows that may be the highest, in order of how high they may be.

use std::cmp::Ordering;

/// Rows that are taken at once, at most.
const STEP: usize = 512;

/// Rows that were not computed yet, each with how high it may be.
pub(super) struct Candidates {
    left: Vec<(u32, f64)>,
    step: usize,
}

impl Candidates {
    /// `first` rows are taken at first, then each time twice as many.
    pub(super) fn new(rows: Vec<(u32, f64)>, first: usize) -> Self {
        Self { left: rows, step: first }
    }

    /// Forgets rows that are below `least`; none where that is no number.
    pub(super) fn keep(&mut self, least: f64) {
        self.left.retain(|(_, most)| most.partial_cmp(&least) != Some(Ordering::Less));
    }

    /// Those that are left, in no particular order.
    pub(super) fn left(&self) -> impl ExactSizeIterator<Item = u32> {
        self.left.iter().map(|(row, _)| *row)
    }

    /// Some of those that may be the highest; none once none are left.
    pub(super) fn take(&mut self) -> Vec<u32> {
        let rest = self.left.len().saturating_sub(self.step);
        if rest > 0 {
            self.left.select_nth_unstable_by(rest, |a, b| a.1.total_cmp(&b.1));
        }
        self.step = (2 * self.step).min(STEP);
        self.left.split_off(rest).into_iter().map(|(row, _)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_come_first_and_twice_as_many_each_time() {
        let rows = (0..1000u32).map(|row| (row * 7 % 1000, f64::from(row * 7 % 1000))).collect();
        let mut candidates = Candidates::new(rows, 3);
        let mut taken = Vec::new();
        let mut sizes = Vec::new();
        while candidates.left().len() > 0 {
            let mut some = candidates.take();
            some.sort_unstable_by(|a, b| b.cmp(a));
            sizes.push(some.len());
            taken.extend(some);
            if taken.len() == 21 {
                candidates.keep(300.0);
            }
        }
        assert_eq!(taken, (300..1000).rev().collect::<Vec<u32>>());
        assert_eq!(sizes, [3, 6, 12, 24, 48, 96, 192, 319]);
        assert!(candidates.take().is_empty());
    }
}
