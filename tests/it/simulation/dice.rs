//! Chance that is the same for the same seed (SplitMix64, Steele et al. 2014).

use std::{ops::Range, time::Duration};

/// Draws numbers.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// Two different purposes draw different numbers from the same seed.
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Self(seed ^ purpose.rotate_left(32));
        Self(dice.next() ^ purpose)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One number of a range that is not empty.
    pub(super) fn one(&mut self, range: Range<usize>) -> usize {
        range.start + (self.next() % (range.end - range.start) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.one(0..100) < chance
    }

    /// A time in a range of milliseconds.
    pub(super) fn ms(&mut self, range: Range<usize>) -> Duration {
        Duration::from_millis(self.one(range) as u64)
    }
}
