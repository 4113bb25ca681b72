//! A session over blocks: the handle holds the position, the worker fills the cache behind it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BlockSession, FaultKind, PortError, SessionNeed, StepInput},
};

use crate::{
    arithmetic::{Arithmetic, Place},
    budget::Reservation,
    model::Loaded,
    worker::{Waiting, Worker},
};

/// A session over some of a model's blocks. Whatever lies in the caches from `position` on is as good as not there:
/// that makes dropped steps and rewinding free of work.
pub(crate) struct Session<B: Arithmetic> {
    pub worker: Worker<Loaded<B>>,
    /// One for each block. Only the worker locks it.
    pub caches: Arc<Mutex<Vec<B::Cache>>>,
    pub blocks: BlockRange,
    /// Where the first of the blocks stands among those loaded.
    pub first: usize,
    pub need: SessionNeed,
    pub width: usize,
    pub position: usize,
    pub _reservation: Reservation,
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
        let place = Place { batch: shape.0, seq: shape.1, position: self.position };
        let end = place.position.saturating_add(place.seq);
        if end > self.need.max_length {
            return Err(PortError::new(
                FaultKind::Capacity,
                format!("the step would reach position {end} of a session of {}", self.need.max_length),
            ));
        }
        let (caches, first) = (Arc::clone(&self.caches), self.first);
        let work = move |model: &Loaded<B>, waiting: Waiting<'_>| {
            let mut caches = caches.lock().unwrap_or_else(PoisonError::into_inner);
            let x = model.run((first, &mut caches), (hidden.to_f32(), shape.2), place, &waiting)?;
            Hidden::from_f32(shape, &x)
        };
        let hidden = self.worker.run("running blocks", work).await?;
        self.position = end;
        Ok(hidden)
    }

    async fn reorder(&mut self, rows: &[usize]) -> Result<(), PortError> {
        let batch = self.need.batch;
        if rows.len() != batch || rows.iter().any(|row| *row >= batch) {
            return Err(PortError::invalid(format!("{rows:?} is no order of {batch} rows")));
        }
        let (caches, rows, length) = (Arc::clone(&self.caches), rows.to_vec(), self.position);
        let work = move |model: &Loaded<B>, _: Waiting<'_>| {
            let mut caches = caches.lock().unwrap_or_else(PoisonError::into_inner);
            model.reorder(&mut caches, &rows, length)
        };
        self.worker.run("reordering rows", work).await
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        if to > self.position {
            return Err(PortError::invalid(format!("cannot rewind to {to}, the session is at {}", self.position)));
        }
        self.position = to;
        Ok(())
    }
}
