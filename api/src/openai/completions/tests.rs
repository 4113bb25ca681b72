//! `/v1/completions` against the toy model, whose text is the alphabet.

use std::sync::atomic::Ordering::SeqCst;

use serde_json::{Value, json};

use super::describe::PATH;
use crate::stage::Stage;

async fn ask(stage: &Stage, extra: Value) -> (u16, String) {
    let mut body = json!({"prompt": "a", "max_tokens": 3, "temperature": 0});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    let response = stage.client().post(PATH).body_json(&body).send().await.0;
    (response.status().as_u16(), response.into_body().into_string().await.unwrap())
}

async fn fine(extra: Value) -> Value {
    let (status, body) = ask(&Stage::new(), extra).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn texts(answer: &Value) -> Vec<(u64, &str, &str)> {
    let choices = answer["choices"].as_array().unwrap().iter();
    let row = |choice: &'_ Value| choice["index"].as_u64().unwrap();
    choices
        .map(|choice| (row(choice), choice["text"].as_str().unwrap(), choice["finish_reason"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn texts_are_continued() {
    let answer = fine(json!({})).await;
    assert_eq!((answer["object"].as_str(), answer["model"].as_str()), (Some("text_completion"), Some("alphabet")));
    assert_eq!(texts(&answer), [(0, "bcd", "length")]);
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    assert_eq!(answer["usage"]["total_tokens"], 4);
    assert_eq!(texts(&fine(json!({"prompt": "x", "max_tokens": 9})).await), [(0, "yz", "stop")]);
    assert_eq!(texts(&fine(json!({"stop": ["d"]})).await), [(0, "bc", "stop")]);
    assert_eq!(texts(&fine(json!({"prompt": [100, 101]})).await), [(0, "cde", "length")]);
    assert_eq!(texts(&fine(json!({"logit_bias": {"105": 100}, "max_tokens": 2})).await), [(0, "ff", "length")]);
}

#[tokio::test]
async fn several_prompts_and_several_texts_for_each() {
    let stage = Stage::new();
    let (_, body) = ask(&stage, json!({"prompt": ["a", "mm"], "n": 2, "echo": true})).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let expected = [(0, "abcd", "length"), (1, "abcd", "length"), (2, "mmnop", "length"), (3, "mmnop", "length")];
    assert_eq!(texts(&answer), expected);
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(3), &json!(12)));
    assert_eq!(stage.steps.load(SeqCst), 10, "the prompts are read once");
}

#[tokio::test]
async fn logprobs_are_lists_of_equal_length() {
    let answer = fine(json!({"logprobs": 1, "echo": true, "max_tokens": 2})).await;
    let all = &answer["choices"][0]["logprobs"];
    assert_eq!(all["tokens"], json!(["a", "b", "c"]));
    assert_eq!(all["text_offset"], json!([0, 1, 2]));
    assert_eq!((&all["token_logprobs"][0], &all["top_logprobs"][0]), (&Value::Null, &Value::Null));
    // 9 for the letter that follows, 0 for 258 others.
    let likely = 9.0 - (9f64.exp() + 258.0).ln();
    for at in [1, 2] {
        let logprob = all["token_logprobs"][at].as_f64().unwrap();
        assert!((logprob - likely).abs() < 1e-6, "{all}");
        let top = all["top_logprobs"][at].as_object().unwrap();
        assert_eq!(top.len(), 1);
    }
}

#[tokio::test]
async fn a_prompt_is_scored_without_writing_anything() {
    let stage = Stage::new();
    let (_, body) = ask(&stage, json!({"prompt": "abd", "logprobs": 0, "echo": true, "max_tokens": 0})).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(texts(&answer), [(0, "abd", "length")]);
    let all = &answer["choices"][0]["logprobs"];
    let logprobs: Vec<f64> = all["token_logprobs"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert!(logprobs.len() == 2 && logprobs[0] > -0.1 && logprobs[1] < -8.0, "{all}");
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(3), &json!(0)));
    assert_eq!(stage.steps.load(SeqCst), 1, "one pass");
}

/// What would be wrong with a text is wrong with none, too.
#[tokio::test]
async fn how_nothing_is_drawn_is_checked() {
    let stage = Stage::new();
    for prompt in [json!("abd"), Value::Null] {
        let asked = |name: &str, value: Value| json!({"prompt": prompt, "echo": true, "max_tokens": 0, name: value});
        assert_eq!(ask(&stage, asked("top_p", json!(0.5))).await.0, 200);
        for (name, value, status) in [
            ("top_p", json!(-1), 400),
            ("temperature", json!(101), 400),
            ("logit_bias", json!({"300": 1}), 400),
            ("model", json!("gpt"), 404),
        ] {
            let (found, body) = ask(&stage, asked(name, value)).await;
            assert_eq!(found, status, "{name} {body}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_the_same_in_pieces() {
    let stage = Stage::new();
    let asked = json!({"n": 2, "echo": true, "logprobs": 0, "stream": true, "stream_options": {"include_usage": true}});
    let (status, body) = ask(&stage, asked).await;
    assert_eq!(status, 200);
    let events: Vec<&str> = body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let (done, pieces) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let pieces: Vec<Value> = pieces.iter().map(|piece| serde_json::from_str(piece).unwrap()).collect();
    let (counts, pieces) = pieces.split_last().unwrap();
    assert_eq!((&counts["choices"], &counts["usage"]["completion_tokens"]), (&json!([]), &json!(6)));
    for index in 0..2 {
        let own: Vec<&Value> = pieces.iter().map(|p| &p["choices"][0]).filter(|c| c["index"] == index).collect();
        assert_eq!(own.iter().map(|c| c["text"].as_str().unwrap()).collect::<String>(), "abcd");
        let offsets: Vec<&Value> = own.iter().flat_map(|c| c["logprobs"]["text_offset"].as_array().unwrap()).collect();
        assert_eq!(offsets, [0, 1, 2, 3]);
        assert_eq!(own.last().unwrap()["finish_reason"], "length");
        assert!(own.iter().rev().skip(1).all(|c| c["finish_reason"].is_null()));
    }
}

#[tokio::test]
async fn a_session_is_continued() {
    let stage = Stage::new();
    let id = stage.service.open(None, None).await.unwrap().simple().to_string();
    for (prompt, text) in [("a", "bcd"), ("x", "yz")] {
        let (_, body) = ask(&stage, json!({"prompt": prompt, "session_id": id})).await;
        assert_eq!(texts(&serde_json::from_str(&body).unwrap())[0].1, text);
    }
    let record = stage.service.reply(corolla_domain::session::ReplyRequest {
        model: None,
        session: Some(uuid::Uuid::parse_str(&id).unwrap()),
        owner: None,
        prompt: corolla_domain::session::Prompt::Nothing,
        length: corolla_domain::session::Length::NewTokens(1),
        sampling: corolla_domain::generation::Sampling::greedy(),
        grammar: None,
        stop: corolla_domain::generation::StopRule::default(),
    });
    // a, b, c, d, x, y, z and the end of the text.
    assert_eq!(record.await.unwrap().usage().prompt_tokens, 8);
}

#[tokio::test]
async fn a_text_in_a_session_names_the_sessions_model() {
    let stage = Stage::with_another("other");
    let id = stage.service.open(Some("other".into()), None).await.unwrap().simple().to_string();
    for stream in [false, true] {
        let (_, body) = ask(&stage, json!({"session_id": id, "stream": stream})).await;
        assert!(body.contains("\"model\":\"other\"") && !body.contains("alphabet"), "{body}");
    }
}

#[tokio::test]
async fn errors_have_openais_shape_and_come_before_the_stream() {
    let stage = Stage::new();
    for (extra, status, param) in [
        (json!({"model": "gpt", "stream": true}), 404, json!("model")),
        (json!({"prompt": "", "stream": true}), 400, json!("prompt")),
        (json!({"prompt": [300]}), 400, Value::Null),
        (json!({"logit_bias": {"300": 1}}), 400, Value::Null),
        (json!({"logit_bias": {"3": 101}}), 400, Value::Null),
        (json!({"suffix": "x"}), 400, json!("suffix")),
        (json!({"session_id": "x"}), 404, json!("session_id")),
    ] {
        let (found, body) = ask(&stage, extra.clone()).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((found, &body["error"]["param"]), (status, &param), "{extra} {body}");
        assert!(body["error"]["message"].is_string() && body["error"]["type"] == "invalid_request_error");
    }
}
