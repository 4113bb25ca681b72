//! What a server said of itself, as far as it matters to who calls it.

use super::codec::Codec;
use crate::wire::inference::RpcInfo;

/// The first release whose servers hand their output on: 2.3.0.dev2 (wire protocol §6.7).
const PUSHING: Release = Release { number: (2, 3, 0), dev: 2 };

/// How to talk to one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) codec: Codec,
    /// Whether it hands its output to the next server where it is asked to.
    pub(super) pushes: bool,
}

impl Terms {
    /// The terms of a server that says this of itself.
    pub(super) fn of(info: &RpcInfo) -> Self {
        Self { codec: Codec::of(info), pushes: pushes(info.version.as_deref()) }
    }
}

/// Whether a server of this version pushes.
pub(super) fn pushes(version: Option<&str>) -> bool {
    version.and_then(Release::read).is_some_and(|release| release >= PUSHING)
}

/// A Python version, as far as it is needed to tell releases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Release {
    number: (u32, u32, u32),
    /// The number after `.dev`; where there is none, it comes after all that have one.
    dev: u32,
}

impl Release {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').split('.');
        let mut number = || parts.next().and_then(leading);
        let number = (number()?, number()?, number().unwrap_or(0));
        let dev = match text.split_once(".dev") {
            Some((_, dev)) => leading(dev)?,
            None => u32::MAX,
        };
        Some(Self { number, dev })
    }
}

/// The number that a text begins with.
fn leading(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_push_from_the_development_of_2_3_on() {
        for version in
            ["2.3.0.dev2", "2.3.0.dev3+git1a2b", "2.3.0", "2.3", "2.3.0rc1", "2.3.1.dev0", "2.10.0", "v3.0.0"]
        {
            assert!(pushes(Some(version)), "{version}");
        }
        for version in ["2.2.0.post1", "2.2.9", "2.3.0.dev1", "2.3.0.dev", "1.9.0", "", "new", "2", "99999999999.9.9"] {
            assert!(!pushes(Some(version)), "{version}");
        }
        assert!(!pushes(None));
    }
}
