//! What servers do for each block, and which run of blocks has the least.

use std::cmp::Ordering;

use crate::model::BlockRange;

/// The throughput of each block.
#[derive(Debug, Clone)]
pub(super) struct Load(Vec<f64>);

impl Load {
    /// Of `blocks` blocks that nobody serves.
    pub(super) fn none(blocks: usize) -> Self {
        Self(vec![0.0; blocks])
    }

    /// Adds to every block of `span`, as far as the model has it.
    pub(super) fn add(&mut self, span: BlockRange, throughput: f64) {
        let end = span.end().min(self.0.len());
        self.0.get_mut(span.start()..end).unwrap_or_default().iter_mut().for_each(|block| *block += throughput);
    }

    /// That of the weakest block.
    pub(super) fn least(&self) -> f64 {
        self.0.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// The run of `count` blocks that needs a server most: the one whose blocks, the weakest first, have the least; of equal
    /// ones the first. `count` must be at least 1 and at most the number of blocks.
    pub(super) fn weakest(&self, count: usize) -> BlockRange {
        let mut best: Option<(Vec<f64>, usize)> = None;
        for start in 0..=self.0.len().saturating_sub(count) {
            let sorted = self.sorted(start, count);
            if best.as_ref().is_none_or(|(least, _)| compare(&sorted, least) == Ordering::Less) {
                best = Some((sorted, start));
            }
        }
        let start = best.map_or(0, |(_, start)| start);
        BlockRange::new(start, start + count).unwrap_or(BlockRange::first(1))
    }

    /// The blocks of a run, the weakest first.
    pub(super) fn sorted(&self, start: usize, count: usize) -> Vec<f64> {
        let mut run = self.0.get(start..start + count).unwrap_or_default().to_vec();
        run.sort_unstable_by(f64::total_cmp);
        run
    }
}

/// Block by block, the weakest first.
pub(super) fn compare(a: &[f64], b: &[f64]) -> Ordering {
    let differing = a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
    differing.unwrap_or(Ordering::Equal)
}
