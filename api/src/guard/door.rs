//! The operations behind their guards: what is refused is refused before it is read, and every error gets its shape.

use std::{collections::BTreeMap, sync::Arc};

use corolla_domain::session::Owner;
use poem::{
    Endpoint, Error, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};

use super::{Keys, keys::Entry};
use crate::{Metrics, error::Fault, fault, hangup::Crowded};

/// Names the request in errors and in the log.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// The operations, then an error that says what there is.
pub(crate) struct Guarded<E> {
    pub(crate) inner: E,
    pub(crate) keys: Keys,
    /// Paths and the methods they answer to.
    pub(crate) methods: BTreeMap<String, String>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a request holds until its answer is out. Stands on the request and on its response, for what goes on after both.
#[derive(Debug)]
pub(crate) struct Held(Option<Entry>);

/// Whose key the request brought, where one was asked for.
pub(crate) fn owner(request: &Request) -> Option<Owner> {
    let Held(entry) = &**request.data::<Arc<Held>>()?;
    entry.as_ref().map(|entry| entry.name.clone())
}

impl<E: Endpoint<Output = Response>> Endpoint for Guarded<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let id = request.data::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let (known, allow) = self.described(&path).unzip();
        let response = match self.answer(request, &method, &path, allow).await {
            // A handler that panicked leaves the fault, whose shape depends on the path.
            Ok(mut response) => match response.extensions_mut().remove::<Fault>() {
                Some(fault) => refusal(&fault, &path, &id, allow),
                None => response,
            },
            Err(fault) => refusal(&fault, &path, &id, allow),
        };
        self.metrics.answered(known, &method, response.status());
        Ok(response)
    }
}

const CROWDED: &str = "too_many_connections";

/// `fault` as a response, with the headers that belong to its status.
fn refusal(fault: &Fault, path: &str, id: &str, allow: Option<&str>) -> Response {
    let mut response = fault::response(fault, path, id);
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    match (fault.status, allow) {
        (StatusCode::METHOD_NOT_ALLOWED, Some(allow)) => put(header::ALLOW, allow),
        (StatusCode::UNAUTHORIZED, _) => put(header::WWW_AUTHENTICATE, "Bearer"),
        // Where the rest of a body is not read, nothing can follow it.
        (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT, _) => put(header::CONNECTION, "close"),
        _ if fault.code == CROWDED => put(header::CONNECTION, "close"),
        _ => {}
    }
    response
}

impl<E: Endpoint<Output = Response>> Guarded<E> {
    /// A path as it is described, and the methods it answers to.
    fn described(&self, path: &str) -> Option<(&str, &str)> {
        let exact = self.methods.get_key_value(path);
        let (known, allow) = exact.or_else(|| self.methods.iter().find(|(known, _)| describes(known, path)))?;
        Some((known, allow))
    }

    async fn answer(
        &self,
        mut request: Request,
        method: &Method,
        path: &str,
        allow: Option<&str>,
    ) -> Result<Response, Fault> {
        let open = is_open(path);
        if !open && let Some(Crowded { limit }) = request.data() {
            let message = format!("the server has as many connections as it takes: {limit}; try again shortly");
            let retry_after = Some(std::time::Duration::from_secs(1));
            return Err(Fault { retry_after, ..Fault::new(StatusCode::SERVICE_UNAVAILABLE, CROWDED, message) });
        }
        if method == Method::OPTIONS
            && let Some(allow) = allow
        {
            return Ok(Response::builder().status(StatusCode::NO_CONTENT).header(header::ALLOW, allow).finish());
        }
        let entry = if open { None } else { self.keys.admit(request.headers())? };
        if let Some(entry) = &entry {
            tracing::Span::current().record("key", &*entry.name);
        }
        let held = Arc::new(Held(entry));
        request.extensions_mut().insert(held.clone());
        let mut response = self.inner.call(request).await.map_err(|error| to_fault(error, method, path, allow))?;
        response.extensions_mut().insert(held);
        Ok(response)
    }
}

/// Whether `path` is one of those that `known` describes: a name in braces stands for any one part.
fn describes(known: &str, path: &str) -> bool {
    let fits = |(known, part): (&str, &str)| known == part || known.starts_with('{') && !part.is_empty();
    known.matches('/').count() == path.matches('/').count() && known.split('/').zip(path.split('/')).all(fits)
}

/// What everybody may see: whether the server is well, and the description of the API.
pub(crate) fn is_open(path: &str) -> bool {
    matches!(path, "/docs" | "/openapi.yaml" | "/health/live" | "/health/ready")
}

fn to_fault(error: Error, method: &Method, path: &str, allow: Option<&str>) -> Fault {
    let error = match error.downcast::<Fault>() {
        Ok(fault) => return fault,
        Err(other) => other,
    };
    let status = error.status();
    match status {
        StatusCode::NOT_FOUND => Fault::new(status, "no_such_path", format!("there is nothing at {path}")),
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = allow.unwrap_or("other methods");
            Fault::new(status, "method_not_allowed", format!("{path} does not answer to {method}, but to {allow}"))
        }
        status if status.is_client_error() => Fault::new(status, "bad_request", error.to_string()),
        status => {
            tracing::error!(%error, "a request failed");
            Fault { status, ..Fault::internal() }
        }
    }
}
