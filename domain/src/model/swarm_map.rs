//! Who hosts which blocks: an immutable snapshot of a swarm.

use std::{fmt, time::Duration};

use super::BlockRange;
use crate::ports::{FaultKind, PortError};

/// A peer's name. Opaque to the domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub String);

impl From<&str> for PeerId {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One server and what it offers.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerInfo {
    /// Whom to dial.
    pub peer: PeerId,
    /// Blocks it hosts.
    pub blocks: BlockRange,
    /// One-token steps of one block it does in a second.
    pub rps: f64,
    /// Round trip to it; `None` where not measured yet.
    pub rtt: Option<Duration>,
    /// Round trips from it to servers that come after it, as it measured them.
    pub next: Vec<(PeerId, Duration)>,
    /// Whether it can hand its output to the next server itself.
    pub pushes: bool,
    /// Tokens its KV cache can still take; `None` where it does not say.
    pub free_tokens: Option<usize>,
    /// What it says of itself, for people to read.
    pub facts: ServerFacts,
}

/// What a server says of itself. Nothing depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// Version of its software.
    pub version: Option<String>,
    /// What it computes with, e.g. `bfloat16`.
    pub dtype: Option<String>,
    /// Whether it is reached through a relay.
    pub relayed: Option<bool>,
    /// The name its operator gave it.
    pub name: Option<String>,
}

/// Snapshot of a swarm: every server that can be dialled now.
#[derive(Debug, Clone, Default)]
pub struct SwarmMap {
    /// Of several ways that take as long, the one over the servers named first is taken.
    pub servers: Vec<ServerInfo>,
    /// Why there may be more servers than these: a part of the swarm could not be looked at.
    pub fault: Option<PortError>,
}

impl From<Vec<ServerInfo>> for SwarmMap {
    fn from(servers: Vec<ServerInfo>) -> Self {
        Self { servers, fault: None }
    }
}

impl SwarmMap {
    /// Blocks of `wanted` that no server hosts, in order.
    #[must_use]
    pub fn missing(&self, wanted: BlockRange) -> Vec<usize> {
        (wanted.start()..wanted.end())
            .filter(|b| !self.servers.iter().any(|s| s.blocks.start() <= *b && *b < s.blocks.end()))
            .collect()
    }

    /// What is wrong where no server is known for `blocks`.
    #[must_use]
    pub fn no_host(&self, blocks: &str) -> PortError {
        match &self.fault {
            None => PortError::new(FaultKind::Unavailable, format!("no server hosts {blocks}")),
            Some(fault) => {
                let text = format!("no server is known for {blocks}: the swarm could not be reached: {fault}");
                PortError::new(fault.kind(), text).with_source(fault.clone())
            }
        }
    }
}

/// One leg of a route: these blocks at that peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Whom to dial.
    pub peer: PeerId,
    /// Which of its blocks to use.
    pub blocks: BlockRange,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.blocks, self.peer)
    }
}
