//! How many blocks there is memory for.

use crate::fit::{Demand, Dtype, Parts, Sizes, Stored, bytes};

/// Bytes that stay free on a machine whose memory is filled with blocks: what a server may take besides, at most. 1 GiB of
/// what callers send and passes send back, 64 MiB of records that it keeps for the swarm, and as much for connections.
pub const RESERVE: u64 = 1152 << 20;

/// What hosting takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Weights of one block, the largest: which ones it will be is not known yet.
    pub weights: u64,
    /// The KV cache of one block when it is full.
    pub cache: u64,
    /// What a pass takes while it runs, however many blocks there are; an estimate.
    pub working: u64,
}

impl Share {
    /// For a model of those parts, kept in `dtype`, with a cache for `positions`, fed with `chunk` positions at a time.
    /// `None` where it cannot be kept so.
    #[must_use]
    pub fn new(
        parts: &Parts,
        sizes: Sizes,
        (stored, dtype): (&Stored, Dtype),
        positions: u64,
        chunk: u64,
    ) -> Option<Self> {
        let of = |block| Demand::new(parts, block..block + 1, stored.clone(), sizes, positions, chunk).blocks(dtype);
        let shares: Vec<_> = (0..parts.blocks.len()).map(of).collect::<Option<_>>()?;
        Some(Self {
            weights: shares.iter().map(|share| share.weights).max()?,
            cache: shares.iter().map(|share| share.cache).max()?,
            working: shares.iter().map(|share| share.working).max()?,
        })
    }

    /// What `count` blocks take.
    #[must_use]
    pub fn bytes(&self, count: usize) -> u64 {
        self.weights.saturating_add(self.cache).saturating_mul(count as u64).saturating_add(self.working)
    }

    /// How many of `blocks` blocks fit into `free` bytes with the reserve left.
    #[must_use]
    pub fn fitting(&self, blocks: usize, free: u64) -> usize {
        let room = free.saturating_sub(RESERVE).saturating_sub(self.working);
        let each = self.weights.saturating_add(self.cache).max(1);
        usize::try_from(room / each).unwrap_or(usize::MAX).min(blocks)
    }

    /// How many of `blocks` blocks to host: all that fit.
    ///
    /// # Errors
    /// A sentence where not even one does.
    pub fn most(&self, blocks: usize, free: u64) -> Result<usize, String> {
        match self.fitting(blocks, free) {
            0 => Err(format!(
                "not even one block fits: it takes {} of weights, {} of KV cache and {} while it computes, and {} are kept \
                 for messages and records, but {} of memory are free",
                bytes(self.weights),
                bytes(self.cache),
                bytes(self.working),
                bytes(RESERVE),
                bytes(free)
            )),
            fitting => Ok(fitting),
        }
    }

    /// Refuses `count` blocks that do not fit. Whoever names a number may use the reserve.
    ///
    /// # Errors
    /// A sentence that says how many would fit.
    pub fn check(&self, count: usize, free: u64) -> Result<(), String> {
        if self.bytes(count) <= free {
            return Ok(());
        }
        Err(format!(
            "{count} blocks take {}, but {} of memory are free; {} would fit",
            bytes(self.bytes(count)),
            bytes(free),
            self.fitting(count, free)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn share() -> Share {
        Share { weights: 3 * GIB, cache: GIB, working: GIB / 2 }
    }

    #[test]
    fn as_many_blocks_as_fit_beside_the_reserve() {
        assert_eq!(share().most(24, 64 * GIB), Ok(15), "the sixteenth has no room beside the reserve");
        assert_eq!(share().most(24, 16 * GIB + GIB / 2 + RESERVE), Ok(4));
        assert_eq!(share().most(24, 16 * GIB + GIB / 2 + RESERVE - 1), Ok(3));
        assert_eq!(share().most(2, 64 * GIB), Ok(2), "a model has no more");
        assert_eq!(Share { weights: 0, cache: 0, working: 0 }.most(7, 2 * GIB), Ok(7));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_a_sentence() {
        let fault = share().most(24, 2 * GIB).unwrap_err();
        assert!(fault.starts_with("not even one block fits") && fault.contains(&bytes(2 * GIB)), "{fault}");
        assert_eq!(share().check(4, 16 * GIB + GIB / 2), Ok(()));
        let fault = share().check(5, 18 * GIB).unwrap_err();
        assert!(fault.starts_with("5 blocks take") && fault.ends_with("4 would fit"), "{fault}");
        assert!(share().check(usize::MAX, u64::MAX - 1).is_err());
        assert_eq!(share().most(1, 0).is_err(), share().most(1, RESERVE).is_err());
    }

    #[test]
    fn the_largest_block_counts() {
        use crate::fit::Part;
        let parts = Parts { blocks: vec![Part::matrix(4, 8, 64), Part::matrix(8, 8, 128)], ..Parts::default() };
        let sizes = Sizes { hidden: 8, vocab: 10, cache: 100 };
        let share = Share::new(&parts, sizes, (&Stored::F32, Dtype::F32), 7, 5).unwrap();
        assert_eq!((share.weights, share.cache), (8 * 8 * 4, 700));
        assert!(share.working > 0);
    }
}
