//! Blocks that compute as those of the client's tests do, with a budget, and steps that can be made to hang.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BackwardInput, BlockEngine, BlockSession, FaultKind, Gradients, PortError, SessionNeed, StepInput},
};

use crate::{WIDTH, blocks::Blocks};

/// What an engine's sessions did and shall do.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Sessions that live.
    pub(crate) open: AtomicUsize,
    /// Steps under way.
    pub(crate) running: AtomicUsize,
    /// Steps do not end.
    pub(crate) hang: AtomicBool,
    /// Steps fail.
    pub(crate) fail: AtomicBool,
}

/// An engine of some blocks.
pub(crate) struct Toy {
    pub(crate) range: BlockRange,
    pub(crate) ledger: Arc<Ledger>,
    free: Arc<AtomicUsize>,
}

impl Toy {
    /// With a cache for `tokens` positions over all blocks.
    pub(crate) fn new(range: BlockRange, tokens: usize) -> Self {
        Self { range, ledger: Arc::default(), free: Arc::new(AtomicUsize::new(tokens * range.len())) }
    }

    fn reserve(&self, taken: usize) -> Result<Reserved, PortError> {
        let reserved = self.free.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(taken));
        reserved.map_err(|free| PortError::new(FaultKind::Capacity, format!("{taken} of {free}")))?;
        Ok(Reserved { taken, free: self.free.clone() })
    }
}

/// A part of the cache.
struct Reserved {
    taken: usize,
    free: Arc<AtomicUsize>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.free.fetch_add(self.taken, SeqCst);
    }
}

#[async_trait]
impl BlockEngine for Toy {
    fn hosted(&self) -> BlockRange {
        self.range
    }

    fn free_tokens(&self) -> usize {
        self.free.load(SeqCst) / self.range.len()
    }

    async fn open(&self, range: BlockRange, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        assert!(self.range.contains(range), "the server checks what it asks for");
        let reserved = self.reserve(need.max_length.saturating_mul(need.batch).saturating_mul(range.len()))?;
        self.ledger.open.fetch_add(1, SeqCst);
        let ledger = self.ledger.clone();
        Ok(Box::new(Session { range, need, blocks: Blocks::new(range), fed: Vec::new(), _reserved: reserved, ledger }))
    }

    async fn backward(&self, range: BlockRange, input: BackwardInput) -> Result<Gradients, PortError> {
        if !self.range.contains(range) {
            return Err(PortError::invalid("blocks that are not here"));
        }
        input.check(range.len(), WIDTH)?;
        let (batch, seq) = (input.hidden.batch(), input.hidden.seq());
        let _reserved = self.reserve(batch * seq * range.len())?;
        self.ledger.running.fetch_add(1, SeqCst);
        let _running = Running(self.ledger.clone());
        if self.ledger.hang.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        let mut gradient = input.gradient;
        let mut prompts = Vec::new();
        for (nth, block) in (range.start()..range.end()).enumerate().rev() {
            gradient = backwards(block, &gradient);
            if let Some(prompt) = input.prompts.get(nth) {
                prompts.insert(0, gradient.positions(0, prompt.seq())?);
            }
        }
        Ok(Gradients { hidden: gradient, prompts })
    }
}

/// Back through one of [`Blocks`]: what leaves it is a sum of numbers that enter it, so their values do not matter.
fn backwards(block: usize, gradient: &Hidden) -> Hidden {
    let (batch, seq) = (gradient.batch(), gradient.seq());
    let mut numbers = gradient.to_f32();
    for row in numbers.chunks_mut(seq * WIDTH) {
        let mut by_cell = [0.0; WIDTH];
        for (at, states) in row.chunks_mut(WIDTH).enumerate().rev() {
            for (number, by_cell) in states.iter_mut().zip(&mut by_cell) {
                let by_output = *number + 0.25 * *by_cell;
                let position = (at % 7 + 1) as f32;
                (*number, *by_cell) = match block % 2 {
                    0 => (position * by_output, by_output),
                    _ => (by_output, -0.5 * by_output),
                };
            }
        }
    }
    Hidden::from_f32((batch, seq, WIDTH), &numbers).unwrap()
}

struct Session {
    range: BlockRange,
    need: SessionNeed,
    blocks: Blocks,
    fed: Vec<Hidden>,
    _reserved: Reserved,
    ledger: Arc<Ledger>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ledger.open.fetch_sub(1, SeqCst);
    }
}

/// A step under way.
struct Running(Arc<Ledger>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Session {
    fn replay(&mut self) {
        self.blocks = Blocks::new(self.range);
        for hidden in &self.fed {
            self.blocks.step(hidden);
        }
    }
}

#[async_trait]
impl BlockSession for Session {
    fn blocks(&self) -> BlockRange {
        self.range
    }

    fn position(&self) -> usize {
        self.blocks.positions()
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        let hidden = input.hidden;
        assert_eq!(hidden.batch(), self.need.batch, "the server checks what it is given");
        assert!(self.position() + hidden.seq() <= self.need.max_length, "the server checks what it is given");
        self.ledger.running.fetch_add(1, SeqCst);
        let _running = Running(self.ledger.clone());
        if self.ledger.hang.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.ledger.fail.load(SeqCst) {
            return Err(PortError::internal("the blocks are broken"));
        }
        tokio::task::yield_now().await;
        self.fed.push(hidden.clone());
        Ok(self.blocks.step(&hidden))
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        Hidden::truncate(&mut self.fed, to)?;
        self.replay();
        Ok(())
    }

    async fn reorder(&mut self, rows: &[usize]) -> Result<(), PortError> {
        for hidden in &mut self.fed {
            let parts: Result<Vec<Hidden>, PortError> = rows.iter().map(|row| hidden.rows(*row, row + 1)).collect();
            *hidden = Hidden::stack(&parts?)?;
        }
        self.replay();
        Ok(())
    }
}
