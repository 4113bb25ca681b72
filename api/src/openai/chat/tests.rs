//! `/v1/chat/completions` against the toy model. Its chat prompt ends with a newline, so a reply is the alphabet.

mod tools;

use poem::http::StatusCode;
use serde_json::{Value, json};

use crate::stage::Stage;

const PATH: &str = "/v1/chat/completions";

async fn ask(stage: &Stage, extra: &Value) -> (StatusCode, String) {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    let client = stage.client();
    let response = client.post(PATH).body_json(&body).send().await.0;
    (response.status(), response.into_body().into_string().await.unwrap())
}

async fn fault(stage: &Stage, extra: &Value) -> (StatusCode, Value) {
    let (status, body) = ask(stage, extra).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    (status, body["error"].clone())
}

/// The data of each event.
fn events(body: &str) -> Vec<&str> {
    body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect()
}

#[tokio::test]
async fn a_reply_in_one_piece() {
    let stage = Stage::new();
    let (status, body) = ask(&stage, &json!({"max_tokens": 3})).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "alphabet");
    let expected = json!({"index": 0, "message": {"role": "assistant", "content": "abc"}, "finish_reason": "length"});
    assert_eq!(body["choices"][0], expected);
    assert_eq!(body["usage"]["prompt_tokens"], 8);
    assert_eq!(body["usage"]["completion_tokens"], 3);
    assert_eq!(body["usage"]["total_tokens"], 11);
}

