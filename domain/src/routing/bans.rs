//! Peers that failed lately and are left alone for a while.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::model::PeerId;

const FIRST: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// More peers than this are not remembered; the ones that come free first are forgotten.
const REMEMBERED: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Ban {
    until: Instant,
    strikes: u32,
}

/// Who is banned until when. Each failure in a row doubles the time.
#[derive(Debug, Default)]
pub struct Bans(Mutex<HashMap<PeerId, Ban>>);

impl Bans {
    /// Bans `peer` from `now` on: 15 s, twice that for each failure since its last success, 15 min at most.
    pub fn strike(&self, peer: &PeerId, now: Instant) {
        let mut bans = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if bans.len() >= REMEMBERED
            && !bans.contains_key(peer)
            && let Some(first) = bans.iter().min_by_key(|(_, b)| b.until).map(|(p, _)| p.clone())
        {
            bans.remove(&first);
        }
        let strikes = bans.get(peer).map_or(0, |b| b.strikes);
        let wait = FIRST.saturating_mul(2u32.saturating_pow(strikes)).min(LONGEST);
        bans.insert(peer.clone(), Ban { until: now + wait, strikes: strikes + 1 });
    }

    /// Forgets the failures of a peer that has just worked.
    pub fn clear(&self, peer: &PeerId) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(peer);
    }

    /// Whether `peer` is to be left alone at `now`.
    #[must_use]
    pub fn banned(&self, peer: &PeerId, now: Instant) -> bool {
        let bans = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        bans.get(peer).is_some_and(|b| b.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_double_and_a_success_forgives() {
        let (bans, peer, start) = (Bans::default(), PeerId("a".into()), Instant::now());
        bans.strike(&peer, start);
        assert!(bans.banned(&peer, start + Duration::from_secs(14)));
        assert!(!bans.banned(&peer, start + Duration::from_secs(15)));
        bans.strike(&peer, start);
        assert!(bans.banned(&peer, start + Duration::from_secs(29)));
        for _ in 0..40 {
            bans.strike(&peer, start);
        }
        assert!(!bans.banned(&peer, start + LONGEST));
        bans.clear(&peer);
        assert!(!bans.banned(&peer, start));
    }

    #[test]
    fn the_list_is_bounded() {
        let (bans, start) = (Bans::default(), Instant::now());
        for i in 0..2 * REMEMBERED {
            bans.strike(&PeerId(i.to_string()), start);
        }
        assert_eq!(bans.0.lock().unwrap().len(), REMEMBERED);
    }
}
