//! What operators see: measurements, readiness, logs; and what nobody sees.

use std::fmt::Write as _;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::{
    guards::new_key,
    server::{Server, tiny_llama},
};

#[tokio::test(flavor = "multi_thread")]
async fn measurements_follow_a_reply() {
    let server = Server::start(&format!("{}cache_tokens = 5000\n", tiny_llama())).await;
    let session = server.open("max_length=300").await;
    for _ in 0..2 {
        let _ = server.outputs(&[("session_id", &session), ("inputs", "a b"), ("max_new_tokens", "5")]).await;
    }
    let ours = "{model=\"tiny-llama\"}";
    for (name, value) in
        [("turn_wait_seconds_count", 2), ("first_token_seconds_count", 2), ("inter_token_seconds_count", 8)]
    {
        assert_eq!(server.metric(&format!("corolla_{name}{ours}")).await, value, "{name}");
    }
    let (_, text) = server.get("/metrics").await;
    assert!(text.contains("corolla_turns_ended_total{model=\"tiny-llama\",how=\"finished\"} 2"), "{text}");
    assert!(text.contains("corolla_hop_step_seconds_count{model=\"tiny-llama\",peer=\"in-process\"} 10"), "{text}");
    assert!(text.contains("path=\"/api/v1/generate\",method=\"POST\",status=\"200\"} 2"), "{text}");
    assert_eq!(server.metric(&format!("corolla_kv_cache_tokens{ours}")).await, 5000);
    assert_eq!(
        server.metric(&format!("corolla_kv_cache_free_tokens{ours}")).await,
        5000 - 300,
        "the session's are taken"
    );
    let _ = server.get(&format!("/api/v1/close_inference_session?session_id={session}")).await;
    let free = format!("corolla_kv_cache_free_tokens{ours}");
    server.until("the session's are given back", async || server.metric(&free).await == 5000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_are_json_where_that_is_configured_and_name_the_request() {
    let config = format!("log_format = \"json\"\n{}", tiny_llama());
    let server = Server::open_door(&config, &[], "info,corolla_api=debug");
    let request = server.http.get(format!("{}/api/v1/nothing", server.base)).header("x-request-id", "mine-1");
    assert_eq!(request.send().await.unwrap().headers()["x-request-id"], "mine-1");
    let named = |line: &Value| line["span"]["id"] == "mine-1" && line["fields"]["status"] == 404;
    server
        .until("the request is in the log", async || {
            server.log().lines().any(|line| named(&serde_json::from_str(line).expect(line)))
        })
        .await;
}

/// Bad input of every kind, and some that is good: path, media type, body.
fn requests() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    let diary = r#"{"messages":[{"role":"user","content":"my secret diary"}],"max_tokens":2"#;
    let mut all: Vec<(_, _, Vec<u8>)> = vec![
        ("/api/v1/generate", json, br#"{"inputs": "my secret diary", "max_new_tokens": 2}"#.into()),
        ("/api/v1/generate", json, br#"{"inputs": 7}"#.into()),
        ("/api/v1/generate", json, br#"{"inputs": "my secret diary", "max_new_tokens": "/etc/passwd"}"#.into()),
        ("/api/v1/generate", "multipart/form-data; boundary=x", b"--x\r\nbroken".into()),
        ("/api/v1/generate", "multipart/form-data", b"my secret diary".into()),
        ("/api/v1/generate", form, b"inputs=%ff&max_new_tokens=1".into()),
        ("/api/v1/generate", form, b"inputs=a&max_new_tokens=1&session_id=../../etc/passwd".into()),
        ("/v1/chat/completions", json, format!("{diary}}}").into()),
        ("/v1/chat/completions", json, format!("{diary},\"stream\":true}}").into()),
        ("/v1/chat/completions", json, br#"{"messages": [{"role": "user"}], "model": "../../etc/passwd"}"#.into()),
        ("/v1/chat/completions", json, b"{{{".into()),
        ("/v1/chat/completions", json, vec![0xff, 0xfe, 0]),
        ("/v1/chat/completions", json, b"[".repeat(50_000)),
        ("/v1/chat/completions", json, b" ".repeat(3 << 20)),
        ("/v1/chat/completions", "text/plain", b"hello".into()),
        ("/v1/completions", json, br#"{"prompt": [[[]]], "session_id": "my secret diary"}"#.into()),
        (
            "/v1/completions",
            json,
            br#"{"prompt": "my secret diary", "echo": true, "max_tokens": 0, "logprobs": 1}"#.into(),
        ),
        ("/v1/completions", json, br#"{"prompt": [4294967295], "logit_bias": {"my secret diary": 1}}"#.into()),
        ("/v1/embeddings", json, br#"{"input": {"my secret diary": 1}}"#.into()),
        ("/v1/embeddings", json, br#"{"input": "my secret diary", "encoding_format": "base64"}"#.into()),
        ("/v1/models", json, b"{}".into()),
    ];
    for (name, value) in [
        ("response_format", r##"{"type":"json_schema","json_schema":{"schema":{"$ref":"file:///etc/passwd"}}}"##),
        ("response_format", r##"{"type":"json_schema","json_schema":{"schema":{"$ref":"#"}}}"##),
        ("response_format", r#"{"type":"json_schema","json_schema":{"schema":{"type":"string","pattern":"(((("}}}"#),
        ("tools", r#"[{"type":"function","function":{"name":"../../etc/passwd"}}]"#),
        ("tool_choice", r#"{"type":"function","function":{"name":"nobody"}}"#),
        ("logit_bias", r#"{"999999999999":1}"#),
        ("temperature", "1e999"),
        ("seed", "-99999999999999999999"),
        ("stop", "[[]]"),
        ("n", "0"),
    ] {
        all.push(("/v1/chat/completions", json, format!("{diary},\"{name}\":{value}}}").into()));
    }
    all
}

/// Everything that `server` says to those requests, and to others that want no body.
async fn replies(server: &Server, key: &str) -> String {
    let mut said = String::new();
    for key in [key, "corolla-wrong-secret", ""] {
        for (path, media, body) in requests() {
            let request = server.http.post(format!("{}{path}", server.base)).header("content-type", media);
            // A body that is refused before it has come ends the connection, which the client may notice first.
            let long = body.len() > 2 << 20;
            let request = if long { request.header("connection", "close") } else { request };
            let response = match request.bearer_auth(key).body(body).send().await {
                Ok(response) => response,
                Err(_) if long => continue,
                Err(fault) => panic!("{path}: {fault:?}"),
            };
            let _ = writeln!(said, "{:?} {}", response.headers().clone(), response.text().await.unwrap());
        }
        let paths = [
            "/api/v1/models",
            "/api/v1/swarm",
            "/api/v2/generate",
            "/health/ready",
            "/metrics",
            "/openapi.yaml",
            "/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/v1/%00",
            "/v1/models/..%2f..%2fetc%2fpasswd",
            "/v1/models?api_key=corolla-wrong-secret",
        ];
        for (path, method) in paths.into_iter().flat_map(|path| ["GET", "HEAD", "TRACE", "BREW"].map(|it| (path, it))) {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = server.http.request(method, format!("{}{path}", server.base)).bearer_auth(key);
            let request = request.header("origin", "https://elsewhere.example").header("x-request-id", "<b>'\"");
            let response = request.send().await.unwrap();
            let _ = writeln!(said, "{:?} {}", response.headers().clone(), response.text().await.unwrap());
        }
        frames(server, key, &mut said).await;
    }
    said
}

/// What it says to frames of a WebSocket.
async fn frames(server: &Server, key: &str, said: &mut String) {
    let open = Message::text(r#"{"type": "open_inference_session", "max_length": 64}"#);
    for frame in [
        Message::text("{{{"),
        Message::text(r#"{"type": "generate"}"#),
        Message::text(r#"{"type": "open_inference_session", "max_length": "my secret diary"}"#),
        Message::binary(vec![0xff]),
        Message::text(r#"{"type": "generate", "inputs": "my secret diary", "max_new_tokens": 2}"#),
        Message::text(r#"{"type": "generate", "inputs": ["/etc/passwd"], "max_new_tokens": 2}"#),
    ] {
        let url = format!("{}/api/v2/generate", server.base.replacen("http", "ws", 1));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        let mut socket = match connect_async(request).await {
            Ok((socket, _)) => socket,
            Err(refused) => {
                let _ = writeln!(said, "{refused:?}");
                continue;
            }
        };
        // Both as the first frame and as a later one.
        let _ = (socket.send(frame.clone()).await, socket.send(open.clone()).await, socket.send(frame).await);
        let _ = socket.send(Message::text("nonsense")).await;
        while let Some(Ok(heard)) = socket.next().await {
            let _ = writeln!(said, "{heard:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_prompt_path_or_stack_trace_is_in_a_reply_or_a_log() {
    let (key, table) = new_key("ann");
    let digest = table.split('"').nth(3).unwrap().to_owned();
    let root = env!("CARGO_MANIFEST_DIR");
    for level in ["info", "debug"] {
        let server = Server::open_door(&format!("{table}{}", tiny_llama()), &[], level);
        server.until("ready", async || server.get("/health/ready").await.0 == 200).await;
        let said = replies(&server, &key).await;
        assert!(said.contains("\"ok\":true") && said.contains("{\\\"ok\\\": true}"), "{said}");
        let log = server.log();
        for secret in [&key, "corolla-wrong-secret", &digest] {
            assert!(!said.contains(secret) && !log.contains(secret), "{level}: {secret}\n{said}\n{log}");
        }
        let temporary = std::env::temp_dir();
        for inside in
            [root, "/root/", "/home/", "root:", temporary.to_str().unwrap(), ".rs:", "panicked", "stack backtrace"]
        {
            assert!(!said.contains(inside), "{inside}\n{said}");
        }
        assert!(!log.contains("panicked") && !log.contains("stack backtrace") && !log.contains("ERROR"), "{log}");
        assert!(level == "debug" || !log.contains("diary") && !log.contains(root), "{log}");
    }
}