#[tokio::test]
async fn the_end_of_text_and_stop_texts_stay_out_of_the_reply() {
    let stage = Stage::new();
    for (extra, content) in [(json!({}), "abcdefghijklmnopqrstuvwxyz"), (json!({"stop": ["de", "x"]}), "abc")] {
        let (_, body) = ask(&stage, &extra).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], content);
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn a_stream_is_a_piece_a_token_then_the_counts_then_done() {
    let stage = Stage::new();
    let options = json!({"max_tokens": 3, "stream": true, "stream_options": {"include_usage": true}});
    let (status, body) = ask(&stage, &options).await;
    assert_eq!(status, 200);
    let events = events(&body);
    let (done, pieces) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let pieces: Vec<Value> = pieces.iter().map(|piece| serde_json::from_str(piece).unwrap()).collect();
    assert_eq!(pieces[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let text: String = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "abc");
    let end = &pieces[pieces.len() - 2];
    assert_eq!(end["choices"][0]["finish_reason"], "length");
    let counts = pieces.last().unwrap();
    assert_eq!(counts["choices"], json!([]));
    assert_eq!(counts["usage"]["completion_tokens"], 3);
    assert!(pieces.iter().all(|piece| piece["id"] == pieces[0]["id"] && piece["object"] == "chat.completion.chunk"));
}

#[tokio::test]
async fn several_replies_read_the_prompt_once() {
    let stage = Stage::new();
    let (_, body) = ask(&stage, &json!({"n": 3, "max_tokens": 2})).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    for index in 0..3 {
        let choice = &body["choices"][index];
        assert_eq!((&choice["index"], &choice["message"]["content"]), (&json!(index), &json!("ab")), "{body}");
    }
    assert_eq!((&body["usage"]["prompt_tokens"], &body["usage"]["completion_tokens"]), (&json!(8), &json!(6)));
    assert_eq!(stage.steps.load(std::sync::atomic::Ordering::SeqCst), 2 + 1 + 1);

    let (_, body) = ask(&stage, &json!({"n": 2, "max_tokens": 2, "stream": true})).await;
    let pieces: Vec<Value> = events(&body).iter().filter_map(|piece| serde_json::from_str(piece).ok()).collect();
    for index in 0..2 {
        let own = pieces.iter().map(|piece| &piece["choices"][0]).filter(|choice| choice["index"] == index);
        let own: Vec<&Value> = own.collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        assert_eq!(own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect::<String>(), "ab");
        assert_eq!(own.last().unwrap()["finish_reason"], "length");
    }
}

#[tokio::test]
async fn logprobs_come_with_the_text_whole_and_in_pieces() {
    let stage = Stage::new();
    let asked = json!({"logprobs": true, "top_logprobs": 2, "messages": [{"role": "user", "content": "x"}]});
    let (_, body) = ask(&stage, &asked).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let rows = body["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 26, "the end of the text is no part of it");
    let likely = 9.0 - (9f64.exp() + 258.0).ln();
    for (row, letter) in rows.iter().zip('a'..='z') {
        assert_eq!((&row["token"], &row["bytes"]), (&json!(letter), &json!([letter as u32])));
        assert!((row["logprob"].as_f64().unwrap() - likely).abs() < 1e-6);
        assert_eq!(row["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(row["top_logprobs"][0]["token"], row["token"]);
    }
    let mut streamed = asked;
    streamed["stream"] = json!(true);
    let (_, body) = ask(&stage, &streamed).await;
    let pieces = events(&body).into_iter().filter_map(|piece| serde_json::from_str::<Value>(piece).ok());
    let told = |piece: Value| piece["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    assert_eq!(pieces.flat_map(told).collect::<Vec<_>>(), rows);
}

#[tokio::test]
async fn a_session_takes_the_common_prefix_from_its_cache() {
    let stage = Stage::new();
    let client = stage.client();
    let opened = client.get("/api/v1/open_inference_session").send().await.json().await;
    let id = opened.value().object().get("session_id").string().to_owned();
    ask(&stage, &json!({"session_id": id, "max_tokens": 3})).await;
    let (_, body) = ask(&stage, &json!({"session_id": id, "max_tokens": 3})).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let cached = body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!((1..=8).contains(&cached), "{body}");
    assert_eq!(body["choices"][0]["message"]["content"], "abc");
}

#[tokio::test]
async fn without_a_session_what_was_computed_before_counts_as_cached() {
    let stage = Stage::new();
    let asked = json!({"messages": [{"role": "user", "content": "Say the alphabet, please."}]});
    let mut cached = Vec::new();
    for _ in 0..2 {
        let (_, body) = ask(&stage, &asked).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], "abcdefghijklmnopqrstuvwxyz");
        cached.push(body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap());
        assert_eq!(body["usage"]["prompt_tokens"], "User:Say the alphabet, please.\n".len());
    }
    assert_eq!(cached, [0, "User:Say the alphabet, please.\n".len() as u64 - 1]);
}

#[tokio::test]
async fn errors_have_openais_shape() {
    let stage = Stage::new();
    let (status, error) = fault(&stage, &json!({"temperature": "hot"})).await;
    assert_eq!(status, 400);
    let message = "temperature must be a number, not a string";
    let expected = json!({"message": message, "type": "invalid_request_error", "param": "temperature",
        "code": "invalid_parameter"});
    assert_eq!(error, expected);

    let (status, error) = fault(&stage, &json!({"logit_bias": {"300": 1}})).await;
    let message = "logit_bias has token 300, but the tokens of alphabet are below 259";
    assert_eq!((status.as_u16(), &error["message"]), (400, &json!(message)));

    let (status, error) = fault(&stage, &json!({"functions": [{"name": "f"}]})).await;
    assert_eq!(
        (status.as_u16(), &error["code"], &error["param"]),
        (400, &json!("unsupported_parameter"), &json!("functions"))
    );

    let (status, error) = fault(&stage, &json!({"model": "gpt-4o"})).await;
    assert_eq!((status.as_u16(), &error["code"], &error["param"]), (404, &json!("model_not_found"), &json!("model")));

    let (status, error) = fault(&stage, &json!({"session_id": "nope"})).await;
    assert_eq!((status.as_u16(), &error["code"]), (404, &json!("session_gone")));
    assert_eq!(error["message"], "Session nope expired or does not exist");

    let long = "x".repeat(9000);
    let (status, error) = fault(&stage, &json!({"messages": [{"role": "user", "content": long}]})).await;
    assert_eq!((status.as_u16(), &error["code"]), (400, &json!("context_length_exceeded")));

    let (status, error) = fault(&stage, &json!({"top_p": 0})).await;
    assert_eq!((status.as_u16(), &error["code"]), (400, &json!("invalid_parameter")), "{error}");
}

#[tokio::test]
async fn errors_before_the_handler_have_openais_shape_too() {
    let stage = Stage::new();
    let client = stage.client();
    for (response, status, code) in [
        (client.post(PATH).content_type("text/plain").body("{}").send().await, 415, "unsupported_media_type"),
        (client.post(PATH).send().await, 415, "unsupported_media_type"),
        (client.post(PATH).content_type("application/json").body("{").send().await, 400, "invalid_json"),
        (client.post(PATH).content_type("application/json").body(vec![0xff]).send().await, 400, "invalid_json"),
        (client.get(PATH).send().await, 405, "method_not_allowed"),
        (client.get("/v1/nothing").send().await, 404, "no_such_path"),
    ] {
        assert_eq!(response.0.status().as_u16(), status);
        let body: Value = serde_json::from_str(&response.0.into_body().into_string().await.unwrap()).unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
    }
}
