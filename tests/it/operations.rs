//! What operators see: measurements, readiness, logs; and what nobody sees.

use std::fmt::Write as _;

use serde_json::Value;

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

/// Everything that `server` says to those requests.
async fn replies(server: &Server, key: &str) -> String {
    let json = "application/json";
    let bodies = [
        ("/api/v1/generate", json, "{\"inputs\": \"my secret diary\", \"max_new_tokens\": 2}"),
        ("/api/v1/generate", json, "{\"inputs\": 7}"),
        ("/api/v1/generate", "multipart/form-data; boundary=x", "--x\r\nbroken"),
        ("/api/v1/generate", "application/x-www-form-urlencoded", "inputs=%ff&max_new_tokens=1"),
        (
            "/v1/chat/completions",
            json,
            "{\"messages\": [{\"role\": \"user\", \"content\": \"my secret diary\"}], \"max_tokens\": 2}",
        ),
        ("/v1/chat/completions", json, "{\"messages\": [{\"role\": \"user\"}], \"model\": \"../../etc/passwd\"}"),
        ("/v1/chat/completions", json, "{{{"),
        ("/v1/chat/completions", "text/plain", "hello"),
    ];
    let mut said = String::new();
    for key in [key, "corolla-wrong-secret", ""] {
        for (path, media, body) in bodies {
            let request = server.http.post(format!("{}{path}", server.base)).header("content-type", media);
            let response = request.bearer_auth(key).body(body).send().await.unwrap();
            let _ = writeln!(said, "{:?} {}", response.headers().clone(), response.text().await.unwrap());
        }
        let paths = [
            "/api/v1/models",
            "/api/v1/swarm",
            "/health/ready",
            "/metrics",
            "/openapi.yaml",
            "/../../etc/passwd",
            "/v1/%00",
        ];
        for path in paths {
            let response = server.http.get(format!("{}{path}", server.base)).bearer_auth(key).send().await.unwrap();
            let _ = writeln!(said, "{:?} {}", response.headers().clone(), response.text().await.unwrap());
        }
    }
    said
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
        assert!(said.contains("\"ok\":true"), "{said}");
        let log = server.log();
        for secret in [&key, "corolla-wrong-secret", &digest] {
            assert!(!said.contains(secret) && !log.contains(secret), "{level}: {secret}\n{said}\n{log}");
        }
        for inside in [root, "/root/", "/home/", ".rs:", "panicked", "stack backtrace"] {
            assert!(!said.contains(inside), "{inside}\n{said}");
        }
        assert!(!log.contains("panicked") && !log.contains("stack backtrace"), "{log}");
        assert!(level == "debug" || !log.contains("diary") && !log.contains(root), "{log}");
    }
}
