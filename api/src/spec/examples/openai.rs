//! Examples for the operations under `/v1`.

use serde_json::{Value, json};

use super::{JSON, SESSION, chat_error, put};

pub(super) fn complete(document: &mut Value) {
    chat(document);
    completions(document);
    embeddings(document);
}

fn chat(document: &mut Value) {
    let path = "/v1/chat/completions";
    let messages = json!([
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]);
    let asked = json!({"role": "user", "content": "How warm is it in Rome?"});
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let weather = json!({"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.",
                         "parameters": city}});
    let function = json!({"name": "get_weather", "arguments": "{\"city\":\"Rome\"}"});
    let call = json!({"id": "call_5e2b", "type": "function", "function": function});
    let called = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let returned = json!({"role": "tool", "tool_call_id": "call_5e2b", "content": "21 degrees"});
    put(
        document,
        path,
        "request",
        JSON,
        &[
            ("In one piece", json!({"messages": messages, "max_tokens": 64})),
            (
                "Streamed, in a session",
                json!({"messages": messages, "stream": true, "stream_options": {"include_usage": true},
                   "session_id": SESSION, "temperature": 0.75, "top_p": 0.9}),
            ),
            ("With a tool", json!({"messages": [asked], "tools": [weather], "tool_choice": "auto"})),
            ("What the tool returned", json!({"messages": [asked, called, returned], "tools": [weather]})),
        ],
    );
    let usage = json!({"prompt_tokens": 31, "completion_tokens": 8, "total_tokens": 39,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    let said = json!({"role": "assistant", "content": "The capital of France is Paris."});
    let reply = |message: &Value, finish: &str| {
        json!({"id": "chatcmpl-1f0c", "object": "chat.completion", "created": 1_750_000_000, "model": "smollm2-135m-instruct",
               "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})
    };
    put(
        document,
        path,
        "200",
        JSON,
        &[("A reply", reply(&said, "stop")), ("A call of a tool", reply(&called, "tool_calls"))],
    );
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "chatcmpl-1f0c", "object": "chat.completion.chunk", "created": 1_750_000_000,
               "model": "smollm2-135m-instruct",
               "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    };
    let begin = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
    let word = chunk(json!({"content": "Paris"}), Value::Null);
    let end = chunk(json!({}), json!("stop"));
    let broken = chat_error("server_error", "unavailable", "the block server at 10.0.0.7 is gone", None);
    let streamed = json!({"index": 0, "id": "call_5e2b", "type": "function", "function": function});
    let asks = chunk(json!({"tool_calls": [streamed]}), Value::Null);
    let streams = [
        ("A reply", json!([begin, word, end])),
        ("A call of a tool", json!([begin, asks, chunk(json!({}), json!("tool_calls"))])),
        ("A failure on the way", json!([begin, word, broken])),
    ];
    put(document, path, "200", "text/event-stream", &streams);
    errors(document, path);
}

fn completions(document: &mut Value) {
    let path = "/v1/completions";
    let asked = [
        ("One text", json!({"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0})),
        ("A prompt scored", json!({"prompt": "Paris", "max_tokens": 0, "echo": true, "logprobs": 1})),
    ];
    put(document, path, "request", JSON, &asked);
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0}});
    let piece = |text: &str, finish: Value| {
        json!({"id": "cmpl-1f0c", "object": "text_completion", "created": 1_750_000_000, "model": "smollm2-135m-instruct",
               "choices": [{"index": 0, "text": text, "finish_reason": finish}]})
    };
    let mut whole = piece(" Paris.", json!("length"));
    whole["usage"] = usage;
    put(document, path, "200", JSON, &[("A text", whole)]);
    let stream = json!([piece(" Paris", Value::Null), piece(".", json!("length"))]);
    put(document, path, "200", "text/event-stream", &[("A text", stream)]);
    errors(document, path);
}

fn embeddings(document: &mut Value) {
    let path = "/v1/embeddings";
    put(document, path, "request", JSON, &[("Two texts", json!({"input": ["A cat", "A dog"]}))]);
    let row = |index: u32, embedding: Value| json!({"object": "embedding", "index": index, "embedding": embedding});
    let all = |data: Value| {
        json!({"object": "list", "data": data, "model": "smollm2-135m-instruct",
               "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    };
    let plain = all(json!([row(0, json!([0.6, -0.8])), row(1, json!([0.8, 0.6]))]));
    let base64 = all(json!([row(0, json!("mpkZP83MTL8="))]));
    put(document, path, "200", JSON, &[("Vectors", plain), ("In base64", base64)]);
    errors(document, path);
}

/// The errors of the operations that compute.
fn errors(document: &mut Value, path: &str) {
    let wrong = "invalid_request_error";
    let rows = [
        (
            "400",
            "A wrong member",
            wrong,
            "invalid_parameter",
            "temperature must be a number, not a string",
            Some("temperature"),
        ),
        (
            "400",
            "Not supported",
            wrong,
            "unsupported_parameter",
            "functions is not supported by this server yet",
            Some("functions"),
        ),
        (
            "400",
            "Too long",
            wrong,
            "context_length_exceeded",
            "Maximum length exceeded: prefix 0 + current 9000 exceeds pre-allocated maximum 8192",
            None,
        ),
        (
            "404",
            "The session is gone",
            wrong,
            "session_gone",
            "Session 6f1d expired or does not exist",
            Some("session_id"),
        ),
        (
            "404",
            "No such model",
            wrong,
            "model_not_found",
            "model x is not served here; there is: smollm2-135m-instruct",
            Some("model"),
        ),
        ("408", "Too slow", wrong, "body_too_slow", "the request body did not arrive within 30 seconds", None),
        ("409", "Another model", wrong, "wrong_model", "the session was opened for model a, not b", Some("model")),
        (
            "413",
            "Too large",
            wrong,
            "body_too_large",
            "the request body is longer than this server takes: at most 2097152 bytes",
            None,
        ),
        (
            "415",
            "Not JSON",
            wrong,
            "unsupported_media_type",
            "the body must be application/json; this is text/plain",
            None,
        ),
        (
            "429",
            "Too many sessions",
            "rate_limit_error",
            "too_many_sessions",
            "Too many opened inference sessions (max 50), please come back later",
            None,
        ),
        (
            "500",
            "A fault",
            "server_error",
            "internal",
            "something went wrong inside the server; its log has the details",
            None,
        ),
        ("501", "No chat format", "server_error", "unsupported", "bloom-560m has no chat template", None),
        (
            "503",
            "Full",
            "server_error",
            "busy",
            "the server is busy: 8 replies are being written and 64 are waiting; try again shortly",
            None,
        ),
        (
            "504",
            "Too slow",
            "server_error",
            "timed_out",
            "the reply took longer than 900 seconds and was stopped",
            None,
        ),
    ];
    for (status, summary, kind, code, message, param) in rows {
        put(document, path, status, JSON, &[(summary, chat_error(kind, code, message, param))]);
    }
}
