//! What the guards let through, and in which words they refuse.

use std::{num::NonZeroU32, sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use corolla_domain::session::Limits;
use poem::{
    Endpoint, Response,
    http::{Method, StatusCode},
    test::{TestClient, TestResponse},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, client::IntoClientRequest as _},
};

use crate::{
    ApiKey, ApiSettings, Connections, routes,
    stage::{Stage, listen, until},
};

fn key(name: &str) -> ApiKey {
    let sha256 = ApiKey::digest(&format!("corolla-{name}"));
    ApiKey { name: name.to_owned(), sha256, requests_per_minute: None, concurrent: None }
}

fn behind(stage: &Stage, keys: Vec<ApiKey>) -> impl Endpoint<Output = Response> + use<> {
    routes(stage.service.clone(), ApiSettings { keys, ..ApiSettings::default() })
}

fn guarded(stage: &Stage, keys: Vec<ApiKey>) -> TestClient<impl Endpoint<Output = Response> + use<>> {
    TestClient::new(behind(stage, keys))
}

fn open_to(stage: &Stage, origins: &[&str]) -> TestClient<impl Endpoint<Output = Response> + use<>> {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    TestClient::new(routes(stage.service.clone(), ApiSettings { origins, ..ApiSettings::default() }))
}

async fn said(response: TestResponse) -> Value {
    serde_json::from_str(&response.0.into_body().into_string().await.unwrap()).unwrap()
}

#[tokio::test]
async fn only_who_brings_a_key_may_ask() {
    let stage = Stage::new();
    let client = guarded(&stage, vec![key("ann"), key("bob")]);
    for (sent, code) in [
        (None, "missing_api_key"),
        (Some("Bearer "), "missing_api_key"),
        (Some("Basic Y29yb2xsYQ=="), "missing_api_key"),
        (Some("Bearer corolla-eve"), "invalid_api_key"),
    ] {
        for path in ["/api/v1/models", "/metrics", "/api/v1/nothing"] {
            let mut request = client.get(path);
            if let Some(sent) = sent {
                request = request.header("authorization", sent);
            }
            let response = request.send().await;
            response.assert_status(StatusCode::UNAUTHORIZED);
            response.assert_header("www-authenticate", "Bearer");
            let body = said(response).await;
            assert_eq!(body["code"], code);
            assert!(!body.to_string().contains("eve"), "what was sent is not repeated: {body}");
        }
    }
    for sent in ["Bearer corolla-ann", "bearer  corolla-bob"] {
        client.get("/api/v1/models").header("authorization", sent).send().await.assert_status_is_ok();
    }
    // What a page, a probe and a reader need before they have a key.
    for path in ["/", "/docs", "/openapi.yaml", "/health/live", "/health/ready"] {
        client.get(path).send().await.assert_status_is_ok();
    }
    let refused = client.post("/v1/chat/completions").content_type("application/json").body("{}").send().await;
    refused.assert_status(StatusCode::UNAUTHORIZED);
    assert_eq!(said(refused).await["error"]["code"], "missing_api_key", "in the shape of its path");
}

