//! The outermost layer: names each request, gives every error its shape and every response its protective headers.

use std::{collections::BTreeMap, time::Instant};

use poem::{
    Endpoint, Error, IntoResponse, Request, Response,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
};
use uuid::Uuid;

use crate::{error::Fault, fault, page};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of every response that does not bring its own.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The page's files, then the operations, then an error that says what there is.
pub(crate) struct Front<E> {
    pub(crate) inner: E,
    /// Paths and the methods they answer to.
    pub(crate) methods: BTreeMap<String, String>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Front<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let id = request_id(&request);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut response = match page::find(&request) {
            Some(file) => file,
            None => self.answer(request, &method, &path, &id).await,
        };
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, value);
        }
        let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis());
        tracing::debug!(%method, path, status, ms, request_id = id, "answered");
        Ok(response)
    }
}

impl<E: Endpoint<Output = Response>> Front<E> {
    async fn answer(&self, request: Request, method: &Method, path: &str, id: &str) -> Response {
        let allow = self.methods.get(path);
        if method == Method::OPTIONS
            && let Some(allow) = allow
        {
            return Response::builder().status(StatusCode::NO_CONTENT).header(header::ALLOW, allow).finish();
        }
        match self.inner.call(request).await {
            Ok(response) => response,
            Err(error) => {
                let fault = to_fault(error, method, path, allow.map(String::as_str));
                let mut response = fault::response(&fault, path, id).into_response();
                if fault.status == StatusCode::METHOD_NOT_ALLOWED
                    && let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(allow).ok())
                {
                    response.headers_mut().insert(header::ALLOW, allow);
                }
                response
            }
        }
    }
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
            tracing::error!(%error, %method, path, "a request failed");
            Fault::new(status, "internal", "something went wrong inside the server; its log has the details")
        }
    }
}

/// The client's own name for the request where it is a sensible one, else a new one.
fn request_id(request: &Request) -> String {
    let sensible = |text: &&str| {
        !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sensible);
    given.map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned)
}
