//! Who hears what happens while replies are written: the way out for measurements, which the domain itself keeps none of.

use std::time::Duration;

use crate::model::{Failover, Hop, ModelId};

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A request's turn came, so long after it was asked.
    Started {
        /// Who answers.
        model: &'a ModelId,
        /// From the request to its turn.
        waited: Duration,
    },
    /// A token was produced.
    Token {
        /// Who answers.
        model: &'a ModelId,
        /// The first one of its reply.
        first: bool,
        /// Of the first one since the request; of others since they were asked for, so that a slow reader does not count.
        took: Duration,
    },
    /// A server of a route answered a step.
    Step {
        /// Whose blocks.
        model: &'a ModelId,
        /// The server, and which blocks.
        hop: &'a Hop,
        /// From input to output.
        took: Duration,
    },
    /// A server was lost, and others took over.
    FailedOver {
        /// Whose blocks.
        model: &'a ModelId,
        /// What was lost, and who runs it now.
        failover: &'a Failover,
    },
    /// A reply is over.
    Ended {
        /// Who answered.
        model: &'a ModelId,
        /// Tokens produced.
        tokens: usize,
        /// Whether its last chunk was given out; else it failed, or its reader left.
        finished: bool,
    },
}

/// Hears of every event. It is called while a reply waits, so an implementation MUST return at once: it takes no lock that
/// is held for long, does no I/O, and does not panic. Nothing depends on it.
pub trait Observer: Send + Sync {
    /// Takes note of `event`.
    fn observe(&self, event: &Event<'_>);
}

/// Takes note of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: &Event<'_>) {}
}
