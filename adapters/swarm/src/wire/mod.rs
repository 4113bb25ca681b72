//! The bytes of the Petals and hivemind protocols as pure functions: no I/O, no clock, no libp2p.
//!
//! Everything that decodes is bounded: a claimed length is compared with a cap and with the bytes that are there before
//! anything is allocated, and no input panics. Section numbers are those of the wire protocol specification.

pub mod frame;
pub mod inference;
pub mod key;
pub mod msgpack;
pub mod proto;
pub mod record;
pub mod server;
pub mod serving;
pub mod tensor;

use std::borrow::Cow;

use corolla_domain::ports::PortError;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length or a count beyond what this decoder takes.
    #[error("{what}: {claimed} is over the limit of {limit}")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// What the bytes claim.
        claimed: u64,
        /// The cap it broke.
        limit: u64,
    },
    /// The bytes end before the thing does.
    #[error("{what}: cut short")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The bytes contradict the specification.
    #[error("{what}: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
}

impl WireError {
    /// The bytes of `what` contradict the specification.
    pub(crate) fn malformed(what: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed { what, why: why.into() }
    }

    /// The bytes of `what` end too early.
    pub(crate) fn truncated(what: &'static str) -> Self {
        Self::Truncated { what }
    }

    /// Refuses `claimed` beyond `limit`.
    pub(crate) fn cap(what: &'static str, claimed: usize, limit: usize) -> Result<(), Self> {
        if claimed > limit {
            return Err(Self::TooLarge { what, claimed: claimed as u64, limit: limit as u64 });
        }
        Ok(())
    }
}

impl From<WireError> for PortError {
    fn from(error: WireError) -> Self {
        Self::invalid(error.to_string()).with_source(error)
    }
}

/// A remote's text for our logs and errors: lossy UTF-8, control characters out, at most 500 characters.
pub(crate) fn remote_text(bytes: &[u8]) -> String {
    const MOST: usize = 500; // an exception's text; a peer must not fill our logs
    let head = &bytes[..bytes.len().min(MOST * 4)];
    String::from_utf8_lossy(head).chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect()
}
