//! Sentences for what can be wrong with a model's files.

use std::{fmt::Display, path::Path};

use corolla_domain::ports::{FaultKind, PortError};

/// `file` says something that can never work.
pub(crate) fn bad_file(file: &Path, fault: impl Display) -> PortError {
    PortError::invalid(format!("{}: {fault}", file.display()))
}

/// `file` could not be read at all.
pub(crate) fn unreadable(file: &Path, source: std::io::Error) -> PortError {
    let kind = match source.kind() {
        std::io::ErrorKind::NotFound => FaultKind::NotFound,
        _ => FaultKind::InvalidInput,
    };
    PortError::new(kind, format!("{} cannot be read: {source}; check the model's path", file.display()))
        .with_source(source)
}

/// This build or this crate cannot do that.
pub(crate) fn unsupported(context: impl Into<String>) -> PortError {
    PortError::new(FaultKind::Unsupported, context)
}
