//! Everything that can go wrong when a reply or a session is asked for.

use std::time::Duration;

use thiserror::Error;

use crate::{model::ModelId, ports::FaultKind, ports::PortError};

/// Why there is no (further) reply. The text is fit for the user.
#[derive(Debug, Clone, Error)]
pub enum ReplyError {
    /// The session expired, was closed, or never was.
    #[error("Session {0} expired or does not exist")]
    SessionGone(String),
    /// As many sessions are open as the server allows.
    #[error("Too many opened inference sessions (max {max}), please come back later")]
    TooManySessions {
        /// The limit.
        max: usize,
    },
    /// `max_length` leaves no room after the prefix.
    #[error("Provided max_length is less than prefix size: {max_length} < {prefix}")]
    PrefixTooLong {
        /// Asked for, whole text.
        max_length: usize,
        /// Tokens that are already there.
        prefix: usize,
    },
    /// The text does not fit the session (or, without one, the longest the server allows).
    #[error("Maximum length exceeded: prefix {position} + current {needed} exceeds pre-allocated maximum {max_length}")]
    LengthExceeded {
        /// Positions filled.
        position: usize,
        /// Positions that would have to follow.
        needed: usize,
        /// Positions there are.
        max_length: usize,
    },
    /// A length beyond what the server allows for one session.
    #[error("max_length {asked} is more than this server allows for {model}: at most {limit}")]
    LengthNotAllowed {
        /// Asked for.
        asked: usize,
        /// The limit.
        limit: usize,
        /// Whose limit.
        model: ModelId,
    },
    /// No such model in the catalogue.
    #[error("model {asked} is not served here; there is: {served}")]
    UnknownModel {
        /// Asked for.
        asked: String,
        /// Comma-separated names of what there is.
        served: String,
    },
    /// The session belongs to another model.
    #[error("the session was opened for model {opened}, not {asked}")]
    WrongModel {
        /// The session's.
        opened: ModelId,
        /// The request's.
        asked: ModelId,
    },
    /// A given text has no tokens.
    #[error("inputs must not be empty; leave the parameter out to continue without new text")]
    EmptyInput,
    /// As many replies are being written and waited for as the server allows.
    #[error("the server is busy: {running} replies are being written and {waiting} are waiting; try again shortly")]
    Busy {
        /// Replies being written.
        running: usize,
        /// Requests waiting.
        waiting: usize,
    },
    /// A port failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

impl ReplyError {
    /// What sort of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::SessionGone(_) | Self::UnknownModel { .. } => FaultKind::NotFound,
            Self::TooManySessions { .. } | Self::Busy { .. } => FaultKind::Capacity,
            Self::PrefixTooLong { .. }
            | Self::LengthExceeded { .. }
            | Self::LengthNotAllowed { .. }
            | Self::EmptyInput => FaultKind::InvalidInput,
            Self::WrongModel { .. } => FaultKind::Conflict,
            Self::Port(error) => error.kind(),
        }
    }

    /// When to try again, where that helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManySessions { .. } => Some(Duration::from_secs(30)),
            Self::Busy { .. } => Some(Duration::from_secs(1)),
            Self::Port(error) => error.retry_after(),
            _ => None,
        }
    }
}
