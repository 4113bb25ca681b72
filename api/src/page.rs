//! The chat page and its files, embedded in the binary.

use std::fmt::Write as _;

use poem::{
    Request, Response,
    http::{Method, StatusCode, header},
};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "../ui"]
struct Files;

/// What the page may do: run its own files and talk to its own server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The file that `request` names, if it is one of the page's.
pub(crate) fn find(request: &Request) -> Option<Response> {
    let path = request.uri().path().trim_start_matches('/');
    let name = if path.is_empty() { "index.html" } else { path };
    let file = Files::get(name)?;
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow = Response::builder().status(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, "GET, HEAD");
        return Some(allow.finish());
    }
    Some(serve(request, name, file))
}

fn serve(request: &Request, name: &str, file: EmbeddedFile) -> Response {
    let etag = etag(&file);
    let known =
        request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|list| {
            list.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag || tag == "*")
        });
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::CONTENT_SECURITY_POLICY, POLICY);
    if known {
        return response.status(StatusCode::NOT_MODIFIED).finish();
    }
    response = response.content_type(media_type(name));
    if request.method() == Method::HEAD {
        return response.header(header::CONTENT_LENGTH, file.data.len()).finish();
    }
    response.body(file.data.into_owned())
}

fn etag(file: &EmbeddedFile) -> String {
    let mut tag = String::from("\"");
    for byte in &file.metadata.sha256_hash()[..12] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("webmanifest") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}
