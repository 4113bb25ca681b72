//! What a request may take: bytes, time to arrive, time to be answered. The clock is paused, and goes on where all wait.

use std::time::Duration;

use corolla_domain::session::Limits;
use futures_util::stream;
use poem::{Body, http::StatusCode};
use serde_json::{Value, json};

use crate::stage::Stage;

const V1: &str = "/api/v1/generate";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

/// A code, in the shape of its path.
fn code<'a>(path: &str, body: &'a Value) -> &'a Value {
    if path.starts_with("/v1") { &body["error"]["code"] } else { &body["code"] }
}

fn question(path: &str, stream: bool) -> Value {
    match path {
        CHAT => json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "stream": stream}),
        COMPLETIONS => json!({"prompt": "a", "temperature": 0, "stream": stream}),
        _ => json!({"inputs": "a", "max_new_tokens": 5, "input": "a"}),
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_has_so_many_bytes_and_so_much_time() {
    let client = Stage::new().client();
    for path in [V1, CHAT, COMPLETIONS, EMBEDDINGS] {
        let never = || Body::from_bytes_stream(stream::pending::<std::io::Result<Vec<u8>>>());
        let endless = || Body::from_bytes_stream(stream::repeat_with(|| std::io::Result::Ok(vec![b' '; 1 << 16])));
        let broken = || Body::from_bytes_stream(stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("it broke"))]));
        for (body, status, name) in [
            (never(), StatusCode::REQUEST_TIMEOUT, "body_too_slow"),
            (endless(), StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            (broken(), StatusCode::BAD_REQUEST, "body_unreadable"),
        ] {
            let response = client.post(path).content_type("application/json").body(body).send().await;
            response.assert_status(status);
            let last = response.0.headers().get("connection").is_some_and(|value| value == "close");
            assert_eq!(last, status != StatusCode::BAD_REQUEST, "{path} {name}: nothing can follow what is not read");
            let said: Value = serde_json::from_str(&response.0.into_body().into_string().await.unwrap()).unwrap();
            assert_eq!(code(path, &said), name, "{path} {said}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_has_so_much_time() {
    // A step takes longer than a whole reply may.
    let client = Stage::with(Limits::default(), Duration::from_secs(2000)).client();
    let late = "the reply took longer than 900 seconds and was stopped";
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let response = client.post(path).body_json(&question(path, false)).send().await;
        response.assert_status(StatusCode::GATEWAY_TIMEOUT);
        let said: Value = serde_json::from_str(&response.0.into_body().into_string().await.unwrap()).unwrap();
        assert_eq!((code(path, &said), &said["error"]["message"]), (&json!("timed_out"), &json!(late)));
    }
    for path in [CHAT, COMPLETIONS] {
        let response = client.post(path).body_json(&question(path, true)).send().await;
        response.assert_status_is_ok();
        let text = response.0.into_body().into_string().await.unwrap();
        assert!(text.contains("\"code\":\"timed_out\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    let response = client.post(V1).body_json(&question(V1, false)).send().await;
    response.assert_status_is_ok();
    let text = response.0.into_body().into_string().await.unwrap();
    assert!(text.contains("\"ok\":false") && text.contains(&format!("TimeoutError: {late}")), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_quiet_for_long_has_comments() {
    let client = Stage::with(Limits::default(), Duration::from_secs(40)).client();
    for path in [CHAT, COMPLETIONS] {
        let mut body = question(path, true);
        body["max_tokens"] = json!(2);
        let text = client.post(path).body_json(&body).send().await.0.into_body().into_string().await.unwrap();
        // Two in each pause of forty seconds, one every fifteen.
        assert_eq!(text.matches(":\n\n").count(), 5, "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}
