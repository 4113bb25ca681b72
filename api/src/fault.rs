//! The two shapes of an error body: ours, and the one that OpenAI's clients read.

use poem::{Response, http::StatusCode};
use poem_openapi::{
    Object,
    registry::Registry,
    types::{ToJSON, Type},
};

use crate::error::Fault;

/// An error, everywhere but under `/v1`.
#[derive(Debug, Object)]
#[oai(rename = "Error")]
pub(crate) struct FaultBody {
    /// Stable name of the error, for programs.
    pub(crate) code: String,
    /// What went wrong, in one sentence.
    pub(crate) message: String,
    /// The parameter at fault, where it is known.
    #[oai(skip_serializing_if_is_none)]
    pub(crate) param: Option<String>,
    /// Names this request in the server's log.
    #[oai(skip_serializing_if_is_none)]
    pub(crate) request_id: Option<String>,
}

impl FaultBody {
    /// Its name in the description.
    pub(crate) const NAME: &'static str = "Error";

    /// Adds the schema to the description.
    pub(crate) fn register_schema(registry: &mut Registry) {
        <Self as Type>::register(registry);
    }
}

/// An error under `/v1`.
#[derive(Debug, Object)]
#[oai(rename = "ChatError")]
pub(crate) struct ChatFaultBody {
    /// What went wrong.
    pub(crate) error: ChatFault,
}

/// What went wrong, in the words of OpenAI's clients.
#[derive(Debug, Object)]
#[oai(rename = "ChatErrorDetail")]
pub(crate) struct ChatFault {
    /// What went wrong, in one sentence.
    pub(crate) message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    pub(crate) r#type: String,
    /// The parameter at fault, where it is known.
    #[oai(nullable)]
    pub(crate) param: Option<String>,
    /// Stable name of the error, for programs.
    #[oai(nullable)]
    pub(crate) code: Option<String>,
}

impl ChatFaultBody {
    /// Its name in the description.
    pub(crate) const NAME: &'static str = "ChatError";
}

impl From<&Fault> for ChatFaultBody {
    fn from(fault: &Fault) -> Self {
        let kind = match fault.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self {
            error: ChatFault {
                message: fault.message.clone(),
                r#type: kind.to_owned(),
                param: fault.param.clone(),
                code: Some(fault.code.to_owned()),
            },
        }
    }
}

/// Whether errors at `path` have the shape that OpenAI's clients read.
pub(crate) fn is_openai(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// `fault` as a response to a request for `path`.
pub(crate) fn response(fault: &Fault, path: &str, request_id: &str) -> Response {
    let body = if is_openai(path) {
        ChatFaultBody::from(fault).to_json_string()
    } else {
        FaultBody {
            code: fault.code.to_owned(),
            message: fault.message.clone(),
            param: fault.param.clone(),
            request_id: Some(request_id.to_owned()),
        }
        .to_json_string()
    };
    let mut response = Response::builder().status(fault.status).content_type("application/json");
    if let Some(seconds) = fault.retry_after_seconds() {
        response = response.header("retry-after", seconds);
    }
    response.body(body)
}
