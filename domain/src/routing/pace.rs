//! How long a server usually takes, and how long it may take before somebody else is asked.

use std::time::Duration;

/// Weight of the latest step in the mean.
const LATEST: f64 = 0.2;
/// How many times the usual time counts as stalled.
const STALLED: f64 = 10.0;

/// The times of one server's steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// Mean of its one-position steps.
    usual: Option<Duration>,
    /// Its latest step.
    pub(super) latest: Duration,
}

impl Pace {
    /// Takes the time of a step of `seq` positions.
    pub(super) fn note(&mut self, seq: usize, took: Duration) {
        self.latest = took;
        if seq == 1 {
            let usual = self.usual.map_or(took, |usual| usual.mul_f64(1.0 - LATEST) + took.mul_f64(LATEST));
            self.usual = Some(usual);
        }
    }

    /// When a step of `seq` positions counts as stalled, at least `least`; `None` before the first one-position step. A
    /// prompt costs at most what its positions would cost one by one.
    pub(super) fn stalled(&self, seq: usize, least: Duration) -> Option<Duration> {
        let seq = u32::try_from(seq).unwrap_or(u32::MAX);
        self.usual.map(|usual| usual.mul_f64(STALLED).saturating_mul(seq).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_by_what_was_usual() {
        let (mut pace, s, ms) = (Pace::default(), Duration::from_secs, Duration::from_millis);
        pace.note(100, s(9));
        assert_eq!(pace.stalled(1, s(5)), None, "a prompt says nothing of single steps");
        pace.note(1, ms(100));
        assert_eq!(pace.stalled(1, s(5)), Some(s(5)));
        assert_eq!(pace.stalled(1, ms(10)), Some(s(1)));
        assert_eq!(pace.stalled(20, s(5)), Some(s(20)));
        pace.note(1, s(2));
        assert_eq!(pace.stalled(1, s(1)), Some(ms(4800)));
        assert_eq!(pace.latest, s(2));
    }
}
