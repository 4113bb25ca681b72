//! Pages of other sites: which of them a browser lets read our answers.

use std::sync::Arc;

use poem::{
    Endpoint, Middleware, Request, Response,
    error::CorsError,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::CorsEndpoint,
};

use crate::error::Fault;

/// Headers of ours that pages of other sites may read.
const EXPOSED: [&str; 3] = ["retry-after", "server-timing", "x-request-id"];
/// How long a browser may remember what it was allowed.
const MAX_AGE_SECONDS: i32 = 600;

/// An endpoint that answers pages of the configured origins, and all who are no page of another site.
pub(crate) struct Cors<E> {
    inner: Arc<E>,
    /// Absent where no other site is configured.
    cors: Option<CorsEndpoint<Arc<E>>>,
}

impl<E: Endpoint<Output = Response>> Cors<E> {
    /// `origins` are as a browser writes them, or the one word `*` for all.
    pub(crate) fn new(inner: E, origins: &[String]) -> Self {
        let inner = Arc::new(inner);
        let rules = poem::middleware::Cors::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::OPTIONS])
            .expose_headers(EXPOSED)
            .max_age(MAX_AGE_SECONDS);
        let cors = match origins {
            [] => None,
            origins if origins.iter().any(|origin| origin == "*") => Some(rules.allow_origins_fn(|_| true)),
            origins => {
                let known = origins.to_vec();
                Some(rules.allow_origins_fn(move |origin| known.iter().any(|known| known == origin)))
            }
        };
        Self { cors: cors.map(|rules| rules.transform(inner.clone())), inner }
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Response, Fault> {
        let foreign = request.headers().contains_key(header::ORIGIN) && !own_page(request.headers());
        let outcome = match &self.cors {
            Some(cors) if foreign => cors.call(request).await,
            // Answers are kept from such a page by its browser. What comes over a socket is not.
            None if foreign && request.headers().contains_key(header::UPGRADE) => {
                Err(CorsError::OriginNotAllowed.into())
            }
            _ => self.inner.call(request).await,
        };
        let mut response = outcome.map_err(|error| forbidden(&error))?;
        if self.cors.is_some() {
            // The same address answers differently to different pages.
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        Ok(response)
    }
}

/// Whether a browser asks for a page that this very server gave it.
fn own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, host)| Some(host) == text(header::HOST))
}

fn forbidden(error: &poem::Error) -> Fault {
    let what = match error.downcast_ref() {
        Some(CorsError::OriginNotAllowed) => "the origin of the page that asks",
        Some(CorsError::MethodNotAllowed) => "the method that the page asks for",
        Some(CorsError::HeadersNotAllowed) => "a header that the page wants to send",
        None => return Fault::new(error.status(), "bad_request", "the request cannot be read"),
    };
    let message = format!("{what} is not allowed here; the server's operator allows origins with the key cors.origins");
    Fault::new(StatusCode::FORBIDDEN, "origin_not_allowed", message)
}
