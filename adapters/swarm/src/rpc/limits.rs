//! What a peer may cost us, and how its failures are told.

use std::{io, time::Duration};

use corolla_domain::ports::{FaultKind, PortError};
use libp2p::PeerId;

use crate::wire::frame;

/// Caps on what a peer sends and on how long it takes.
#[derive(Debug, Clone)]
pub struct RpcLimits {
    /// Most bytes of a unary reply.
    pub unary: usize,
    /// Most bytes of one message of a stream.
    pub record: usize,
    /// How long a peer may leave a message of a stream unread.
    pub write_timeout: Duration,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self { unary: frame::MAX_UNARY, record: frame::MAX_RECORD, write_timeout: Duration::from_secs(30) }
    }
}

/// The source of the `PortError` of a call that reached the peer and failed there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RemoteFault {
    /// What the peer said, often the text of a Python exception; may be empty.
    pub text: String,
}

/// The peer's own report of a failure.
pub(super) fn remote(peer: PeerId, method: &str, text: String) -> PortError {
    PortError::new(FaultKind::Unavailable, format!("{method} failed at {peer}: {text}"))
        .with_source(RemoteFault { text })
}

/// The peer closed the stream before it said what it had to.
pub(super) fn hung_up(peer: PeerId, method: &str) -> PortError {
    PortError::new(FaultKind::Unavailable, format!("{peer} hung up during {method}"))
}

/// The stream broke.
pub(super) fn broken(peer: PeerId, method: &str, error: io::Error) -> PortError {
    PortError::new(FaultKind::Unavailable, format!("{method} at {peer}: {error}")).with_source(error)
}

/// The peer took too long.
pub(super) fn too_slow(peer: PeerId, method: &str, limit: Duration) -> PortError {
    PortError::new(FaultKind::TimedOut, format!("{method} at {peer} took longer than {limit:?}"))
}

/// The peer sent bytes that are no answer.
pub(super) fn nonsense(peer: PeerId, method: &str, what: impl std::error::Error + Send + Sync + 'static) -> PortError {
    PortError::invalid(format!("{peer} answered {method} with nonsense: {what}")).with_source(what)
}
