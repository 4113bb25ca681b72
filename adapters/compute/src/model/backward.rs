//! A backward pass over a run of blocks.
//!
//! Of the forward pass only the input of each block is kept, and what lies within a block is computed anew on the way back.
//! Rows go through a block in groups of as many positions as a chunk of a long step has, each a job of its own, so that
//! steps of sessions get their turn in between; a row is never divided. What is kept counts against the budget of the KV
//! caches before anything is computed.

use std::{ops::Range, sync::Arc};

use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BackwardInput, FaultKind, Gradients, PortError},
};

use super::{Engine, Loaded};
use crate::{
    arithmetic::{Arithmetic, Place},
    budget::Reservation,
    families::Sequence,
    schedule::CHUNK,
};

/// Arrays of the size of the input that live beside the inputs of the blocks: what a block is given, and what it returns.
const BESIDE: usize = 2;

/// Rows of `seq` positions that go through a block together.
fn group(seq: usize) -> usize {
    (CHUNK / seq).max(1)
}

/// A group of rows.
struct Part {
    /// Where its numbers are among those of all rows.
    numbers: Range<usize>,
    /// Rows, and positions of each.
    shape: (usize, usize),
}

impl<B: Arithmetic> Engine<B> {
    /// As `BlockEngine::backward`.
    pub(super) async fn gradients(&self, range: BlockRange, input: BackwardInput) -> Result<Gradients, PortError> {
        self.hosts(range)?;
        input.check(range.len(), self.hidden)?;
        let (batch, seq, width) = (input.hidden.batch(), input.hidden.seq(), self.hidden);
        let shape = (batch, seq);
        let _kept = self.room(shape, range.len())?;
        let first = range.start() - self.hosted.start();

        let mut x = input.hidden.to_f32();
        let mut inputs = Vec::with_capacity(range.len());
        for nth in 0..range.len() {
            if let Some(prompt) = input.prompts.get(nth) {
                add_prompt(&mut x, prompt, batch);
            }
            let before = Arc::new(x);
            x = if nth + 1 < range.len() {
                let given = before.clone();
                let work = move |model: &Loaded<B>, part: Part| {
                    model.forward(first + nth, (given[part.numbers].to_vec(), width), part.shape)
                };
                self.in_groups("running a block", shape, work).await?
            } else {
                Vec::new()
            };
            inputs.push(before);
        }

        let mut gradient = Arc::new(input.gradient.to_f32());
        let mut prompts = Vec::with_capacity(input.prompts.len());
        while let Some(before) = inputs.pop() {
            let nth = inputs.len();
            let work = move |model: &Loaded<B>, Part { numbers, shape }: Part| {
                let both = (&before[numbers.clone()], &gradient[numbers]);
                model.blocks()?.backward(&model.arithmetic, first + nth, both, shape)
            };
            gradient = Arc::new(self.in_groups("running a block backwards", shape, work).await?);
            if let Some(prompt) = input.prompts.get(nth) {
                let positions = prompt.seq();
                let rows = gradient.chunks_exact(seq * width).flat_map(|row| &row[..positions * width]);
                let numbers: Vec<f32> = rows.copied().collect();
                prompts.push(Hidden::from_f32((batch, positions, width), &numbers)?);
            }
        }
        prompts.reverse();
        Ok(Gradients { hidden: Hidden::from_f32((batch, seq, width), &gradient)?, prompts })
    }

    /// Numbers of `batch` rows of `seq` positions, which `work` makes a group of rows at a time.
    async fn in_groups(
        &self,
        what: &'static str,
        (batch, seq): (usize, usize),
        work: impl Fn(&Loaded<B>, Part) -> Result<Vec<f32>, PortError> + Clone + Send + 'static,
    ) -> Result<Vec<f32>, PortError> {
        let (row, step) = (seq * self.hidden, group(seq));
        let mut numbers = Vec::with_capacity(batch * row);
        for from in (0..batch).step_by(step) {
            let rows = step.min(batch - from);
            let part = Part { numbers: from * row..(from + rows) * row, shape: (rows, seq) };
            let work = work.clone();
            numbers.extend(self.worker.long(what, move |model| work(model, part)).await?);
        }
        Ok(numbers)
    }

    /// Sets aside what a pass over `batch` rows of `seq` positions keeps: as many bytes in positions of KV cache, of one
    /// block.
    fn room(&self, (batch, seq): (usize, usize), blocks: usize) -> Result<Reservation, PortError> {
        let positions = batch * seq;
        let bytes =
            positions.checked_mul(self.hidden).and_then(|n| n.checked_mul((blocks + BESIDE) * size_of::<f32>()));
        // One group at a time has a cache, in one block.
        let cached = batch.min(group(seq)) * seq;
        let worth = bytes.and_then(|bytes| bytes.div_ceil(self.position_bytes).checked_add(cached));
        let refused = |kind, what: String| {
            let worth = worth.map_or("too many".to_owned(), |worth| worth.to_string());
            let text = format!(
                "a backward pass of {positions} positions over {blocks} blocks needs the memory of {worth} positions of KV \
                 cache in one block, {what}"
            );
            PortError::new(kind, text)
        };
        if worth.is_none_or(|worth| worth > self.budget.total()) {
            return Err(refused(FaultKind::InvalidInput, format!("there are {}", self.budget.total())));
        }
        self.budget.reserve(worth, 1).map_err(|_| {
            let (free, blocks) = (self.budget.free_tokens(), self.hosted.len());
            refused(FaultKind::Capacity, format!("{free} are free in each of {blocks}"))
        })
    }
}

impl<B: Arithmetic> Loaded<B> {
    /// Runs `[batch * seq, width]` numbers through block number `nth`, from position 0 on.
    fn forward(
        &self,
        nth: usize,
        (x, width): (Vec<f32>, usize),
        (batch, seq): (usize, usize),
    ) -> Result<Vec<f32>, PortError> {
        let (b, blocks) = (&self.arithmetic, self.blocks()?);
        let frame = blocks.frame(b, Place { batch, seq, position: 0 })?;
        let mut cache = blocks.cache(b, batch, seq)?;
        let sequence = Sequence { frame: &frame, cache: &mut cache, rows: batch * seq };
        b.numbers(blocks.forward(b, nth, b.rows(x, width)?, vec![sequence])?)
    }
}

/// Adds a prompt to the first positions of each row.
fn add_prompt(x: &mut [f32], prompt: &Hidden, batch: usize) {
    let (numbers, length) = (prompt.to_f32(), prompt.seq() * prompt.width());
    for (row, states) in x.chunks_exact_mut(x.len() / batch).enumerate() {
        let from = if prompt.batch() == 1 { 0 } else { row * length };
        states.iter_mut().zip(&numbers[from..from + length]).for_each(|(state, add)| *state += add);
    }
}
