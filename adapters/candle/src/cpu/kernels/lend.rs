//! Lending work to other threads: the one place where the compiler cannot see that a borrow outlives its use.
#![allow(unsafe_code)]

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// Work in blocks: whoever has a reference takes the next block, until none is left. It never waits.
///
/// Each seat has a run of blocks of its own and goes on with those of others when it is done: so a thread reads memory in
/// one stream as long as it can, which is what prefetchers follow.
pub(crate) struct Lent {
    /// Valid until `done` reaches `blocks`.
    work: *const (dyn Fn(usize) + Sync),
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

// SAFETY: what `work` points to may be called from any thread, since it is `Sync`; when it may be called at all is said
// where it is. The rest of `Lent` is made of counters.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Lent {
    /// Makes `work` over `0..blocks` for `seats` threads and hands it to `share`, who must let the calling thread take part
    /// in it and return when [`Lent::is_done`]; if it returns early, this waits for what others have begun.
    pub(crate) fn lend(work: &(dyn Fn(usize) + Sync), (blocks, seats): (usize, usize), share: impl FnOnce(&Arc<Self>)) {
        // SAFETY: only the lifetime changes, which a pointer does not promise anything about.
        let work = unsafe {
            mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(work)
        };
        let lent = Arc::new(Self {
            work,
            blocks,
            runs: (0..seats)
                .map(|seat| Run { next: AtomicUsize::new(blocks * seat / seats), end: blocks * (seat + 1) / seats })
                .collect(),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        // From here on, neither returning nor unwinding leaves this function before every block has been done: `take`
        // relies on it.
        let shared = catch_unwind(AssertUnwindSafe(|| share(&lent)));
        while lent.take(0) {}
        while !lent.is_done() {
            thread::yield_now();
        }
        if let Err(panic) = shared {
            resume_unwind(panic);
        }
        assert!(!lent.panicked.load(Ordering::Relaxed), "a block of shared work panicked; the panic is logged above");
    }

    /// Does the next block from `seat` on, if one is left.
    pub(crate) fn take(&self, seat: usize) -> bool {
        let (before, after) = self.runs.split_at(seat.min(self.runs.len()));
        let Some(block) = after.iter().chain(before).find_map(Run::take) else { return false };
        // SAFETY: the runs part the numbers below `blocks` among them and hand out each once, and a call is counted in
        // `done` only when it has ended, panic or not. This one is not counted yet, so `done` is below `blocks`, and
        // `lend`, whose caller lends what `work` points to, has not returned.
        let work = unsafe { &*self.work };
        if catch_unwind(AssertUnwindSafe(|| work(block))).is_err() {
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
