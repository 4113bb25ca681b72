//! A session over blocks: the handle holds the position, the worker fills the cache behind it.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BlockSession, FaultKind, PortError, SessionNeed, StepInput},
};

use crate::{arithmetic::Arithmetic, budget::Share, model::Loaded, pass::Step, worker::Worker};

/// Keys and values of one session, and their part of the budget: both go at once.
pub(crate) struct KvCache<B: Arithmetic> {
    blocks: Mutex<Vec<B::Cache>>,
    share: Mutex<Share>,
}

impl<B: Arithmetic> KvCache<B> {
    pub(crate) fn new(blocks: Vec<B::Cache>, share: Share) -> Self {
        Self { blocks: Mutex::new(blocks), share: Mutex::new(share) }
    }

    /// The caches, one for each block of the session. Only the worker does this.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<B::Cache>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of the budget. Only the session does this.
    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session over some of a model's blocks. Whatever lies in the caches from `position` on is as good as not there:
/// that makes dropped steps and rewinding free of work.
pub(crate) struct Session<B: Arithmetic> {
    pub worker: Worker<B>,
    /// The worker has it as long as a step is under way.
    pub cache: Arc<KvCache<B>>,
    pub blocks: BlockRange,
    /// The blocks, by their numbers among those loaded.
    pub loaded: Range<usize>,
    pub need: SessionNeed,
    pub width: usize,
    pub position: usize,
}

#[async_trait]
impl<B: Arithmetic> BlockSession for Session<B> {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        let hidden = input.hidden;
        let shape = (hidden.batch(), hidden.seq(), hidden.width());
        if (shape.0, shape.2) != (self.need.batch, self.width) {
            return Err(PortError::invalid(format!(
                "the step has {} rows of width {}, the session {} of width {}",
                shape.0, shape.2, self.need.batch, self.width
            )));
        }
        let end = self.position.saturating_add(shape.1);
        if end > self.need.max_length {
            return Err(PortError::new(
                FaultKind::Capacity,
                format!("the step would reach position {end} of a session of {}", self.need.max_length),
            ));
        }
        self.cache.share().write(self.position)?;
        let (cache, blocks, position) = (Arc::downgrade(&self.cache), self.loaded.clone(), self.position);
        let step = |reply| Step { cache, blocks, hidden, position, done: Vec::new(), apart: false, reply };
        let hidden = self.worker.step(step).await?;
        self.position = end;
        Ok(hidden)
    }

    async fn reorder(&mut self, rows: &[usize]) -> Result<(), PortError> {
        let batch = self.need.batch;
        if rows.len() != batch || rows.iter().any(|row| *row >= batch) {
            return Err(PortError::invalid(format!("{rows:?} is no order of {batch} rows")));
        }
        let (cache, rows, length) = (Arc::downgrade(&self.cache), rows.to_vec(), self.position);
        let work = move |model: &Loaded<B>| {
            // Without a cache the session has gone.
            cache.upgrade().map_or(Ok(()), |cache| model.reorder(&mut cache.lock(), &rows, length))
        };
        self.worker.call("reordering rows", work).await
    }

    async fn fork(&mut self, to: usize, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if to > self.position || to > need.max_length || need.max_length == 0 || need.batch != self.need.batch {
            return Err(PortError::invalid(format!(
                "{to} positions of a session that is at {} and has {} rows cannot be the beginning of one of {} positions \
                 and {} rows",
                self.position, self.need.batch, need.max_length, need.batch
            )));
        }
        let share = self.cache.share().fork(to, need.max_length)?;
        let cache = Arc::downgrade(&self.cache);
        let work = move |model: &Loaded<B>| {
            let cache = cache.upgrade().ok_or_else(|| PortError::internal("a session has gone while it was forked"))?;
            let blocks = model.fork(&cache.lock(), to, need.max_length)?;
            Ok(KvCache::<B>::new(blocks, share))
        };
        let cache = Arc::new(self.worker.call("forking the KV cache", work).await?);
        let (worker, loaded) = (self.worker.clone(), self.loaded.clone());
        Ok(Box::new(Self { worker, cache, blocks: self.blocks, loaded, need, width: self.width, position: to }))
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        if to > self.position {
            return Err(PortError::invalid(format!("cannot rewind to {to}, the session is at {}", self.position)));
        }
        self.position = to;
        Ok(())
    }
}
