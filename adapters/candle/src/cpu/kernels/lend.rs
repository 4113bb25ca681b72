//! Lending work to other threads: the one place where the compiler cannot see that a borrow outlives its use.
#![allow(unsafe_code)]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Work in blocks: whoever has a reference takes the next block, until none is left. It never waits.
///
/// Each seat has a run of blocks of its own and goes on with those of others when it is done: so a thread reads memory in
/// one stream as long as it can, which is what prefetchers follow.
pub(crate) struct Lent {
    work: &'static (dyn Fn(usize) + Sync),
    blocks: usize,
    runs: Box<[Run]>,
    done: AtomicUsize,
    panicked: AtomicBool,
}

/// Blocks in a row, in a cache line of its own.
#[repr(align(64))]
struct Run {
    next: AtomicUsize,
    end: usize,
}

impl Run {
    fn take(&self) -> Option<usize> {
        // The check first keeps the counter from running over however often it is asked.
        if self.next.load(Ordering::Relaxed) >= self.end {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|block| *block < self.end)
    }
}

impl Lent {
    /// Makes `work` over `0..blocks` for `seats` threads, hands it to `share`, who must let the calling thread take part in it and return
    /// when [`Lent::is_done`]; if it returns early, this waits for what others have begun.
    pub(crate) fn lend(
        work: &(dyn Fn(usize) + Sync),
        (blocks, seats): (usize, usize),
        share: impl FnOnce(&std::sync::Arc<Self>),
    ) {
        // SAFETY: only the lifetime changes. `work` is called in `take` alone, for a block number that a run
        // hands out; the runs part the numbers below `blocks` among them, and each number is handed out once. A call that began is counted in `done` when it has ended, panic or not. This
        // function leaves neither by returning nor by unwinding before `done` has reached `blocks`: then all numbers
        // were handed out and all calls have ended, so nobody calls `work` any more, however long they keep the `Arc`.
        let work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        let lent = std::sync::Arc::new(Self {
            work,
            blocks,
            runs: (0..seats)
                .map(|seat| Run { next: AtomicUsize::new(blocks * seat / seats), end: blocks * (seat + 1) / seats })
                .collect(),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let shared = catch_unwind(AssertUnwindSafe(|| share(&lent)));
        while lent.take(0) {}
        while !lent.is_done() {
            std::thread::yield_now();
        }
        if let Err(panic) = shared {
            std::panic::resume_unwind(panic);
        }
        assert!(!lent.panicked.load(Ordering::Relaxed), "a block of shared work panicked; the panic is logged above");
    }

    /// Does the next block from `seat` on, if one is left.
    pub(crate) fn take(&self, seat: usize) -> bool {
        let (before, after) = self.runs.split_at(seat.min(self.runs.len()));
        let Some(block) = after.iter().chain(before).find_map(Run::take) else { return false };
        if catch_unwind(AssertUnwindSafe(|| (self.work)(block))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        // Releases what the call wrote to whoever sees the count.
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    /// Whether every block has been done.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) == self.blocks
    }
}
