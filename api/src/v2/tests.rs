//! `/api/v2/generate` over real sockets, against the toy model.

use std::{net::SocketAddr, sync::atomic::Ordering::SeqCst, time::Duration};

use corolla_domain::session::Limits;
use futures_util::{SinkExt, StreamExt};
use poem::http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, protocol::frame::coding::CloseCode},
};

use super::{describe::PATH, socket::QUEUE};
use crate::{
    Connections,
    stage::{self, Stage, until},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn listen(stage: &Stage) -> SocketAddr {
    stage::listen(stage.routes(), Connections::default()).await
}

async fn connect(address: SocketAddr) -> Socket {
    connect_async(format!("ws://{address}{PATH}")).await.unwrap().0
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next text frame as it is; pings are passed over.
async fn hear(socket: &mut Socket) -> String {
    loop {
        match socket.next().await.expect("a frame").unwrap() {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn opened(address: SocketAddr, max_length: u64) -> Socket {
    let mut socket = connect(address).await;
    say(&mut socket, json!({"type": "open_inference_session", "max_length": max_length})).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true}"#);
    socket
}

/// The failure that ends the talk, and that it is followed by a normal close.
async fn failure(socket: &mut Socket) -> String {
    let told: Value = serde_json::from_str(&hear(socket).await).unwrap();
    assert_eq!(told["ok"], false, "{told}");
    let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!("it was not closed") };
    assert_eq!(close.code, CloseCode::Normal);
    told["traceback"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn frames_to_the_byte() {
    let stage = Stage::new();
    let mut socket = opened(listen(&stage).await, 64).await;
    say(&mut socket, json!({"type": "generate", "inputs": "a", "max_new_tokens": 3, "do_sample": 0})).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "bcd", "stop": true, "token_count": 3}"#);
    let by_two = json!({"type": "generate", "max_new_tokens": 2, "stop_sequence": "g", "x": [1]});
    say(&mut socket, by_two).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "ef", "stop": false, "token_count": 2}"#);
    // The stop text ends inside a frame, which ends there.
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "g", "stop": true, "token_count": 1}"#);
}

#[tokio::test]
async fn requests_sent_ahead_are_worked_off_in_order() {
    let stage = Stage::new();
    let mut socket = connect(listen(&stage).await).await;
    say(&mut socket, json!({"type": "open_inference_session", "max_length": 64, "model": null})).await;
    say(&mut socket, json!({"type": "generate", "inputs": "a", "max_new_tokens": 2})).await;
    for _ in 0..3 {
        say(&mut socket, json!({"type": "generate", "max_new_tokens": 1})).await;
    }
    let mut heard = Vec::new();
    for _ in 0..5 {
        let frame: Value = serde_json::from_str(&hear(&mut socket).await).unwrap();
        heard.push(frame["outputs"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(heard, ["", "bc", "d", "e", "f"]);
}

#[tokio::test]
async fn the_end_of_text_ends_a_reply_only_as_its_stop_sequence() {
    let stage = Stage::new();
    let mut socket = opened(listen(&stage).await, 64).await;
    say(&mut socket, json!({"type": "generate", "inputs": "y", "max_new_tokens": 9, "stop_sequence": "</s>"})).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "z</s>", "stop": true, "token_count": 2}"#);
    say(&mut socket, json!({"type": "generate", "inputs": "y", "max_new_tokens": 99, "stop_sequence": "c"})).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "z</s>abc", "stop": true, "token_count": 5}"#);
}

#[tokio::test]
async fn after_an_extra_stop_sequence_the_session_goes_on_from_the_stop_token() {
    let stage = Stage::new();
    let mut socket = opened(listen(&stage).await, 64).await;
    let ask = json!({"type": "generate", "inputs": "a", "max_new_tokens": 9, "stop_sequence": "</s>",
        "extra_stop_sequences": ["de"]});
    say(&mut socket, ask).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "bcde", "stop": true, "token_count": 4}"#);
    // After `e` comes `f`; after the end of the text the alphabet begins anew.
    say(&mut socket, json!({"type": "generate", "max_new_tokens": 1})).await;
    assert_eq!(hear(&mut socket).await, r#"{"ok": true, "outputs": "a", "stop": true, "token_count": 1}"#);
    say(
        &mut socket,
        json!({"type": "generate", "max_new_tokens": 1, "stop_sequence": "xy", "extra_stop_sequences": []}),
    )
    .await;
    let told = failure(&mut socket).await;
    assert_eq!(told, "ValueError: extra_stop_sequences require stop_sequence length to be exactly 1 token");
}

#[tokio::test]
async fn a_session_that_is_full_keeps_what_was_written() {
    let stage = Stage::new();
    let mut socket = opened(listen(&stage).await, 4).await;
    say(&mut socket, json!({"type": "generate", "inputs": "a", "max_new_tokens": 9})).await;
    let told: Value = serde_json::from_str(&hear(&mut socket).await).unwrap();
    let full = "ValueError: Maximum length exceeded: prefix 4 + current 1 exceeds pre-allocated maximum 4";
    assert_eq!(told, json!({"ok": false, "outputs": "bcde", "traceback": full}));
}

#[tokio::test]
async fn a_failure_is_one_frame_and_a_normal_close() {
    let stage = Stage::new();
    let address = listen(&stage).await;
    let open = |extra: Value| {
        let mut frame = json!({"type": "open_inference_session", "max_length": 64});
        frame.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        frame
    };
    for (frame, expected) in [
        (json!({"type": "generate", "max_new_tokens": 1}), "AssertionError: "),
        (json!({"type": "open_inference_session"}), "KeyError: 'max_length'"),
        (open(json!({"max_length": "many"})), "ValueError: invalid literal for int() with base 10: 'many'"),
        (open(json!({"max_length": 1_000_000})), "ValueError: max_length 1000000 is more than this server allows"),
        (open(json!({"model": "gpt"})), "KeyError: 'model gpt is not served here; there is: alphabet'"),
        (json!([1]), "TypeError: the frame must be a JSON object, not a list"),
    ] {
        let mut socket = connect(address).await;
        say(&mut socket, frame).await;
        let told = failure(&mut socket).await;
        assert!(told.starts_with(expected), "{told}");
    }
    let mut socket = connect(address).await;
    socket.send(Message::text("{")).await.unwrap();
    assert!(failure(&mut socket).await.starts_with("JSONDecodeError: "));
    let mut socket = connect(address).await;
    socket.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(failure(&mut socket).await, "TypeError: frames must be text, not binary");
    let mut socket = connect(address).await;
    socket.send(Message::text("x".repeat(3 << 20))).await.unwrap();
    assert!(failure(&mut socket).await.starts_with("ValueError: the frame cannot be read: "));
    until(|| stage.service.meter().snapshot().sessions_live == 0).await;
}

#[tokio::test]
async fn closing_the_socket_stops_the_compute_and_ends_the_session() {
    for politely in [true, false] {
        let stage = Stage::with(Limits::default(), Duration::from_millis(10));
        let mut socket = opened(listen(&stage).await, 4000).await;
        say(&mut socket, json!({"type": "generate", "inputs": "a", "max_new_tokens": 3000})).await;
        until(|| stage.steps.load(SeqCst) >= 3).await;
        if politely {
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        } else {
            drop(socket);
        }
        let at_close = stage.steps.load(SeqCst);
        until(|| stage.service.meter().snapshot().turns_running == 0).await;
        until(|| stage.service.meter().snapshot().sessions_live == 0).await;
        assert!(stage.steps.load(SeqCst) <= at_close + 2);
    }
}

#[tokio::test]
async fn what_is_sent_ahead_is_bounded() {
    let stage = Stage::with(Limits::default(), Duration::from_millis(50));
    let mut socket = opened(listen(&stage).await, 4000).await;
    for _ in 0..QUEUE + 2 {
        say(&mut socket, json!({"type": "generate", "inputs": "a", "max_new_tokens": 3000})).await;
    }
    assert!(failure(&mut socket).await.starts_with("RuntimeError: too much was sent ahead: at most 64 frames"));
    until(|| stage.service.meter().snapshot().turns_running == 0).await;
}

#[tokio::test]
async fn who_says_nothing_is_told_so() {
    let limits = Limits { idle: Duration::from_secs(1), ..Limits::default() };
    let stage = Stage::with(limits, Duration::ZERO);
    let mut socket = opened(listen(&stage).await, 64).await;
    assert_eq!(failure(&mut socket).await, "TypeError: no message came for 1 seconds");
}

#[tokio::test]
async fn a_session_of_v1_goes_on_over_a_socket_and_outlives_it() {
    let stage = Stage::new();
    let address = listen(&stage).await;
    let id = stage.service.open(None, None).await.unwrap().simple().to_string();
    for text in ["b", "c"] {
        let mut socket = connect(address).await;
        say(&mut socket, json!({"type": "open_inference_session", "session_id": id})).await;
        assert_eq!(hear(&mut socket).await, r#"{"ok": true}"#);
        let inputs = if text == "b" { json!("a") } else { Value::Null };
        say(&mut socket, json!({"type": "generate", "inputs": inputs, "max_new_tokens": 1})).await;
        let frame: Value = serde_json::from_str(&hear(&mut socket).await).unwrap();
        assert_eq!(frame["outputs"], text);
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
    assert_eq!(stage.steps.load(SeqCst), 2);
}

#[tokio::test]
async fn as_many_sockets_as_sessions() {
    let stage = Stage::with(Limits { max_sessions: 1, ..Limits::default() }, Duration::ZERO);
    let address = listen(&stage).await;
    let first = connect(address).await;
    let refused = connect_async(format!("ws://{address}{PATH}")).await;
    let Err(Error::Http(response)) = refused else { panic!("it was let in") };
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"30".parse().unwrap()));
    drop(first);
    let again = async { while connect_async(format!("ws://{address}{PATH}")).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("the place is free again");
}

#[tokio::test]
async fn a_plain_request_is_told_what_this_is() {
    let stage = Stage::new();
    let response = stage.client().get(PATH).send().await;
    response.assert_status(StatusCode::BAD_REQUEST);
    response.json().await.value().object().get("code").assert_string("websocket_expected");
}
