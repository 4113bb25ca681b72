//! `/api/v1` with the real chat model.

use std::time::Duration;

use crate::server::{Server, smollm2, tiny_llama};

#[tokio::test(flavor = "multi_thread")]
async fn the_capital_of_france_is_paris() {
    let server = Server::start(&smollm2()).await;
    let said = server.outputs(&[("inputs", "The capital of France is"), ("max_new_tokens", "8")]).await;
    assert!(said.contains("Paris"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_three_calls_says_what_one_call_says_without_reading_its_prefix_again() {
    let server = Server::start(&smollm2()).await;
    let prompt = "The garden was full of flowers, and every flower had a name. ".repeat(12);
    let whole = server.outputs(&[("inputs", &prompt), ("max_new_tokens", "24")]).await;

    let session = server.open("max_length=512").await;
    let mut said = String::new();
    let mut computed_before = server.metric("corolla_tokens_computed_total").await;
    for call in 0..3 {
        let mut form = vec![("session_id", session.as_str()), ("max_new_tokens", "8")];
        if call == 0 {
            form.push(("inputs", &prompt));
        }
        let (reply, timing) = server.generate(&form).await;
        said += reply["outputs"].as_str().unwrap();
        let computed = server.metric("corolla_tokens_computed_total").await;
        if call > 0 {
            assert_eq!(computed - computed_before, 8, "the pending token and all new ones but the last");
            assert!(timing.contains("computed=1\""), "{timing}");
        }
        computed_before = computed;
    }
    assert_eq!(said, whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_stops_the_compute() {
    let server = Server::start(&smollm2()).await;
    let url = format!("{}/api/v1/generate", server.base);
    let form = [("inputs", "Once upon a time"), ("max_new_tokens", "4000")];
    let request = server.http.post(url).form(&form).timeout(PATIENT).send();
    let waiting = tokio::spawn(request);
    server.until("it writes", async || server.metric("corolla_tokens_generated_total").await >= 3).await;
    waiting.abort();
    let _ = waiting.await;
    server.until("it stopped", async || server.metric("corolla_turns_running").await == 0).await;
    let written = server.metric("corolla_tokens_generated_total").await;
    let _ = server.outputs(&[("inputs", "Hello"), ("max_new_tokens", "5")]).await;
    assert_eq!(server.metric("corolla_tokens_generated_total").await, written + 5, "nobody else is writing");
    assert!(written < 1000, "it stopped long before its end: {written}");
}

const PATIENT: Duration = Duration::from_secs(600);

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn whoever_interrupts_twice_does_not_wait_for_what_is_open() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let server = Server::start(&tiny_llama()).await;
    let mut slow = tokio::net::TcpStream::connect(server.base.trim_start_matches("http://")).await.unwrap();
    let head = "POST /api/v1/generate HTTP/1.1\r\nHost: corolla\r\nContent-Length: 9\r\n\
                Content-Type: application/x-www-form-urlencoded\r\nExpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    slow.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100", "the server waits for the body");
    let ended = server.interrupt().await;
    assert_eq!(ended.code(), Some(130), "the first time alone, it waits for the request and ends well");
}
