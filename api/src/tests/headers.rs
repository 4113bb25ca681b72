//! What every answer carries, whoever gives it.

use poem::http::{Method, StatusCode};

use crate::stage::Stage;

#[tokio::test]
async fn every_answer_protects_who_reads_it() {
    let client = Stage::new().client();
    let chat = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":2,"stream":true}"#;
    for (method, path, body, status) in [
        (Method::GET, "/", "", StatusCode::OK),
        (Method::GET, "/docs", "", StatusCode::OK),
        (Method::GET, "/openapi.yaml", "", StatusCode::OK),
        (Method::GET, "/metrics", "", StatusCode::OK),
        (Method::GET, "/health/live", "", StatusCode::OK),
        (Method::GET, "/api/v1/models", "", StatusCode::OK),
        (Method::POST, "/api/v1/models", "", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/api/v1/nothing", "", StatusCode::NOT_FOUND),
        (Method::GET, "/api/v2/generate", "", StatusCode::BAD_REQUEST),
        (Method::POST, "/api/v1/generate", "{\"inputs\":\"a\"}", StatusCode::OK),
        (Method::POST, "/v1/chat/completions", chat, StatusCode::OK),
        (Method::POST, "/v1/chat/completions", "{", StatusCode::BAD_REQUEST),
        (Method::POST, "/v1/embeddings", "{}", StatusCode::BAD_REQUEST),
    ] {
        let at = format!("{method} {path} {body}");
        let response = client.request(method, path).content_type("application/json").body(body).send().await.0;
        assert_eq!(response.status(), status, "{at}");
        let of = |name: &str| {
            let value = response.headers().get(name).unwrap_or_else(|| panic!("{at} has no {name}"));
            value.to_str().unwrap().to_owned()
        };
        assert_eq!(of("x-content-type-options"), "nosniff", "{at}");
        assert_eq!(of("x-frame-options"), "DENY", "{at}");
        assert_eq!(of("referrer-policy"), "no-referrer", "{at}");
        assert_eq!(of("cross-origin-opener-policy"), "same-origin", "{at}");
        assert_eq!(of("cross-origin-resource-policy"), "same-origin", "{at}");
        assert!(of("permissions-policy").contains("camera=()"), "{at}");
        let policy = of("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{at}: {policy}"
        );
        assert!(["no-store", "no-cache"].contains(&of("cache-control").as_str()), "{at}: {}", of("cache-control"));
        assert_eq!(of("x-request-id").len(), 32, "{at}");
    }
}

#[tokio::test]
async fn a_request_keeps_a_sensible_name_and_gets_one_in_place_of_another() {
    let client = Stage::new().client();
    let long = "x".repeat(65);
    for (sent, kept) in
        [("abc-1.d_E", true), (&long[1..], true), (&long, false), ("", false), ("a b", false), ("<script>", false)]
    {
        let response = client.get("/health/live").header("x-request-id", sent).send().await.0;
        let named = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(named == sent, kept, "{sent:?} became {named:?}");
        assert!(kept || named.len() == 32 && named.bytes().all(|byte| byte.is_ascii_hexdigit()), "{named:?}");
    }
}
