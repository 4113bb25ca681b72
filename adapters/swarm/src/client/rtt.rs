//! Measured round trips, smoothed (wire protocol §7.2).

use std::{collections::HashMap, time::Duration};

use corolla_domain::model::PeerId;
use tokio::time::Instant;

use super::view::Ping;

/// Weight of a new sample.
const NEW: f64 = 0.2;
/// How long a sample counts.
const LIFE: Duration = Duration::from_secs(300);

/// Round trips by peer.
#[derive(Debug, Default)]
pub(super) struct RoundTrips(HashMap<PeerId, (Ping, Instant)>);

impl RoundTrips {
    /// What is known of `peer` at `now`; `None` where it has not been measured lately.
    pub(super) fn get(&self, peer: &PeerId, now: Instant) -> Option<Ping> {
        self.0.get(peer).filter(|(_, at)| now.duration_since(*at) < LIFE).map(|(ping, _)| *ping)
    }

    /// Takes a sample. The first one after none or after a failure counts in full.
    pub(super) fn put(&mut self, peer: PeerId, sample: Ping, now: Instant) {
        let smooth = match (self.get(&peer, now).flatten(), sample) {
            (Some(old), Some(new)) => Some(old.mul_f64(1.0 - NEW) + new.mul_f64(NEW)),
            (_, sample) => sample,
        };
        self.0.insert(peer, (smooth, now));
    }

    /// The `most` peers of `peers` that should be measured next: those never measured, then those longest ago.
    pub(super) fn due(&self, peers: impl IntoIterator<Item = PeerId>, most: usize) -> Vec<PeerId> {
        let mut peers: Vec<(Option<Instant>, PeerId)> =
            peers.into_iter().map(|peer| (self.0.get(&peer).map(|(_, at)| *at), peer)).collect();
        peers.sort();
        peers.into_iter().map(|(_, peer)| peer).take(most).collect()
    }

    /// Forgets all but `peers`.
    pub(super) fn retain(&mut self, keep: impl Fn(&PeerId) -> bool) {
        self.0.retain(|peer, _| keep(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> PeerId {
        PeerId(name.into())
    }

    #[test]
    fn samples_are_smoothed_and_grow_old() {
        let (mut trips, now, ms) = (RoundTrips::default(), Instant::now(), Duration::from_millis);
        assert_eq!(trips.get(&peer("a"), now), None);
        trips.put(peer("a"), Some(ms(100)), now);
        trips.put(peer("a"), Some(ms(200)), now);
        assert_eq!(trips.get(&peer("a"), now), Some(Some(ms(120))));
        trips.put(peer("a"), None, now);
        assert_eq!(trips.get(&peer("a"), now), Some(None), "a failure is not smoothed");
        trips.put(peer("a"), Some(ms(50)), now);
        assert_eq!(trips.get(&peer("a"), now), Some(Some(ms(50))), "nor is what follows it");
        assert_eq!(trips.get(&peer("a"), now + LIFE), None);
    }

    #[test]
    fn the_unknown_are_measured_first_then_the_oldest() {
        let (mut trips, now) = (RoundTrips::default(), Instant::now());
        trips.put(peer("new"), None, now + Duration::from_secs(2));
        trips.put(peer("old"), None, now);
        let all = || ["new", "old", "unknown"].map(peer);
        assert_eq!(trips.due(all(), 2), [peer("unknown"), peer("old")]);
        trips.retain(|p| *p == peer("new"));
        assert_eq!(trips.due(all(), 3), [peer("old"), peer("unknown"), peer("new")]);
    }
}
