//! Streaming chat with the real chat model, as the page does it.

use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};

use crate::server::{Server, smollm2};

/// Begins a streamed chat; its events as they come.
async fn stream(server: &Server, body: Value) -> impl Stream<Item = Value> + Unpin + use<> {
    let url = format!("{}/v1/chat/completions", server.base);
    let response = server.http.post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut buffer = Vec::new();
    Box::pin(response.bytes_stream().flat_map(move |bytes| {
        buffer.extend_from_slice(&bytes.unwrap());
        let mut events = Vec::new();
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let event = std::str::from_utf8(&event).unwrap();
            if let Some(data) = event.trim().strip_prefix("data: ").filter(|data| *data != "[DONE]") {
                events.push(serde_json::from_str(data).unwrap());
            }
        }
        futures_util::stream::iter(events)
    }))
}

fn says(event: &Value) -> bool {
    event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
}

fn question(text: &str, max_tokens: u32) -> Value {
    json!({
        "messages": [{"role": "user", "content": text}],
        "stream": true, "max_tokens": max_tokens, "temperature": 0.7, "seed": 1,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chat_at_once_and_closing_one_stops_its_compute_within_a_token() {
    let server = Server::start(&smollm2()).await;
    let mut leaves = stream(&server, question("Tell me a very long story about a garden.", 2000)).await;
    let mut stays = stream(&server, question("Count from one to one hundred in words.", 60)).await;
    for both in [&mut leaves, &mut stays] {
        while !says(&both.next().await.expect("a reply")) {}
    }
    assert_eq!(server.metric("corolla_turns_running").await, 2);
    drop(leaves);
    // While the one who stays gets two more tokens, the other's place becomes free.
    for _ in 0..2 {
        while !says(&stays.next().await.expect("the other reply goes on")) {}
    }
    assert_eq!(server.metric("corolla_turns_running").await, 1);
    let before = server.metric("corolla_tokens_generated_total").await;
    let rest = stays.filter(|event| futures_util::future::ready(says(event))).count().await as u64;
    let written = server.metric("corolla_tokens_generated_total").await - before;
    // A few of the rest were on their way when the counter was read; none is written for the one who left.
    assert!(rest > 0 && written <= rest + 3, "{written} tokens were written while {rest} arrived");
}

/// As the page does it after a lost connection, with the default model, which is quantised.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_was_broken_off_goes_on_with_the_words_it_would_have_had() {
    let server = Server::start(&smollm2()).await;
    let url = format!("{}/v1/chat/completions", server.base);
    let question = json!({"role": "user", "content": "Why is the sky blue?"});
    let ask = json!({"messages": [question], "temperature": 0, "max_tokens": 32, "stream": true});
    let pieces = stream(&server, ask).await.filter(|event| futures_util::future::ready(says(event)));
    let word = |event: &Value| event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    let words: Vec<String> = pieces.map(|event| word(&event)).collect().await;
    assert!(words.len() > 24, "{words:?}");
    for cut in [1, 8, 20] {
        let begun = words[..cut].concat();
        let messages = json!([question, {"role": "assistant", "content": begun}]);
        let rest = json!({"messages": messages, "continue_final_message": true, "temperature": 0, "max_tokens": 4});
        let rest: Value = server.http.post(&url).json(&rest).send().await.unwrap().json().await.unwrap();
        let said = rest["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(
            said.len() > 4 && words[cut..].concat().starts_with(said),
            "{begun:?} goes on with {said:?}: {words:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_in_a_session_reads_only_what_is_new() {
    let server = Server::start(&smollm2()).await;
    let url = format!("{}/v1/chat/completions", server.base);
    let session = server.open("max_length=512").await;
    let mut messages = vec![json!({"role": "user", "content": "Who wrote Hamlet?"})];
    let mut cached = Vec::new();
    for _ in 0..2 {
        let body = json!({"messages": messages, "session_id": session, "temperature": 0, "max_tokens": 40});
        let reply: Value = server.http.post(&url).json(&body).send().await.unwrap().json().await.unwrap();
        let said = reply["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains("Shakespeare"), "{reply}");
        cached.push(reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap());
        messages.push(json!({"role": "assistant", "content": said}));
        messages.push(json!({"role": "user", "content": "Say that again, please: who wrote Hamlet?"}));
    }
    assert_eq!(cached[0], 0);
    assert!(cached[1] > 30, "{cached:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_parts_are_served() {
    let server = Server::start(&crate::server::tiny_llama()).await;
    let (status, page) = server.get("/").await;
    assert_eq!(status, 200);
    let parts: Vec<&str> = page.split(['"', '\'']).filter(|s| s.ends_with(".js") || s.ends_with(".css")).collect();
    assert!(parts.len() >= 2, "{page}");
    for part in parts {
        assert!(!part.contains("//"), "{part} comes from elsewhere");
        assert_eq!(server.get(&format!("/{}", part.trim_start_matches("./"))).await.0, 200, "{part}");
    }
    assert_eq!(server.get("/docs").await.0, 200);
}
