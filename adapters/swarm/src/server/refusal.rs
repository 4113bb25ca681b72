//! Why a call is refused, in the words of the reference where it has some: its clients show them, and branch on a few.

use std::{fmt, io};

use corolla_domain::ports::{FaultKind, PortError};

use crate::{
    rpc::{CallerFault, NoRoom},
    wire::WireError,
};

/// A Python exception, as far as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    class: &'static str,
    text: String,
}

impl Refusal {
    pub(super) fn new(class: &'static str, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }

    pub(super) fn value(text: impl Into<String>) -> Self {
        Self::new("ValueError", text)
    }

    pub(super) fn assertion(text: impl Into<String>) -> Self {
        Self::new("AssertionError", text)
    }

    pub(super) fn unknown_uid(uid: &str) -> Self {
        Self::new("RuntimeError", format!("Remote peer does not serve {uid}"))
    }

    pub(super) fn too_large(most: usize) -> Self {
        Self::value(format!("Task size greater than max_batch_size ({most}), it can't be processed"))
    }

    /// As unary calls carry it: Python's `repr`.
    pub(super) fn repr(&self) -> String {
        let quote = if self.text.contains('\'') && !self.text.contains('"') { '"' } else { '\'' };
        let text = self.text.replace('\\', "\\\\");
        let text = if quote == '\'' { text.replace('\'', "\\'") } else { text };
        format!("{}({quote}{text}{quote})", self.class)
    }
}

impl fmt::Display for Refusal {
    /// As streams carry it: Python's `str`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why nothing more is said on a stream.
#[derive(Debug)]
pub(super) enum End {
    /// The caller has said its last, or nothing for too long: the stream ends without a word.
    Silent,
    /// The caller went, or sent nonsense: nobody is told.
    Gone,
    /// The caller is told why.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "a caller has gone");
        Self::Gone
    }
}

impl From<CallerFault> for End {
    fn from(fault: CallerFault) -> Self {
        match fault {
            CallerFault::Gone(error) => error.into(),
            CallerFault::NoRoom(fault) => Refusal::from(fault).into(),
        }
    }
}

impl From<NoRoom> for Refusal {
    fn from(fault: NoRoom) -> Self {
        Self::new(NoRoom::CLASS, fault.to_string())
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::value(error.to_string())
    }
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        match error.kind() {
            FaultKind::Capacity => Self::new("AllocationFailed", format!("Could not allocate: {error}")),
            FaultKind::InvalidInput => Self::value(error.to_string()),
            FaultKind::Unsupported => Self::new("NotImplementedError", error.to_string()),
            _ => Self::new("RuntimeError", error.to_string()),
        }
    }
}
