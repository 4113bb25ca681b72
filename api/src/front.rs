//! The outermost layer: names each request in the log and in the answer, and gives every response its protective headers.

use std::time::Instant;

use futures_util::{Stream, stream};
use poem::{
    Body, Endpoint, Request, Response,
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use tracing::{Instrument, Span, field};
use uuid::Uuid;

use crate::{
    fault,
    guard::{Cors, Held, RequestId},
    page,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers of every response that does not bring its own.
const HEADERS: [(HeaderName, &str); 8] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=()"),
];

/// The page's files, then the operations.
pub(crate) struct Front<E> {
    pub(crate) inner: Cors<E>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Front<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let id = request_id(&request);
        request.extensions_mut().insert(RequestId(id.clone()));
        // Of the highest level, so that every line about the request names it, whatever is logged.
        let (method, path) = (request.method().as_str(), request.uri().path());
        let span = tracing::error_span!("request", id, method, path, key = field::Empty);
        let mut response = match page::find(&request) {
            Some(file) => file,
            None => self.answer(request, &id).instrument(span.clone()).await,
        };
        let headers = response.headers_mut();
        for (name, value) in HEADERS {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, value);
        }
        let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis());
        span.in_scope(|| tracing::debug!(status, ms, "answered"));
        Ok(accompany(response, span))
    }
}

impl<E: Endpoint<Output = Response>> Front<E> {
    async fn answer(&self, request: Request, id: &str) -> Response {
        let path = request.uri().path().to_owned();
        match self.inner.call(request).await {
            Ok(response) => response,
            Err(refused) => fault::response(&refused, &path, id),
        }
    }
}

/// A stream goes on after its handler has returned: so do its place among its key's requests and its name in the log.
fn accompany(mut response: Response, span: Span) -> Response {
    let held = response.extensions_mut().remove::<std::sync::Arc<Held>>();
    if response.status() != StatusCode::OK || response.content_type() != Some("text/event-stream") {
        return response;
    }
    let (parts, body) = response.into_parts();
    let mut body = Box::pin(body.into_bytes_stream());
    let events = stream::poll_fn(move |cx| {
        let _ = &held;
        let _inside = span.enter();
        body.as_mut().poll_next(cx)
    });
    Response::from_parts(parts, Body::from_bytes_stream(events))
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
