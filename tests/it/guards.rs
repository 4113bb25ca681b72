//! Keys, limits and the end of a server, through the real binary.

use std::process::Stdio;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::server::{Server, corolla, run, smollm2, tiny_llama};

/// What `corolla key` prints: the key, and its part of the configuration.
pub(crate) fn new_key(name: &str) -> (String, String) {
    let output = corolla().args(["key", "--name", name]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let key = said.lines().find(|line| line.starts_with("corolla-")).expect(&said).to_owned();
    let table = said[said.find("[[api_keys]]").unwrap()..].to_owned();
    assert!(!table.contains(&key), "the configuration keeps no key");
    (key, table)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_for_others_wants_keys_and_knows_those_that_were_made() {
    // Listening for others without keys is refused before anything is loaded.
    let refused = run(&format!("listen = \"0.0.0.0:0\"\n{}", tiny_llama()), &["serve"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("`corolla key`") && said.contains("access = \"open\""), "{said}");

    let ((ann, first), (bob, second)) = (new_key("ann"), new_key("bob"));
    assert_ne!(ann, bob);
    let server = Server::start(&format!("{first}requests_per_minute = 3\n{second}{}", tiny_llama())).await;
    assert_eq!(server.get("/api/v1/models").await.0, 401);
    assert_eq!(server.get("/").await.0, 200, "the page itself is for everybody");
    let ask = async |key: &str| {
        let form = [("inputs", "a"), ("max_new_tokens", "1")];
        let request = server.http.post(format!("{}/api/v1/generate", server.base)).form(&form).bearer_auth(key);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.headers().get("retry-after").cloned(), response.text().await.unwrap())
    };
    for _ in 0..3 {
        let (status, _, text) = ask(&ann).await;
        assert!(status == 200 && text.contains("\"ok\":true"), "{text}");
    }
    let (status, wait, text) = ask(&ann).await;
    assert!(status == 429 && wait.is_some() && text.contains("rate_limited"), "{text}");
    assert_eq!(ask(&bob).await.0, 200);
    assert_eq!(ask(&format!("{bob}x")).await.0, 401);
}

fn question(max_tokens: u32) -> Value {
    let messages = json!([{"role": "user", "content": "Tell me a very long story about a garden."}]);
    json!({"messages": messages, "stream": true, "max_tokens": max_tokens, "temperature": 0})
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_queue_takes_is_turned_away_at_once() {
    let server = Server::start(&format!("[limits]\nconcurrent = 1\nqueue = 0\n{}", smollm2())).await;
    let url = format!("{}/v1/chat/completions", server.base);
    let ask = || server.http.post(&url).json(&question(2000)).send();
    let first = ask().await.unwrap();
    assert_eq!(first.status(), 200);
    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");
    let fault: Value = refused.json().await.unwrap();
    assert_eq!(fault["error"]["code"], "busy", "{fault}");
    drop(first);
    server.until("there is room", async || ask().await.unwrap().status() == 200).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_terminated_ends_its_replies_first() {
    let server = Server::start(&smollm2()).await;
    let url = format!("{}/v1/chat/completions", server.base);
    let mut reply = server.http.post(&url).json(&question(40)).send().await.unwrap().bytes_stream();
    let mut said = String::new();
    while said.matches("data: ").count() < 3 {
        said += std::str::from_utf8(&reply.next().await.unwrap().unwrap()).unwrap();
    }
    let ended = tokio::spawn(server.terminate());
    while let Some(bytes) = reply.next().await {
        said += std::str::from_utf8(&bytes.unwrap()).unwrap();
    }
    assert!(said.contains("\"finish_reason\":\"length\"") && said.trim_end().ends_with("[DONE]"), "{said}");
    let status = ended.await.unwrap();
    assert_eq!(status.code(), Some(0));
}
