//! How peers behave: what they have cost in vain. Streams that are opened and left, requests that are refused and records
//! that nobody asked for take the time of a server as honest ones do. Who costs more of it than may happen to an honest peer
//! is slowed down: its new streams are taken up one after the other. Those it has go on, and nobody else is concerned.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use tokio::time::Instant;

/// What may happen to an honest peer at once: so many calls in vain,
const FREE: f64 = 256.0;
/// and as many of them in a second, for good.
const FORGIVEN: f64 = 16.0;
/// More is not held against anyone: after a minute all is forgotten.
const MOST: f64 = FREE + 60.0 * FORGIVEN;
/// The time from one new stream of a slowed peer to the next.
const PACE: Duration = Duration::from_millis(50);
/// The longest that a stream is made to wait; its negotiation has an end before.
const LONGEST: Duration = Duration::from_secs(10);
/// Peers of which something is noted; for one more, the one that owes least is forgotten.
const NOTED: usize = 1024;

/// What a stream was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worth {
    /// The peer got an answer.
    Served,
    /// It was refused, or left before there was one.
    Vain,
}

/// What each peer has cost in vain. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conduct(Arc<Mutex<HashMap<PeerId, Debt>>>);

#[derive(Debug, Clone, Copy)]
struct Debt {
    /// Calls in vain, as of then.
    owed: f64,
    at: Instant,
    /// When the next stream may be taken up.
    next: Instant,
}

impl Debt {
    fn now(&self, now: Instant) -> f64 {
        (self.owed - now.saturating_duration_since(self.at).as_secs_f64() * FORGIVEN).max(0.0)
    }
}

impl Conduct {
    /// Notes what a peer has cost, in calls that were in vain.
    pub(crate) fn charge(&self, peer: PeerId, calls: f64) {
        let now = Instant::now();
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= NOTED && !noted.contains_key(&peer) {
            let owed = |entry: &(&PeerId, &Debt)| entry.1.now(now);
            let least = noted.iter().min_by(|a, b| owed(a).total_cmp(&owed(b))).map(|(peer, _)| *peer);
            least.and_then(|peer| noted.remove(&peer));
        }
        let debt = noted.entry(peer).or_insert(Debt { owed: 0.0, at: now, next: now });
        *debt = Debt { owed: (debt.now(now) + calls).min(MOST), at: now, ..*debt };
    }

    /// When a new stream of `peer` may be taken up; `None` is at once.
    pub(crate) fn turn(&self, peer: PeerId) -> Option<Instant> {
        let now = Instant::now();
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = noted.get_mut(&peer).filter(|debt| debt.now(now) > FREE)?;
        let turn = debt.next.max(now);
        debt.next = (turn + PACE).min(now + LONGEST);
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_costs_too_much_waits_and_is_forgiven() {
        let (conduct, bad, good) = (Conduct::default(), PeerId::random(), PeerId::random());
        conduct.charge(bad, FREE);
        assert_eq!(conduct.turn(bad), None, "that may happen to anyone");
        conduct.charge(bad, 10.0 * MOST);
        let (now, turns) = (Instant::now(), [conduct.turn(bad), conduct.turn(bad), conduct.turn(bad)]);
        assert_eq!(turns, [Some(now), Some(now + PACE), Some(now + 2 * PACE)]);
        assert_eq!(conduct.turn(good), None);
        for _ in 0..1000 {
            assert!(conduct.turn(bad).unwrap() <= now + LONGEST, "nobody waits without end");
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(conduct.turn(bad), None, "a minute later all is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_least_is_forgotten_where_there_are_too_many() {
        let (conduct, bad) = (Conduct::default(), PeerId::random());
        conduct.charge(bad, MOST);
        for _ in 0..2 * NOTED {
            conduct.charge(PeerId::random(), FREE);
        }
        assert_eq!(conduct.0.lock().unwrap().len(), NOTED);
        assert!(conduct.turn(bad).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_honest_peer_that_is_refused_now_and_then_never_waits() {
        let (conduct, peer) = (Conduct::default(), PeerId::random());
        for _ in 0..10_000 {
            conduct.charge(peer, 1.0);
            assert_eq!(conduct.turn(peer), None);
            tokio::time::advance(Duration::from_millis(70)).await;
        }
    }
}
