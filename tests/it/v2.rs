//! `/api/v2/generate` with real models: a conversation over one WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::server::{Server, smollm2};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn open(server: &Server, first: Value) -> Socket {
    let url = format!("{}/api/v2/generate", server.base.replacen("http", "ws", 1));
    let mut socket = connect_async(url).await.unwrap().0;
    say(&mut socket, first).await;
    assert_eq!(hear(&mut socket).await, json!({"ok": true}));
    socket
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

async fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.expect("a frame").unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The text of a reply, and its frames.
async fn reply(socket: &mut Socket) -> (String, Vec<Value>) {
    let (mut text, mut frames) = (String::new(), Vec::new());
    loop {
        let frame = hear(socket).await;
        assert_eq!(frame["ok"], true, "{frame}");
        text += frame["outputs"].as_str().unwrap();
        let stop = frame["stop"] == true;
        frames.push(frame);
        if stop {
            return (text, frames);
        }
    }
}

const PROMPT: &str = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_dialogue_token_by_token_as_the_first_page_held_it() {
    let server = Server::start(&smollm2()).await;
    let whole = server.outputs(&[("inputs", PROMPT), ("max_new_tokens", "200")]).await;
    assert!(whole.contains("Paris") && whole.ends_with("<|im_end|>"), "{whole}");

    let mut socket = open(&server, json!({"type": "open_inference_session", "max_length": 512})).await;
    let ask = |inputs: &str| {
        json!({"type": "generate", "inputs": inputs, "max_new_tokens": 1, "stop_sequence": "<|im_end|>",
               "extra_stop_sequences": ["\n\nHuman"]})
    };
    // Both at once: the second waits for the first.
    say(&mut socket, ask(PROMPT)).await;
    say(&mut socket, ask("\n<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n")).await;
    let (text, frames) = reply(&mut socket).await;
    assert_eq!(text, whole);
    assert!(frames.len() > 3, "a frame a token: {frames:?}");
    let counted: u64 = frames.iter().map(|frame| frame["token_count"].as_u64().unwrap()).sum();
    let computed = server.metric("corolla_tokens_generated_total").await;
    assert!(counted >= frames.len() as u64 && counted <= computed);
    let (second, _) = reply(&mut socket).await;
    assert!(second.contains("Rome") && second.ends_with("<|im_end|>"), "{second}");

    socket.close(None).await.unwrap();
    server.until("the session is gone", async || server.metric("corolla_sessions_live").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_from_dialect_to_dialect() {
    let server = Server::start(&smollm2()).await;
    let whole = server.outputs(&[("inputs", PROMPT), ("max_new_tokens", "6")]).await;
    let session = server.open("max_length=256").await;
    let first = server.outputs(&[("session_id", &session), ("inputs", PROMPT), ("max_new_tokens", "2")]).await;
    let mut socket = open(&server, json!({"type": "open_inference_session", "session_id": session})).await;
    say(&mut socket, json!({"type": "generate", "max_new_tokens": 2})).await;
    let second = reply(&mut socket).await.0;
    drop(socket);
    let (third, timing) = server.generate(&[("session_id", &session), ("max_new_tokens", "2")]).await;
    assert_eq!(format!("{first}{second}{}", third["outputs"].as_str().unwrap()), whole);
    assert!(timing.contains("computed=1\""), "only the pending token is computed: {timing}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_terminated_ends_replies_over_sockets_too() {
    let server = Server::start(&smollm2()).await;
    let first = json!({"type": "open_inference_session", "max_length": 512});
    let (mut idle, mut busy) = (open(&server, first.clone()).await, open(&server, first).await);
    let story = "<|im_start|>user\nTell a long story.<|im_end|>\n<|im_start|>assistant\n";
    say(&mut busy, json!({"type": "generate", "inputs": story, "max_new_tokens": 100})).await;
    say(&mut busy, json!({"type": "generate", "inputs": "\n", "max_new_tokens": 1})).await;
    server.until("it is written", async || server.metric("corolla_turns_running").await == 1).await;
    let ended = tokio::spawn(server.terminate());
    let (text, frames) = reply(&mut busy).await;
    assert!(text.len() > 100 && frames.len() == 1, "{frames:?}");
    // What was sent ahead is not begun.
    for socket in [&mut busy, &mut idle] {
        let Some(Ok(Message::Close(Some(why)))) = socket.next().await else { panic!("no farewell") };
        assert_eq!((u16::from(why.code), why.reason.as_str()), (1001, "the server stops"));
    }
    assert_eq!(ended.await.unwrap().code(), Some(0));
}
