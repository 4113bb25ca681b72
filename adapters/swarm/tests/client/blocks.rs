//! What the servers of a [`Party`](crate::party::Party) compute.

use corolla_domain::model::{BlockRange, Hidden};

/// A run of blocks with its cache. What leaves a block depends on every position so far and on their order: a position
/// that is lost, doubled or out of order shows.
pub(crate) struct Blocks {
    range: BlockRange,
    positions: usize,
    /// Of each block, a number for each row and width.
    caches: Vec<Vec<f32>>,
}

impl Blocks {
    pub(crate) fn new(range: BlockRange) -> Self {
        Self { range, positions: 0, caches: vec![Vec::new(); range.len()] }
    }

    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    pub(crate) fn step(&mut self, hidden: &Hidden) -> Hidden {
        let (batch, seq, width) = (hidden.batch(), hidden.seq(), hidden.width());
        let mut numbers = hidden.to_f32();
        for (block, cache) in (self.range.start()..).zip(&mut self.caches) {
            cache.resize(batch * width, 0.0);
            for row in 0..batch {
                for at in 0..seq {
                    for i in 0..width {
                        let number = &mut numbers[(row * seq + at) * width + i];
                        let cell = &mut cache[row * width + i];
                        let position = (self.positions + at) % 7 + 1;
                        *number = match block % 2 {
                            0 => *cell + position as f32 * *number,
                            _ => *number - 0.5 * *cell,
                        };
                        *cell = 0.25 * *number;
                    }
                }
            }
        }
        self.positions += seq;
        Hidden::from_f32((batch, seq, width), &numbers).unwrap()
    }
}
