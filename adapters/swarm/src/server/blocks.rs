//! The engine as the methods use it: sessions in line for room in the cache, and passes that keep nothing.

use std::{sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BackwardInput, BlockEngine, BlockSession, FaultKind, Gradients, PortError, SessionNeed},
};
use tokio::{
    sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    input::{Input, Prompts},
    refusal::Refusal,
};

/// Passes without a cache that run at a time; others wait in line.
const PASSES: usize = 4;
/// How often somebody in line looks, whatever he is told: room may come back unseen.
const LOOK: Duration = Duration::from_millis(200);

/// The engine and those in line.
pub(super) struct Blocks {
    engine: Arc<dyn BlockEngine>,
    /// Told when a session has given its room back.
    freed: Notify,
    /// Who is first in line holds it.
    line: Mutex<()>,
    passes: Arc<Semaphore>,
}

impl Blocks {
    pub(super) fn new(engine: Arc<dyn BlockEngine>) -> Self {
        Self { engine, freed: Notify::new(), line: Mutex::new(()), passes: Arc::new(Semaphore::new(PASSES)) }
    }

    /// Positions over all blocks that the cache can still take.
    pub(super) fn free_tokens(&self) -> usize {
        self.engine.free_tokens()
    }

    /// Opens a session; where there is no room, waits for some for as long as `patience`, in the order of arrival.
    async fn open(
        &self,
        range: BlockRange,
        need: SessionNeed,
        patience: Duration,
    ) -> Result<Box<dyn BlockSession>, PortError> {
        let deadline = Instant::now() + patience;
        let mut outcome = self.engine.open(range, need).await;
        let full = |outcome: &Result<_, PortError>| matches!(outcome, Err(e) if e.kind() == FaultKind::Capacity);
        if patience.is_zero() || !full(&outcome) {
            return outcome;
        }
        let waiting = async {
            let _first = self.line.lock().await;
            while full(&outcome) {
                let _ = tokio::time::timeout(LOOK, self.freed.notified()).await;
                outcome = self.engine.open(range, need).await;
            }
        };
        // Too late: the outcome says what is missing.
        let _ = timeout_at(deadline, waiting).await;
        outcome
    }

    /// Sessions over `range`, in one piece, or where there will be prompts in one piece for each block.
    pub(super) async fn stack(
        self: &Arc<Self>,
        range: BlockRange,
        need: SessionNeed,
        (apart, patience): (bool, Duration),
    ) -> Result<Stack, PortError> {
        let ranges: Vec<BlockRange> = if apart {
            (range.start()..range.end()).filter_map(|block| BlockRange::new(block, block + 1)).collect()
        } else {
            vec![range]
        };
        let mut stack = Stack { parts: Vec::new(), blocks: self.clone() };
        let deadline = Instant::now() + patience;
        for range in ranges {
            stack.parts.push(self.open(range, need, deadline.saturating_duration_since(Instant::now())).await?);
        }
        Ok(stack)
    }

    /// A place among the passes that run at a time.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = self.passes.clone().acquire_owned().await;
        turn.map_err(|_| Refusal::new("RuntimeError", "the server has ended"))
    }

    /// Runs hidden states through `range` and keeps nothing: at no time more than the cache of one block.
    pub(super) async fn pass(
        self: &Arc<Self>,
        range: BlockRange,
        input: Input,
        patience: Duration,
    ) -> Result<Option<Hidden>, Refusal> {
        let Some(mut hidden) = input.hidden else { return Ok(None) };
        let need = SessionNeed { max_length: hidden.seq(), batch: hidden.batch() };
        for (nth, block) in (range.start()..range.end()).enumerate() {
            let Some(range) = BlockRange::new(block, block + 1) else { continue };
            if let Some(prompts) = &input.prompts {
                hidden = prompts.add(nth, &hidden)?;
            }
            let mut stack = self.stack(range, need, (false, patience)).await?;
            hidden = stack.step(hidden, None).await?;
        }
        Ok(Some(hidden))
    }

    /// Gradients through `range`. Where there is no room for what the pass keeps meanwhile, it makes way for others and
    /// waits for some, for as long as `patience`.
    pub(super) async fn backward(
        &self,
        range: BlockRange,
        input: BackwardInput,
        turn: OwnedSemaphorePermit,
        patience: Duration,
    ) -> Result<Gradients, Refusal> {
        let (deadline, mut turn) = (Instant::now() + patience, Some(turn));
        loop {
            let held = match turn.take() {
                Some(turn) => turn,
                None => self.turn().await?,
            };
            let freed = Freed(Some(&self.freed));
            match self.engine.backward(range, input.clone()).await {
                Err(error) if error.kind() == FaultKind::Capacity && Instant::now() < deadline => freed.nothing(),
                outcome => return Ok(outcome?),
            }
            drop(held);
            let _ = tokio::time::timeout(LOOK, self.freed.notified()).await;
        }
    }
}

/// Tells somebody in line, when it is dropped, that there may be room.
struct Freed<'a>(Option<&'a Notify>);

impl Freed<'_> {
    /// There is no more room than before.
    fn nothing(mut self) {
        self.0 = None;
    }
}

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.0.inspect(|line| line.notify_one());
    }
}

/// Sessions that one step goes through. Dropping it frees their caches.
pub(super) struct Stack {
    parts: Vec<Box<dyn BlockSession>>,
    blocks: Arc<Blocks>,
}

impl Stack {
    /// Whether it can put prompts between blocks.
    pub(super) fn takes_prompts(&self, range: BlockRange) -> bool {
        self.parts.len() == range.len()
    }

    pub(super) fn position(&self) -> usize {
        self.parts.last().map_or(0, |part| part.position())
    }

    pub(super) async fn step(&mut self, mut hidden: Hidden, prompts: Option<&Prompts>) -> Result<Hidden, Refusal> {
        for (nth, part) in self.parts.iter_mut().enumerate() {
            if let Some(prompts) = prompts {
                hidden = prompts.add(nth, &hidden)?;
            }
            hidden = part.step(hidden.into()).await?;
        }
        Ok(hidden)
    }

    pub(super) async fn rewind(&mut self, to: usize) -> Result<(), Refusal> {
        for part in &mut self.parts {
            part.rewind(to).await?;
        }
        Ok(())
    }

    pub(super) async fn reorder(&mut self, rows: &[usize]) -> Result<(), Refusal> {
        for part in &mut self.parts {
            part.reorder(rows).await?;
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.parts.clear();
        self.blocks.freed.notify_one();
    }
}
