//! The front door as a whole: pages, headers, errors, and what a closed connection does.

mod headers;
mod limits;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use corolla_domain::session::{Limits, ModelState};
use poem::http::StatusCode;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    Connections, serve,
    stage::{Stage, listen, until},
};

#[tokio::test]
async fn the_page_comes_with_a_policy_and_a_tag() {
    let stage = Stage::new();
    let client = stage.client();
    let page = client.get("/").send().await;
    page.assert_status_is_ok();
    page.assert_content_type("text/html; charset=utf-8");
    let headers = page.0.headers().clone();
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'; script-src 'self'"));
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["referrer-policy"], "no-referrer");
    let tag = headers["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = client.get("/").header("if-none-match", known).send().await;
        again.assert_status(StatusCode::NOT_MODIFIED);
        again.assert_text("").await;
    }
    client.get("/").header("if-none-match", "\"other\"").send().await.assert_status_is_ok();
    client.post("/").send().await.assert_status(StatusCode::METHOD_NOT_ALLOWED);
    for outside in ["/../Cargo.toml", "/%2e%2e/Cargo.toml", "//etc/passwd"] {
        client.get(outside).send().await.assert_status(StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn an_unknown_path_is_an_error_with_a_name() {
    let stage = Stage::new();
    let response = stage.client().get("/api/v1/nothing").header("x-request-id", "abc-1").send().await;
    response.assert_status(StatusCode::NOT_FOUND);
    response.assert_header("x-request-id", "abc-1");
    let body: Value = serde_json::from_str(&response.0.into_body().into_string().await.unwrap()).unwrap();
    assert_eq!(body["code"], "no_such_path");
    assert_eq!(body["message"], "there is nothing at /api/v1/nothing");
    assert_eq!(body["request_id"], "abc-1");
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let ready = Stage::new();
    let response = ready.client().get("/health/ready").send().await;
    response.assert_status_is_ok();
    response.json().await.value().object().get("code").assert_string("ready");

    let stage = Stage::unready(ModelState::Failed("the disk is gone".to_owned()));
    let client = stage.client();
    client.get("/health/live").send().await.assert_status_is_ok();
    let response = client.get("/health/ready").send().await;
    response.assert_status(StatusCode::SERVICE_UNAVAILABLE);
    let body = response.0.into_body().into_string().await.unwrap();
    assert!(!body.contains("disk"), "reasons are for the log: {body}");
    assert!(body.contains("alphabet: it could not be loaded; the server's log says why"), "{body}");

    let models = client.get("/api/v1/models").send().await.json().await;
    let model = models.value().object().get("models").array().get(0);
    model.object().get("state").assert_string("missing");
    model.object().get("default").assert_bool(true);
}

#[tokio::test]
async fn models_tell_their_shape() {
    let stage = Stage::unready(ModelState::Loading);
    let loading = stage.client().get("/api/v1/models").send().await.json().await;
    loading.value().object().get("models").array().get(0).object().get("state").assert_string("loading");

    let stage = Stage::new();
    let models = stage.client().get("/api/v1/models").send().await.json().await;
    let model = models.value().object().get("models").array().get(0);
    model.object().get("state").assert_string("ready");
    model.object().get("id").assert_string("alphabet");
    model.object().get("context_length").assert_i64(4096);
    model.object().get("chat").assert_bool(true);
    models.value().object().get("sessions").object().get("idle_seconds").assert_i64(300);
}

#[tokio::test]
async fn counters_and_descriptions_are_served() {
    let stage = Stage::new();
    let client = stage.client();
    let metrics = client.get("/metrics").send().await.0.into_body().into_string().await.unwrap();
    assert!(metrics.contains("\ncorolla_tokens_generated_total 0\n"), "{metrics}");
    let yaml = client.get("/openapi.yaml").send().await.0.into_body().into_string().await.unwrap();
    assert_eq!(yaml, crate::openapi_yaml());
    let docs = client.get("/docs").send().await;
    docs.assert_status_is_ok();
    let html = docs.0.into_body().into_string().await.unwrap();
    assert!(html.contains("create-chat-completion"));
}

/// A server on a real socket, with a step that takes 20 ms.
async fn real() -> (Arc<Stage>, std::net::SocketAddr) {
    let stage = Arc::new(Stage::with(Limits::default(), Duration::from_millis(20)));
    let address = listen(stage.routes(), Connections::default()).await;
    (stage, address)
}

async fn post(address: std::net::SocketAddr, path: &str, media: &str, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all((head + body).as_bytes()).await.unwrap();
    socket
}

async fn stops_within_a_token(path: &str, media: &str, body: &str) {
    let (stage, address) = real().await;
    let socket = post(address, path, media, body).await;
    until(|| stage.steps.load(SeqCst) >= 3).await;
    drop(socket);
    let at_close = stage.steps.load(SeqCst);
    until(|| stage.service.meter().snapshot().turns_running == 0).await;
    let after = stage.steps.load(SeqCst);
    assert!(after <= at_close + 1, "{} steps after the connection was closed", after - at_close);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.steps.load(SeqCst), after, "nothing is computed any more");
}

#[tokio::test]
async fn closing_the_connection_stops_a_v1_reply() {
    let form = "inputs=a&max_new_tokens=4000";
    stops_within_a_token("/api/v1/generate", "application/x-www-form-urlencoded", form).await;
}

#[tokio::test]
async fn closing_the_connection_stops_a_chat_reply() {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"temperature":0}"#;
    stops_within_a_token("/v1/chat/completions", "application/json", body).await;
}

#[tokio::test]
async fn closing_the_connection_stops_a_streamed_reply() {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"temperature":0,"stream":true}"#;
    stops_within_a_token("/v1/chat/completions", "application/json", body).await;
}

#[tokio::test]
async fn closing_the_connection_stops_texts_that_are_continued() {
    for stream in [false, true] {
        let body = format!(r#"{{"prompt":["a","b"],"max_tokens":4000,"temperature":0,"n":2,"stream":{stream}}}"#);
        stops_within_a_token("/v1/completions", "application/json", &body).await;
    }
}

#[tokio::test]
async fn closing_the_connection_stops_what_writes_nothing() {
    let texts = vec!["a text"; 60];
    for (path, body) in [
        ("/v1/embeddings", serde_json::json!({"input": texts})),
        ("/v1/completions", serde_json::json!({"prompt": texts, "echo": true, "max_tokens": 0, "logprobs": 0})),
    ] {
        stops_within_a_token(path, "application/json", &body.to_string()).await;
    }
}

#[tokio::test]
async fn a_server_that_is_asked_to_stop_lets_a_reply_end() {
    let stage = Stage::with(Limits::default(), Duration::from_millis(20));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, stage.routes(), Connections::default(), async {
        let _ = stopped.await;
    }));
    let form = "inputs=a&max_new_tokens=5";
    let mut socket = post(address, "/api/v1/generate", "application/x-www-form-urlencoded", form).await;
    until(|| stage.steps.load(SeqCst) >= 2).await;
    stop.send(()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("{\"ok\":true,\"outputs\":\"bcdef\"}\n"), "{answer}");
    server.await.unwrap().unwrap();
}