#[tokio::test]
async fn a_key_has_so_many_requests_a_minute() {
    let stage = Stage::new();
    let rate = NonZeroU32::new(2);
    let client = guarded(&stage, vec![ApiKey { requests_per_minute: rate, ..key("ann") }, key("bob")]);
    let ask =
        |name: &str| client.get("/api/v1/models").header("authorization", format!("Bearer corolla-{name}")).send();
    ask("ann").await.assert_status_is_ok();
    ask("ann").await.assert_status_is_ok();
    let refused = ask("ann").await;
    refused.assert_status(StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.0.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let body = said(refused).await;
    assert_eq!(body["code"], "rate_limited");
    assert_eq!(body["message"], "the API key has sent its 2 requests a minute");
    ask("bob").await.assert_status_is_ok();
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_it_ends() {
    let stage = Stage::new();
    let client = guarded(&stage, vec![ApiKey { concurrent: Some(1), ..key("ann") }]);
    let ask = || {
        let body = r#"{"messages":[{"role":"user","content":"Hi"}],"temperature":0,"stream":true,"max_tokens":3}"#;
        let request = client.post("/v1/chat/completions").content_type("application/json");
        request.header("authorization", "Bearer corolla-ann").body(body).send()
    };
    let first = ask().await;
    first.assert_status_is_ok();
    let second = ask().await;
    second.assert_status(StatusCode::TOO_MANY_REQUESTS);
    second.assert_header("retry-after", "1");
    let body = said(second).await;
    assert_eq!(body["error"]["code"], "too_many_requests");
    assert_eq!(body["error"]["type"], "rate_limit_error");
    let text = first.0.into_body().into_string().await.unwrap();
    assert!(text.contains("[DONE]"), "{text}");
    ask().await.assert_status_is_ok();
}

#[tokio::test]
async fn a_socket_keeps_its_place_until_it_is_closed() {
    let stage = Stage::new();
    let keys = vec![ApiKey { concurrent: Some(1), ..key("ann") }];
    let address = listen(behind(&stage, keys), Connections::default()).await;
    let connect = || {
        let mut request = format!("ws://{address}/api/v2/generate").into_client_request().unwrap();
        request.headers_mut().insert("authorization", "Bearer corolla-ann".parse().unwrap());
        connect_async(request)
    };
    let (first, _) = connect().await.unwrap();
    let Err(Error::Http(refused)) = connect().await else { panic!("it was let in") };
    assert_eq!(refused.status().as_u16(), 429);
    drop(first);
    let again = async { while connect().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("the place is free again");
}

#[tokio::test]
async fn a_path_with_a_name_in_it_is_known_by_its_description() {
    let stage = Stage::new();
    let client = stage.client();
    let refused = client.post("/v1/models/alphabet").send().await;
    refused.assert_status(StatusCode::METHOD_NOT_ALLOWED);
    refused.assert_header("allow", "GET, HEAD");
    let metrics = client.get("/metrics").send().await.0.into_body().into_string().await.unwrap();
    assert!(metrics.contains("path=\"/v1/models/{model}\",method=\"POST\",status=\"405\""), "{metrics}");
    client.get("/v1/models/").send().await.assert_status(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_and_no_others() {
    let stage = Stage::new();
    let client = open_to(&stage, &["https://a.example"]);
    let fine = client.get("/api/v1/models").header("origin", "https://a.example").send().await;
    fine.assert_status_is_ok();
    fine.assert_header("access-control-allow-origin", "https://a.example");
    fine.assert_header("vary", "Origin");
    // An error can be read as well.
    let fault = client.get("/api/v1/nothing").header("origin", "https://a.example").send().await;
    fault.assert_status(StatusCode::NOT_FOUND);
    fault.assert_header("access-control-allow-origin", "https://a.example");
    assert_eq!(said(fault).await["code"], "no_such_path");
    let asked = client.request(Method::OPTIONS, "/v1/chat/completions").header("origin", "https://a.example");
    let asked = asked.header("access-control-request-method", "POST");
    let asked = asked.header("access-control-request-headers", "authorization, content-type").send().await;
    asked.assert_status_is_ok();
    asked.assert_header("access-control-allow-headers", "authorization, content-type");
    let other = client.get("/api/v1/models").header("origin", "https://b.example").send().await;
    other.assert_status(StatusCode::FORBIDDEN);
    assert!(!other.0.headers().contains_key("access-control-allow-origin"));
    assert_eq!(said(other).await["code"], "origin_not_allowed");
    // The server's own page sends its origin too.
    let own = client.get("/api/v1/models").header("origin", "http://localhost:8000").header("host", "localhost:8000");
    own.send().await.assert_status_is_ok();
    let none = client.get("/api/v1/models").send().await;
    none.assert_status_is_ok();
}

#[tokio::test]
async fn without_configured_origins_no_other_page_may_read() {
    let stage = Stage::new();
    let response = stage.client().get("/api/v1/models").header("origin", "https://a.example").send().await;
    assert!(!response.0.headers().contains_key("access-control-allow-origin"));
    // A browser lets any page open a socket and read it: the server must not.
    let client = stage.client();
    let open = |origin: &str| {
        let request = client.get("/api/v2/generate").header("upgrade", "websocket").header("host", "localhost:8000");
        request.header("origin", origin).send()
    };
    assert_eq!(said(open("https://a.example").await).await["code"], "origin_not_allowed");
    assert_eq!(said(open("http://localhost:8000").await).await["code"], "websocket_expected", "it came as far as that");
    let any = open_to(&stage, &["*"]);
    let response = any.get("/api/v1/models").header("origin", "https://a.example").send().await;
    response.assert_header("access-control-allow-origin", "https://a.example");
}

/// A server on a real socket, with a step that takes 20 ms.
async fn real(limits: Connections) -> (Arc<Stage>, std::net::SocketAddr) {
    let stage = Arc::new(Stage::with(Limits::default(), Duration::from_millis(20)));
    let address = listen(stage.routes(), limits).await;
    (stage, address)
}

const MODELS: &[u8] = b"GET /api/v1/models HTTP/1.1\r\nHost: x\r\n\r\n";

async fn answer(socket: &mut TcpStream) -> String {
    let mut bytes = vec![0; 8192];
    let read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_at_once() {
    let (_stage, address) = real(Connections { most: 2, ..Connections::default() }).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(MODELS).await.unwrap();
        assert!(answer(&mut socket).await.starts_with("HTTP/1.1 200"));
        sockets.push(socket);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    third.write_all(MODELS).await.unwrap();
    let refused = answer(&mut third).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    assert!(refused.contains("too_many_connections"), "{refused}");
    assert_eq!(third.read(&mut [0; 16]).await.unwrap(), 0, "and the connection is closed");
    drop((sockets, third));
    let again = async {
        loop {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(MODELS).await.unwrap();
            if answer(&mut socket).await.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.expect("there is room again");
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let idle = Duration::from_millis(150);
    let (stage, address) = real(Connections { idle, ..Connections::default() }).await;
    for begun in [&b""[..], b"GET /health/live HTT"] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(begun).await.unwrap();
        assert!(answer(&mut socket).await.is_empty(), "closed without an answer");
    }
    // One that waits for a reply is not idle, however long that takes; afterwards it is.
    let mut socket = TcpStream::connect(address).await.unwrap();
    let form = "inputs=a&max_new_tokens=20";
    let head = "POST /api/v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ";
    socket.write_all(format!("{head}{}\r\n\r\n{form}", form.len()).as_bytes()).await.unwrap();
    let reply = answer(&mut socket).await;
    assert!(reply.contains("\"ok\":true"), "{reply}");
    assert!(stage.steps.load(SeqCst) >= 20);
    assert!(answer(&mut socket).await.is_empty());
}

#[tokio::test]
async fn a_client_that_reads_nothing_loses_its_reply() {
    let stage = Stage::with(Limits::default(), Duration::ZERO);
    let idle = Duration::from_millis(300);
    let address = listen(stage.routes(), Connections { idle, ..Connections::default() }).await;
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"temperature":0,"stream":true}"#;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ";
    let request = format!("{head}{}\r\n\r\n{body}", body.len());
    let mut socket = TcpStream::connect(address).await.unwrap();
    // Replies fill the buffers between the two, then requests do, until the server has waited long enough.
    let until_closed = async { while socket.write_all(request.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), until_closed).await.expect("the connection is closed");
    until(|| stage.service.meter().snapshot().turns_running == 0).await;
    assert!(stage.service.meter().snapshot().turns_started > 0);
}

#[tokio::test]
async fn what_one_key_has_asked_is_not_computed_already_for_another() {
    let stage = Stage::new();
    let client = guarded(&stage, vec![key("ann"), key("bob")]);
    let prompt = "a secret that takes some tokens";
    let chat = serde_json::json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": 2});
    let text = serde_json::json!({"prompt": prompt, "max_tokens": 2});
    let mut found = Vec::new();
    for (path, body) in [("/v1/chat/completions", &chat), ("/v1/completions", &text)] {
        for name in ["ann", "bob", "ann", "bob"] {
            let request = client.post(path).header("authorization", format!("Bearer corolla-{name}")).body_json(body);
            let said = said(request.send().await).await;
            let cached = &said["usage"]["prompt_tokens_details"]["cached_tokens"];
            found.push(cached.as_u64().unwrap() > 0);
        }
    }
    for name in ["ann", "bob", "ann"] {
        let form = format!("inputs=another {prompt}&max_new_tokens=2");
        let request = client.post("/api/v1/generate").header("authorization", format!("Bearer corolla-{name}"));
        let response = request.content_type("application/x-www-form-urlencoded").body(form).send().await;
        let timing = response.0.headers()["server-timing"].to_str().unwrap().to_owned();
        found.push(!timing.contains("cached=0 "));
    }
    assert_eq!(found, [false, false, true, true, false, false, true, true, false, false, true]);
}
