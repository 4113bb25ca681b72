//! The chat page and its files, embedded in the binary as `make ui` packed them: each compressed with gzip.

use std::{fmt::Write as _, io::Read as _};

use flate2::read::GzDecoder;
use poem::{
    Request, Response,
    http::{HeaderMap, Method, StatusCode, header},
};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "../ui/dist"]
struct Files;

/// What the page may do: run its own files and talk to its own server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Files below this folder have a hash of what they are in their names, so they never change.
const HASHED: &str = "assets/";

/// The file that `request` names, if it is one of the page's.
pub(crate) fn find(request: &Request) -> Option<Response> {
    let path = request.uri().path().trim_start_matches('/');
    let name = if path.is_empty() { "index.html" } else { path };
    let file = Files::get(&format!("{name}.gz"))?;
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow = Response::builder().status(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, "GET, HEAD");
        return Some(allow.finish());
    }
    Some(serve(request, name, file))
}

fn serve(request: &Request, name: &str, file: EmbeddedFile) -> Response {
    let zipped = takes_gzip(request.headers());
    let etag = etag(&file, zipped);
    let known =
        request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|list| {
            list.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag || tag == "*")
        });
    let caching = if name.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::VARY, "Accept-Encoding")
        .header(header::CACHE_CONTROL, caching)
        .header(header::CONTENT_SECURITY_POLICY, POLICY);
    if known {
        return response.status(StatusCode::NOT_MODIFIED).finish();
    }
    response = response.content_type(media_type(name));
    let body = if zipped {
        response = response.header(header::CONTENT_ENCODING, "gzip");
        file.data.into_owned()
    } else {
        match unzipped(&file) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, name, "a file of the page in this build is damaged");
                return Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).finish();
            }
        }
    };
    if request.method() == Method::HEAD {
        return response.header(header::CONTENT_LENGTH, body.len()).finish();
    }
    response.body(body)
}

/// Whether the client takes gzip: it names it, or anything, and not with the weight 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists: Vec<_> =
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).collect();
    let weight = |wanted: &str| {
        lists.iter().flat_map(|list| list.split(',')).find_map(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next()?.eq_ignore_ascii_case(wanted).then(|| {
                let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
            })
        })
    };
    weight("gzip").or_else(|| weight("*")).unwrap_or(false)
}

fn unzipped(file: &EmbeddedFile) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    GzDecoder::new(&file.data[..]).read_to_end(&mut body)?;
    Ok(body)
}

fn etag(file: &EmbeddedFile, zipped: bool) -> String {
    let mut tag = String::from("\"");
    for byte in &file.metadata.sha256_hash()[..12] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push_str(if zipped { "-gz\"" } else { "\"" });
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

#[cfg(test)]
mod tests {
    use poem::http::{HeaderMap, HeaderValue, StatusCode, header};

    use super::{Files, takes_gzip, unzipped};
    use crate::stage::Stage;

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        for (list, taken) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.1", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("gzip;q=x", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(list))]);
            assert_eq!(takes_gzip(&headers), taken, "{list}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn every_file_comes_compressed_and_plain() {
        let stage = Stage::new();
        let client = stage.client();
        assert!(Files::iter().count() > 3);
        for packed in Files::iter() {
            let name = packed.strip_suffix(".gz").expect("everything is packed");
            let path = format!("/{name}");
            let plain = client.get(&path).send().await;
            plain.assert_status_is_ok();
            assert!(!plain.0.headers().contains_key(header::CONTENT_ENCODING));
            let hashed = name.starts_with("assets/");
            let caching = plain.0.headers()[header::CACHE_CONTROL].to_str().unwrap().to_owned();
            assert_eq!(caching.contains("immutable"), hashed, "{name}");
            let zipped = client.get(&path).header("accept-encoding", "gzip").send().await;
            assert_eq!(zipped.0.headers()[header::CONTENT_ENCODING], "gzip");
            assert_eq!(zipped.0.headers()[header::VARY], "Accept-Encoding");
            assert_ne!(zipped.0.headers()[header::ETAG], plain.0.headers()[header::ETAG]);
            let body = plain.0.into_body().into_bytes().await.unwrap();
            let file = Files::get(&packed).unwrap();
            assert_eq!(zipped.0.into_body().into_bytes().await.unwrap(), &file.data[..]);
            assert_eq!(unzipped(&file).unwrap(), body);
        }
        client.get("/index.html.gz").send().await.assert_status(StatusCode::NOT_FOUND);
    }
}
