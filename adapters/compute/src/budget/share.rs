//! What one session has of the budget, by itself and in common with others.

use std::sync::Arc;

use corolla_domain::ports::{PortError, SessionNeed};

use super::{Budget, Reservation};
use crate::arithmetic::PAGE;

/// One session's part of the budget.
///
/// Pages that sessions have in common are reserved once, for as long as one of these sessions lives. A session that writes in
/// such a page gets a copy of its own, and must have reserved that before.
pub(crate) struct Share {
    budget: Budget,
    /// Of each page that others may have too, from the first one on: all rows and blocks of it.
    common: Vec<Arc<Reservation>>,
    /// Of all positions after these.
    own: Reservation,
    rows: usize,
    blocks: usize,
}

impl Share {
    /// For a session that shares nothing.
    pub(crate) fn new(budget: &Budget, need: SessionNeed, blocks: usize) -> Result<Self, PortError> {
        let own = budget.reserve(need.max_length.checked_mul(need.batch), blocks)?;
        Ok(Self { budget: budget.clone(), common: Vec::new(), own, rows: need.batch, blocks })
    }

    /// For a session of `length` positions that has the first `to` in common with this one: no more than `length`, and than
    /// this one reaches.
    pub(crate) fn fork(&mut self, to: usize, length: usize) -> Result<Self, PortError> {
        let pages = to / PAGE;
        let rest = length.saturating_sub(pages * PAGE).checked_mul(self.rows);
        let own = self.budget.reserve(rest, self.blocks)?;
        while self.common.len() < pages {
            let page = self.own.split(PAGE * self.rows * self.blocks);
            self.common.push(Arc::new(page));
        }
        let common = self.common[..pages].to_vec();
        Ok(Self { budget: self.budget.clone(), common, own, rows: self.rows, blocks: self.blocks })
    }

    /// Before positions from `position` on are written: sets aside what will be copied. Where that fails, what was shared
    /// is shared still.
    pub(crate) fn write(&mut self, position: usize) -> Result<(), PortError> {
        while self.common.len() > position / PAGE {
            let Some(page) = self.common.pop() else { break };
            let own = match Arc::try_unwrap(page) {
                Ok(alone) => alone,
                Err(page) => match self.budget.reserve(Some(PAGE * self.rows), self.blocks) {
                    Ok(copy) => copy,
                    Err(full) => {
                        self.common.push(page);
                        return Err(full);
                    }
                },
            };
            self.own.join(own);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: usize = 3;

    fn share(budget: &Budget, max_length: usize, batch: usize) -> Share {
        Share::new(budget, SessionNeed { max_length, batch }, BLOCKS).unwrap()
    }

    #[test]
    fn whole_pages_in_common_are_reserved_once_until_the_last_one_goes() {
        for first_goes_first in [true, false] {
            let budget = Budget::new(1000, BLOCKS);
            let mut first = share(&budget, 300, 1);
            let second = first.fork(2 * PAGE + 5, 200).unwrap();
            assert_eq!(budget.free_tokens(), 1000 - 300 - (200 - 2 * PAGE));
            let third = first.fork(PAGE, 100).unwrap();
            assert_eq!(budget.free_tokens(), 1000 - 300 - (200 - 2 * PAGE) - (100 - PAGE));
            if first_goes_first {
                drop(first);
                assert_eq!(budget.free_tokens(), 1000 - 200 - (100 - PAGE), "the second one has what it shares");
                drop(second);
                assert_eq!(budget.free_tokens(), 1000 - 100, "and then the third one");
                drop(third);
            } else {
                drop((third, second));
                assert_eq!(budget.free_tokens(), 1000 - 300);
                drop(first);
            }
            assert_eq!(budget.free_tokens(), 1000);
        }
    }

    #[test]
    fn who_writes_in_common_pages_sets_copies_aside_first() {
        let budget = Budget::new(300 + 2 * PAGE, BLOCKS);
        let mut first = share(&budget, 300, 1);
        let mut second = first.fork(3 * PAGE, 4 * PAGE).unwrap();
        assert_eq!(budget.free_tokens(), PAGE);
        second.write(3 * PAGE).unwrap();
        assert_eq!(budget.free_tokens(), PAGE, "what comes after them is its own");
        second.write(2 * PAGE + 9).unwrap();
        assert_eq!(budget.free_tokens(), 0);
        second.write(PAGE).expect_err("there is no room for another copy");
        second.write(2 * PAGE).unwrap();
        drop(second);
        assert_eq!(budget.free_tokens(), 2 * PAGE);
        first.write(0).unwrap();
        assert_eq!(budget.free_tokens(), 2 * PAGE, "nobody else has them, so nothing is copied");
        drop(first);
        assert_eq!(budget.free_tokens(), 300 + 2 * PAGE);
    }

    #[test]
    fn a_fork_that_has_no_room_changes_nothing() {
        let budget = Budget::new(200, BLOCKS);
        let mut first = share(&budget, 100, 2);
        first.fork(PAGE, PAGE + 1).err().expect("no room for even one position of two rows");
        assert_eq!(budget.free_tokens(), 0);
        let fork = first.fork(PAGE, PAGE).unwrap();
        drop(first);
        assert_eq!(budget.free_tokens(), 200 - 2 * PAGE);
        drop(fork);
        assert_eq!(budget.free_tokens(), 200);
    }
}
