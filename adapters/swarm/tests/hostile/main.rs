//! A client among hostile peers: whatever they do, every call ends in time with a typed fault that names the peer, memory
//! stays bounded, and a healthy server takes over.
//!
//! All memory of this process is counted, that of the hostile peers too. A test has the process to itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should fail")]

mod act;
mod addresses;
#[path = "../client/blocks.rs"]
mod blocks;
mod cuts;
#[path = "../server/engine.rs"]
#[allow(dead_code, reason = "the tests of the server need more of it")]
mod engine;
#[path = "../client/fake.rs"]
#[allow(dead_code, reason = "the other tests of the client need more of it")]
mod fake;
mod flood;
mod inference;
mod info;
mod lookup;
mod negotiation;
mod raw;
mod stage;
mod unasked;
mod villain;

use std::time::{Duration, Instant};

use corolla_domain::ports::{FaultKind, PortError};
use fake::WIDTH;
use peak_alloc::PeakAlloc;
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Keeps other tests of this process waiting: they would be counted too.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// What `work` comes to, how long it took, and how much more memory was in use at any time than before.
async fn cost<T>(work: impl Future<Output = T>) -> (T, Duration, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let begun = Instant::now();
    let outcome = work.await;
    (outcome, begun.elapsed(), MEMORY.peak_usage().saturating_sub(before))
}

/// A fault of this kind, whose sentence has these words and is no longer than a sentence.
#[track_caller]
fn assert_fault<T>(what: &str, outcome: Result<T, PortError>, kind: FaultKind, words: &str) -> PortError {
    let Err(fault) = outcome else { panic!("{what}: no fault") };
    assert_eq!(fault.kind(), kind, "{what}: {fault}");
    assert!(fault.context().contains(words), "{what}: {fault}");
    assert!(fault.context().len() < 3000, "{what}: {} bytes", fault.context().len());
    fault
}
