//! The one table from what went wrong to what the public is told: status, stable code, sentence.

use std::time::Duration;

use corolla_domain::{
    ports::{FaultKind, PortError},
    session::ReplyError,
};
use poem::{error::ResponseError, http::StatusCode};

/// What the public is told of a failure that only helps the operator.
const INSIDE: &str = "something went wrong inside the server; its log has the details";

/// A failure as the public sees it, before it takes the shape of one dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// HTTP status, where the dialect uses it.
    pub(crate) status: StatusCode,
    /// Stable name for programs.
    pub(crate) code: &'static str,
    /// The error type that `/api/v1` names in front of the sentence.
    pub(crate) legacy: &'static str,
    /// One sentence for people.
    pub(crate) message: String,
    /// The parameter at fault, where it is known.
    pub(crate) param: Option<String>,
    /// When to try again, where that helps.
    pub(crate) retry_after: Option<Duration>,
}

impl Fault {
    /// A failure with that status and code.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, legacy: "RuntimeError", message: message.into(), param: None, retry_after: None }
    }

    /// A parameter that cannot be used.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self { legacy: "ValueError", ..Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message) }.about(param)
    }

    /// A failure that only helps the operator; the log has it.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", INSIDE)
    }

    /// The reply took longer than the server waits.
    pub(crate) fn too_slow(limit: Duration) -> Self {
        let message = format!("the reply took longer than {} seconds and was stopped", limit.as_secs());
        Self { legacy: "TimeoutError", ..Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message) }
    }

    /// The same failure, laid at the door of `param`.
    pub(crate) fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// `Retry-After` in whole seconds, at least 1.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs().max(1))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl ResponseError for Fault {
    fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<ReplyError> for Fault {
    fn from(error: ReplyError) -> Self {
        let (status, code, legacy, param) = match &error {
            ReplyError::SessionGone(_) => (404, "session_gone", "KeyError", Some("session_id")),
            ReplyError::TooManySessions { .. } => (429, "too_many_sessions", "RuntimeError", None),
            ReplyError::PrefixTooLong { .. } => (400, "prefix_too_long", "AssertionError", Some("max_length")),
            ReplyError::LengthExceeded { .. } => (400, "context_length_exceeded", "ValueError", None),
            ReplyError::LengthNotAllowed { .. } => (400, "length_not_allowed", "ValueError", Some("max_length")),
            ReplyError::UnknownModel { .. } => (404, "model_not_found", "KeyError", Some("model")),
            ReplyError::WrongModel { .. } => (409, "wrong_model", "ValueError", Some("model")),
            ReplyError::EmptyInput => (400, "empty_input", "ValueError", Some("inputs")),
            ReplyError::Busy { .. } => (503, "busy", "RuntimeError", None),
            ReplyError::Port(port) => port_row(port),
        };
        let message = match &error {
            ReplyError::Port(port) => port_sentence(port),
            other => other.to_string(),
        };
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            legacy,
            message,
            param: param.map(str::to_owned),
            retry_after: error.retry_after(),
        }
    }
}

type Row = (u16, &'static str, &'static str, Option<&'static str>);

fn port_row(error: &PortError) -> Row {
    match error.kind() {
        FaultKind::InvalidInput => (400, "invalid_parameter", "ValueError", None),
        FaultKind::NotFound => (404, "not_found", "KeyError", None),
        FaultKind::Conflict => (409, "conflict", "RuntimeError", None),
        FaultKind::Capacity => (503, "out_of_capacity", "RuntimeError", None),
        FaultKind::Unavailable => (503, "unavailable", "ConnectionError", None),
        FaultKind::TimedOut => (504, "timed_out", "TimeoutError", None),
        FaultKind::Unsupported => (501, "unsupported", "NotImplementedError", None),
        FaultKind::Internal => (500, "internal", "RuntimeError", None),
    }
}

/// What is said of a port's failure. What only helps the operator goes to the log.
fn port_sentence(error: &PortError) -> String {
    if error.kind() != FaultKind::Internal {
        tracing::debug!(kind = ?error.kind(), context = error.context(), "a port refused");
        return error.context().to_owned();
    }
    let mut causes = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        causes.push_str(": ");
        causes.push_str(&inner.to_string());
        cause = inner.source();
    }
    tracing::error!(context = error.context(), causes, "a port failed");
    INSIDE.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_of_an_internal_failure_stays_inside() {
        let fault = Fault::from(ReplyError::Port(PortError::internal("/home/me/model.gguf: bad magic")));
        assert_eq!(fault.status, 500);
        assert_eq!(fault.code, "internal");
        assert!(!fault.message.contains("/home"));
    }

    #[test]
    fn a_full_server_says_when_to_come_back() {
        let fault = Fault::from(ReplyError::TooManySessions { max: 50 });
        assert_eq!(fault.status, 429);
        assert_eq!(fault.retry_after_seconds(), Some(30));
        assert_eq!(fault.message, "Too many opened inference sessions (max 50), please come back later");
    }

    #[test]
    fn each_kind_of_port_failure_has_its_own_code() {
        let kinds = [
            FaultKind::InvalidInput,
            FaultKind::NotFound,
            FaultKind::Conflict,
            FaultKind::Capacity,
            FaultKind::Unavailable,
            FaultKind::TimedOut,
            FaultKind::Unsupported,
            FaultKind::Internal,
        ];
        let mut codes: Vec<_> = kinds.iter().map(|kind| port_row(&PortError::new(*kind, "x")).1).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), kinds.len());
    }
}
