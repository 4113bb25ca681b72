//! The budget of KV cache that all sessions of an engine share.

mod share;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use corolla_domain::ports::{FaultKind, PortError};

pub(crate) use self::share::Share;

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

    /// Positions of one block that there are, free or not.
    pub(crate) fn total(&self) -> usize {
        self.total
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

impl Reservation {
    /// Takes `amount` out of it; at most all that there is.
    fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { free: Arc::clone(&self.free), amount }
    }

    /// Takes another one in.
    fn join(&mut self, mut other: Self) {
        self.amount += std::mem::take(&mut other.amount);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.free.fetch_add(self.amount, Ordering::AcqRel);
    }
}
