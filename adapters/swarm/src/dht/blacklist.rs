//! Peers that did not answer lately and are not asked for a while (wire protocol §3.6).

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// More peers than this are not remembered; the one that comes free first is forgotten.
const REMEMBERED: usize = 4096;

/// Who is not asked until when. Each failure in a row doubles the time.
#[derive(Debug, Default)]
pub(super) struct Blacklist(HashMap<PeerId, (Instant, u32)>);

impl Blacklist {
    /// `peer` failed at `now`.
    pub(super) fn strike(&mut self, peer: PeerId, now: Instant) {
        if self.0.len() >= REMEMBERED
            && !self.0.contains_key(&peer)
            && let Some(first) = self.0.iter().min_by_key(|(_, (until, _))| *until).map(|(peer, _)| *peer)
        {
            self.0.remove(&first);
        }
        let failures = self.0.get(&peer).map_or(0, |(_, failures)| *failures);
        let wait = FIRST.saturating_mul(2u32.saturating_pow(failures)).min(LONGEST);
        self.0.insert(peer, (now + wait, failures.saturating_add(1)));
    }

    /// `peer` answered.
    pub(super) fn clear(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Whether `peer` is to be left alone at `now`.
    pub(super) fn holds(&self, peer: &PeerId, now: Instant) -> bool {
        self.0.get(peer).is_some_and(|(until, _)| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_double_the_wait_and_an_answer_ends_it() {
        let (mut blacklist, peer, now) = (Blacklist::default(), PeerId::random(), Instant::now());
        blacklist.strike(peer, now);
        assert!(blacklist.holds(&peer, now + Duration::from_secs(4)));
        assert!(!blacklist.holds(&peer, now + FIRST));
        blacklist.strike(peer, now);
        assert!(blacklist.holds(&peer, now + Duration::from_secs(9)));
        for _ in 0..50 {
            blacklist.strike(peer, now);
        }
        assert!(!blacklist.holds(&peer, now + LONGEST));
        blacklist.clear(&peer);
        assert!(!blacklist.holds(&peer, now));
    }

    #[test]
    fn the_list_is_bounded() {
        let (mut blacklist, now) = (Blacklist::default(), Instant::now());
        for _ in 0..REMEMBERED + 100 {
            blacklist.strike(PeerId::random(), now);
        }
        assert_eq!(blacklist.0.len(), REMEMBERED);
    }
}
