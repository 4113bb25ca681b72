//! How a reply travelled through a swarm, for people to read.

use std::time::Duration;

use super::Hop;

/// The servers a session uses, and what happened on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteReport {
    /// The hops in use, in the order of the blocks.
    pub hops: Vec<HopReport>,
    /// The latest failovers, oldest first; positions that were forgotten since are counted too.
    pub failovers: Vec<Failover>,
    /// How many failovers there were, also those no longer in `failovers`.
    pub failed_over: usize,
}

/// One hop in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopReport {
    /// The server, and which of its blocks.
    pub hop: Hop,
    /// Time from input to output of its latest step.
    pub latest: Duration,
}

/// A server was lost, and others took over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Positions that were known when it happened.
    pub position: usize,
    /// The server that was lost, and its blocks.
    pub lost: Hop,
    /// Why it was given up.
    pub why: String,
    /// From the step that failed to the same step's output from others.
    pub pause: Duration,
    /// Who runs the blocks now.
    pub by: Vec<Hop>,
}
