//! The front door: so many replies at once, so many waiting, the rest is turned away at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    ReplyError,
    meter::{Counted, Meter},
};

#[derive(Debug)]
pub(super) struct Gate {
    running: Arc<Semaphore>,
    concurrent: usize,
    inside: Arc<AtomicUsize>,
    room: usize,
    meter: Arc<Meter>,
}

/// A request that was let in; it may still have to wait for its turn.
#[derive(Debug)]
pub(super) struct Admission {
    inside: Arc<AtomicUsize>,
    running: Arc<Semaphore>,
    meter: Arc<Meter>,
}

/// A request whose turn it is. Dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Pass {
    _running: Counted,
    _permit: OwnedSemaphorePermit,
    _admission: Admission,
}

impl Gate {
    pub(super) fn new(concurrent: usize, queue: usize, meter: Arc<Meter>) -> Self {
        let concurrent = concurrent.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            running: Arc::new(Semaphore::new(concurrent)),
            concurrent,
            inside: Arc::default(),
            room: concurrent.saturating_add(queue),
            meter,
        }
    }

    /// Lets a request in, or turns it away.
    pub(super) fn admit(&self) -> Result<Admission, ReplyError> {
        let inside = self.inside.fetch_update(Relaxed, Relaxed, |n| (n < self.room).then_some(n + 1));
        match inside {
            Ok(_) => {
                Ok(Admission { inside: self.inside.clone(), running: self.running.clone(), meter: self.meter.clone() })
            }
            Err(inside) => {
                let running = self.concurrent.min(inside);
                Err(ReplyError::Busy { running, waiting: inside - running })
            }
        }
    }
}

impl Admission {
    /// Waits for the turn, first come first served.
    pub(super) async fn turn(self) -> Result<Pass, ReplyError> {
        let waiting = Counted::new(&self.meter, |m| &m.turns_waiting);
        let permit = self.running.clone().acquire_owned().await;
        drop(waiting);
        let permit = permit.map_err(|_| ReplyError::Busy { running: 0, waiting: 0 })?; // never closed
        let running = Counted::new(&self.meter, |m| &m.turns_running);
        Ok(Pass { _running: running, _permit: permit, _admission: self })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.inside.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_neither_runs_nor_fits_the_queue_is_turned_away() {
        let meter = Arc::<Meter>::default();
        let gate = Gate::new(1, 1, meter.clone());
        let first = gate.admit().unwrap().turn().await.unwrap();
        let second = gate.admit().unwrap();
        assert!(matches!(gate.admit(), Err(ReplyError::Busy { running: 1, waiting: 1 })));
        let waiting = tokio::spawn(second.turn());
        tokio::task::yield_now().await;
        assert_eq!((meter.snapshot().turns_running, meter.snapshot().turns_waiting), (1, 1));
        drop(first);
        drop(waiting.await.unwrap().unwrap());
        assert_eq!((meter.snapshot().turns_running, meter.snapshot().turns_waiting), (0, 0));
        assert!(gate.admit().is_ok());
    }
}
