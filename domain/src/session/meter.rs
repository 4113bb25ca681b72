//! Counters of what the service did and does.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts, shared by the service and the replies it hands out.
#[derive(Debug, Default)]
pub struct Meter {
    pub(super) turns_running: AtomicU64,
    pub(super) turns_waiting: AtomicU64,
    pub(super) turns_started: AtomicU64,
    pub(super) prompt_tokens_cached: AtomicU64,
    pub(super) tokens_computed: AtomicU64,
    pub(super) tokens_generated: AtomicU64,
    pub(super) sessions_live: AtomicU64,
    pub(super) prefixes_kept: AtomicU64,
    pub(super) prefix_hits: AtomicU64,
    pub(super) prefix_tokens: AtomicU64,
}

/// What a [`Meter`] showed at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeterReading {
    /// Replies being written now.
    pub turns_running: u64,
    /// Requests waiting for their turn now.
    pub turns_waiting: u64,
    /// Replies begun since the start.
    pub turns_started: u64,
    /// Prompt positions found in a KV cache instead of computed.
    pub prompt_tokens_cached: u64,
    /// Positions run through the blocks.
    pub tokens_computed: u64,
    /// Tokens produced.
    pub tokens_generated: u64,
    /// Sessions this process holds now.
    pub sessions_live: u64,
    /// Conversations without a session that are kept for requests that begin as they do.
    pub prefixes_kept: u64,
    /// Replies that one of them was taken for.
    pub prefix_hits: u64,
    /// Prompt positions that these had not to compute.
    pub prefix_tokens: u64,
}

impl Meter {
    /// All counts now.
    #[must_use]
    pub fn snapshot(&self) -> MeterReading {
        MeterReading {
            turns_running: self.turns_running.load(Relaxed),
            turns_waiting: self.turns_waiting.load(Relaxed),
            turns_started: self.turns_started.load(Relaxed),
            prompt_tokens_cached: self.prompt_tokens_cached.load(Relaxed),
            tokens_computed: self.tokens_computed.load(Relaxed),
            tokens_generated: self.tokens_generated.load(Relaxed),
            sessions_live: self.sessions_live.load(Relaxed),
            prefixes_kept: self.prefixes_kept.load(Relaxed),
            prefix_hits: self.prefix_hits.load(Relaxed),
            prefix_tokens: self.prefix_tokens.load(Relaxed),
        }
    }

    pub(super) fn prefix_hit(&self, tokens: usize) {
        self.prefix_hits.fetch_add(1, Relaxed);
        self.prefix_tokens.fetch_add(tokens as u64, Relaxed);
    }
}

/// Counts one thing for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    meter: Arc<Meter>,
    which: fn(&Meter) -> &AtomicU64,
}

impl Counted {
    pub(super) fn new(meter: &Arc<Meter>, which: fn(&Meter) -> &AtomicU64) -> Self {
        which(meter).fetch_add(1, Relaxed);
        Self { meter: meter.clone(), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.meter).fetch_sub(1, Relaxed);
    }
}
