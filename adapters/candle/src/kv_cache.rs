//! Keys and values of earlier positions, and the budget all sessions share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use corolla_domain::ports::{FaultKind, PortError};

/// Keys and values of one session in one block, set aside in full. The system provides pages as they are written.
pub(crate) struct BlockCache {
    /// Shape `[batch, heads, length, dim]`.
    pub keys: Vec<f32>,
    /// Shape `[batch, heads, length, dim]`.
    pub values: Vec<f32>,
    heads: usize,
    length: usize,
    dim: usize,
}

impl BlockCache {
    /// Room for `length` positions of `batch` rows.
    pub(crate) fn new(batch: usize, length: usize, heads: usize, dim: usize) -> Self {
        let numbers = batch * heads * length * dim;
        Self { keys: vec![0.0; numbers], values: vec![0.0; numbers], heads, length, dim }
    }

    /// Writes keys and values of one position of one row, heads one after the other.
    pub(crate) fn write(&mut self, row: usize, position: usize, keys: &[f32], values: &[f32]) {
        for head in 0..self.heads {
            let to = self.start(row, head) + position * self.dim;
            let from = head * self.dim..(head + 1) * self.dim;
            self.keys[to..to + self.dim].copy_from_slice(&keys[from.clone()]);
            self.values[to..to + self.dim].copy_from_slice(&values[from]);
        }
    }

    /// Keys and values of the first `length` positions of a head.
    pub(crate) fn read(&self, row: usize, head: usize, length: usize) -> (&[f32], &[f32]) {
        let place = self.start(row, head)..self.start(row, head) + length * self.dim;
        (&self.keys[place.clone()], &self.values[place])
    }

    fn start(&self, row: usize, head: usize) -> usize {
        (row * self.heads + head) * self.length * self.dim
    }
}

/// What all sessions together may reserve, in positions of one block.
#[derive(Clone)]
pub(crate) struct Budget {
    free: Arc<AtomicUsize>,
    total: usize,
    /// Blocks that a position of a session over everything takes.
    blocks: usize,
}

impl Budget {
    /// `tokens` positions over all of `blocks` blocks.
    pub(crate) fn new(tokens: usize, blocks: usize) -> Self {
        let total = tokens.saturating_mul(blocks);
        Self { free: Arc::new(AtomicUsize::new(total)), total, blocks }
    }

    /// Positions over all blocks that are free.
    pub(crate) fn free_tokens(&self) -> usize {
        self.free.load(Ordering::Acquire) / self.blocks
    }

    /// Sets `positions` over `blocks` blocks aside, until the reservation is dropped.
    pub(crate) fn reserve(&self, positions: Option<usize>, blocks: usize) -> Result<Reservation, PortError> {
        let amount = positions.and_then(|positions| positions.checked_mul(blocks));
        let taken = amount.filter(|amount| {
            self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(*amount)).is_ok()
        });
        match taken {
            Some(amount) => Ok(Reservation { free: Arc::clone(&self.free), amount }),
            None => Err(PortError::new(
                FaultKind::Capacity,
                format!(
                    "the session needs {} positions of KV cache over {blocks} blocks, {} of {} are free over {}",
                    positions.map_or("too many".to_owned(), |n| n.to_string()),
                    self.free_tokens(),
                    self.total / self.blocks,
                    self.blocks
                ),
            )),
        }
    }
}

/// A part of the budget. Dropping it gives the part back.
pub(crate) struct Reservation {
    free: Arc<AtomicUsize>,
    amount: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.free.fetch_add(self.amount, Ordering::AcqRel);
    }
}
