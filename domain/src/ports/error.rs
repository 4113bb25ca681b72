//! The one error of all ports: a kind for programs, a sentence for people.

use std::{error::Error, fmt, sync::Arc, time::Duration};

/// What sort of thing went wrong. The domain branches on it, and the API maps it to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The caller sent something that can never work.
    InvalidInput,
    /// The named thing does not exist (any more).
    NotFound,
    /// Somebody else changed the thing in between.
    Conflict,
    /// No room now: cache, queue or session limit.
    Capacity,
    /// The other side is gone or was never there.
    Unavailable,
    /// The other side did not answer in time.
    TimedOut,
    /// This build, backend or model cannot do that.
    Unsupported,
    /// A fault of ours or of a library.
    Internal,
}

/// A failure at a port.
#[derive(Debug, Clone)]
pub struct PortError {
    kind: FaultKind,
    context: String,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl PortError {
    /// A fault of `kind`; `context` names the thing that failed (lower case, no full stop).
    #[must_use]
    pub fn new(kind: FaultKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), retry_after: None, source: None }
    }

    /// The caller sent something that can never work.
    #[must_use]
    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(FaultKind::InvalidInput, context)
    }

    /// A fault of ours or of a library.
    #[must_use]
    pub fn internal(context: impl Into<String>) -> Self {
        Self::new(FaultKind::Internal, context)
    }

    /// With the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// With a hint when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What sort of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// What failed, in words.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }

    /// When to try again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for PortError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn Error + 'static))
    }
}
