//! The dialect of OpenAI's clients with the real chat model, beside what the other dialects say.

use serde_json::{Value, json};

use crate::server::{Server, smollm2};

async fn post(server: &Server, path: &str, body: Value) -> Value {
    let response = server.http.post(format!("{}{path}", server.base)).json(&body).send().await.unwrap();
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_says_what_v1_says_and_how_probable_it_was() {
    let server = Server::start(&smollm2()).await;
    let prompt = "The capital of France is";
    let plain = server.outputs(&[("inputs", prompt), ("max_new_tokens", "8")]).await;
    let body = json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 3, "echo": true});
    let answer = post(&server, "/v1/completions", body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], format!("{prompt}{plain}"));
    let all = &choice["logprobs"];
    let tokens: String = all["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens, format!("{prompt}{plain}"), "the tokens join to the text");

    // Scored as a prompt, the same text has the same probabilities: one pass against one token at a time.
    let written = numbers(&all["token_logprobs"]);
    let scored = json!({"prompt": format!("{prompt}{plain}"), "max_tokens": 0, "logprobs": 0, "echo": true});
    let scored = post(&server, "/v1/completions", scored).await;
    let scored = numbers(&scored["choices"][0]["logprobs"]["token_logprobs"]);
    assert_eq!(scored.len(), written.len());
    for (one, other) in scored.iter().zip(&written) {
        assert!((one - other).abs() < 0.15, "{scored:?}\n{written:?}");
    }
    // Greedy tokens are the most probable ones.
    for at in written.len() - 8..written.len() {
        let top = all["top_logprobs"][at + 1].as_object().unwrap();
        let best = top.values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
        assert!((written[at] - best).abs() < 1e-9, "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_replies_differ_and_can_be_had_again() {
    let server = Server::start(&smollm2()).await;
    let ask = |seed: u64, n: u64| {
        let messages = json!([{"role": "user", "content": "Name a colour and say why you like it."}]);
        json!({"messages": messages, "n": n, "seed": seed, "temperature": 1.2, "max_tokens": 12})
    };
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap().iter();
        choices.map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let three = texts(&post(&server, "/v1/chat/completions", ask(5, 3)).await);
    assert!(three[0] != three[1] && three[1] != three[2], "{three:?}");
    let last = texts(&post(&server, "/v1/chat/completions", ask(7, 1)).await);
    assert_eq!(last[0], three[2], "the seed counts up from reply to reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_means_the_same_lies_near() {
    for pooling in ["mean", "last"] {
        let server = Server::start(&format!("{}\n[embeddings]\npooling = \"{pooling}\"\n", smollm2())).await;
        let texts =
            ["The cat sleeps on the sofa.", "A cat is sleeping on a couch.", "Interest rates rose by 0.25% in May."];
        let answer = post(&server, "/v1/embeddings", json!({"input": texts})).await;
        let rows: Vec<Vec<f64>> = (0..3).map(|at| numbers(&answer["data"][at]["embedding"])).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!(rows.iter().all(|row| row.len() == 576 && (dot(row, row) - 1.0).abs() < 1e-4));
        let (near, far) = (dot(&rows[0], &rows[1]), dot(&rows[0], &rows[2]));
        assert!(near > far + 0.02, "{pooling}: {near} {far}");
    }
}

/// Whether `value` is what `schema` says, for the kinds of schema that the test makes.
fn fits(value: &Value, schema: &Value) -> bool {
    match schema["type"].as_str() {
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.as_i64().is_some_and(|n| (-9..=9).contains(&n)),
        Some("string") => match schema["enum"].as_array() {
            Some(choices) => choices.contains(value),
            None => value.as_str().is_some_and(|text| text.chars().count() <= 8),
        },
        Some("array") => {
            value.as_array().is_some_and(|all| all.len() <= 2 && all.iter().all(|item| fits(item, &schema["items"])))
        }
        _ => value.as_object().is_some_and(|members| {
            let wanted = schema["properties"].as_object().unwrap();
            members.len() == wanted.len() && wanted.iter().all(|(name, schema)| fits(&value[name], schema))
        }),
    }
}

/// A schema, different for each number.
fn schema(dice: &mut u64, depth: u32) -> Value {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    match (*dice >> 33) % if depth == 0 { 4 } else { 6 } {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "integer", "minimum": -9, "maximum": 9}),
        2 => json!({"type": "string", "maxLength": 8}),
        3 => json!({"type": "string", "enum": ["red", "green", "blue"]}),
        4 => json!({"type": "array", "maxItems": 2, "items": schema(dice, depth - 1)}),
        _ => object(dice, depth - 1),
    }
}

fn object(dice: &mut u64, depth: u32) -> Value {
    let (one, two) = (schema(dice, depth), schema(dice, depth));
    json!({"type": "object", "properties": {"one": one, "two": two}, "required": ["one", "two"], "additionalProperties": false})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_what_its_schema_says() {
    let server = Server::start(&smollm2()).await;
    let mut dice = 7;
    for seed in 0..24 {
        let schema = object(&mut dice, 2);
        let format = json!({"type": "json_schema", "json_schema": {"name": "it", "schema": schema}});
        let body = json!({"messages": [{"role": "user", "content": "Describe your garden as JSON."}], "seed": seed,
            "temperature": 1.5, "max_tokens": 200, "response_format": format});
        let answer = post(&server, "/v1/chat/completions", body).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text} for {schema}"));
        assert!(fits(&value, &schema), "{value} for {schema}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    let wrong = json!({"messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "nonsense"}}}});
    let response = server.http.post(format!("{}/v1/chat/completions", server.base)).json(&wrong).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let answer: Value = response.json().await.unwrap();
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("the JSON schema cannot be used: "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_must_be_has_the_arguments_that_its_schema_says() {
    let server = Server::start(&smollm2()).await;
    let mut dice = 11;
    for seed in 0..12 {
        let schemas = [object(&mut dice, 1), object(&mut dice, 1)];
        let tool = |(name, schema): (&str, &Value)| json!({"type": "function", "function": {"name": name, "parameters": schema}});
        let tools: Vec<Value> = ["plant", "water"].into_iter().zip(&schemas).map(tool).collect();
        let body = json!({"messages": [{"role": "user", "content": "Look after the garden."}], "seed": seed, "tools": tools,
            "temperature": 1.5, "max_tokens": 400, "tool_choice": "required", "parallel_tool_calls": false});
        let answer = post(&server, "/v1/chat/completions", body).await;
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null),
            "{answer}"
        );
        let [call] = choice["message"]["tool_calls"].as_array().unwrap().as_slice() else { panic!("{answer}") };
        let schema = &schemas[usize::from(call["function"]["name"] == "water")];
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(fits(&arguments, schema), "{arguments} for {schema}");
    }
    let odd = json!({"type": "function", "function": {"name": "odd", "parameters": {"type": "nonsense"}}});
    let wrong = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": [odd], "tool_choice": "required"});
    let response = server.http.post(format!("{}/v1/chat/completions", server.base)).json(&wrong).send().await.unwrap();
    assert_eq!(response.status(), 400);
    let answer: Value = response.json().await.unwrap();
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the schema of the tool odd cannot be used: "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_without_a_session_says_warm_what_it_says_cold() {
    // Rounded activations may turn where two tokens are as probable as each other.
    let exact = format!("{}\nactivations = \"f32\"\n", smollm2());
    let (warm, cold) =
        (Server::start(&exact).await, Server::start(&format!("{exact}[sessions]\nprefix_cache = 0\n")).await);
    let mut messages = vec![json!({"role": "user", "content": "Name three colours, and say why you like them."})];
    for turn in 0..4 {
        let body = json!({"messages": messages, "temperature": 0, "max_tokens": 24});
        let [warm, cold] =
            [post(&warm, "/v1/chat/completions", body.clone()).await, post(&cold, "/v1/chat/completions", body).await];
        let said = &warm["choices"][0]["message"];
        assert_eq!(*said, cold["choices"][0]["message"], "turn {turn}");
        let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        let prompt = warm["usage"]["prompt_tokens"].as_u64().unwrap();
        assert_eq!(cached(&cold), 0);
        let expected = if turn == 0 { 0..=0 } else { prompt / 2..=prompt - 1 };
        assert!(expected.contains(&cached(&warm)), "turn {turn}: {} of {prompt}", cached(&warm));
        messages.extend([said.clone(), json!({"role": "user", "content": "Go on."})]);
    }
}
