//! So many requests a minute, as many at once after a minute's rest.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// The generic cell rate algorithm: keeps one moment, whatever the rate.
#[derive(Debug)]
pub(super) struct Rate {
    per_minute: NonZeroU32,
    /// When a client that had kept an even pace would be allowed its next request.
    next: Mutex<Option<Instant>>,
}

impl Rate {
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self { per_minute, next: Mutex::default() }
    }

    pub(super) fn per_minute(&self) -> u32 {
        self.per_minute.get()
    }

    /// Counts a request, or tells how long to wait until one will be counted.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let (now, step) = (Instant::now(), MINUTE / self.per_minute.get());
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let due = next.map_or(now, |next| next.max(now));
        let early = (due - now).saturating_sub(MINUTE - step);
        if !early.is_zero() {
            return Err(early);
        }
        *next = Some(due + step);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minutes_requests_may_come_at_once_and_then_one_by_one() {
        let rate = Rate::new(NonZeroU32::new(6).unwrap());
        for _ in 0..6 {
            assert_eq!(rate.take(), Ok(()));
        }
        assert_eq!(rate.take(), Err(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(rate.take(), Err(Duration::from_secs(3)), "who is turned away loses nothing");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!((rate.take(), rate.take().is_err()), (Ok(()), true));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let counted = (0..100).filter(|_| rate.take().is_ok()).count();
        assert_eq!(counted, 6, "a rest saves up one minute, not an hour");
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_and_the_highest_rate_count() {
        let slow = Rate::new(NonZeroU32::MIN);
        assert_eq!((slow.take(), slow.take()), (Ok(()), Err(MINUTE)));
        let fast = Rate::new(NonZeroU32::MAX);
        assert!((0..10_000).all(|_| fast.take().is_ok()));
    }
}
