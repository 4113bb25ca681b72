//! Examples for every request, reply and error of the description. poem-openapi has no place for them, so they are
//! put into the finished document.

use serde_json::{Value, json};

/// Puts the examples in.
pub(super) fn complete(document: &mut Value) {
    v1(document);
    chat(document);
    rest(document);
}

/// Where examples stand: operation, then status (or `request`), then media type.
fn put(document: &mut Value, path: &str, status: &str, media: &str, examples: &[(&str, Value)]) {
    let Some(item) = document["paths"][path].as_object_mut() else { return };
    for operation in item.values_mut() {
        let content = match status {
            "request" => &mut operation["requestBody"]["content"],
            status => &mut operation["responses"][status]["content"],
        };
        let Some(place) = content.get_mut(media) else { continue };
        for (summary, value) in examples {
            let name = summary.to_lowercase().replace([' ', ','], "-");
            place["examples"][name] = json!({"summary": summary, "value": value});
        }
    }
}

const JSON: &str = "application/json";

/// An error in our shape.
pub(super) fn error(code: &str, message: &str) -> Value {
    json!({"code": code, "message": message, "request_id": "0d5f3c8f6c1c4f0f9f0e6f4c1b1f7a21"})
}

/// An error in the shape of `/v1`.
pub(super) fn chat_error(kind: &str, code: &str, message: &str, param: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

fn failed(traceback: &str) -> Value {
    json!({"ok": false, "traceback": traceback})
}

const SESSION: &str = "6f1d2c3b4a5968778695a4b3c2d1e0f0";

fn v1(document: &mut Value) {
    let (generate, open) = ("/api/v1/generate", "/api/v1/open_inference_session");
    let asked = [
        ("A short continuation", json!({"inputs": "The capital of France is", "max_new_tokens": 8})),
        (
            "The next step of a session",
            json!({"session_id": SESSION, "max_new_tokens": 1, "do_sample": 1, "temperature": 0.75, "top_p": 0.9}),
        ),
    ];
    for media in ["application/x-www-form-urlencoded", "multipart/form-data", JSON] {
        put(document, generate, "request", media, &asked);
    }
    let gone = format!("KeyError: 'Session {SESSION} expired or does not exist'");
    let full = "ValueError: Maximum length exceeded: prefix 1020 + current 5 exceeds pre-allocated maximum 1024";
    put(
        document,
        generate,
        "200",
        JSON,
        &[
            ("A reply", json!({"ok": true, "outputs": " Paris. The capital of Germany is Berlin"})),
            ("No length", failed("AssertionError: please set max_length or max_new_tokens (not both)")),
            ("Not a number", failed("ValueError: invalid literal for int() with base 10: 'ten'")),
            ("Two ways of sampling", failed("ValueError: You have to provide only top_k or top_p for sampling")),
            ("The session is gone", failed(&gone)),
            ("The prompt is too long", failed("AssertionError: Provided max_length is less than prefix size: 8 < 9")),
            ("The session is full", json!({"ok": false, "outputs": " and so", "traceback": full})),
        ],
    );
    let broke = error("body_unreadable", "the request body broke off: unexpected end of file");
    put(document, generate, "400", JSON, &[("The body broke off", broke)]);
    let slow = error("body_too_slow", "the request body did not arrive within 30 seconds");
    put(document, generate, "408", JSON, &[("Too slow", slow)]);
    let large = error("body_too_large", "the request body is longer than this server takes: at most 2097152 bytes");
    put(document, generate, "413", JSON, &[("Too large", large)]);
    put(
        document,
        open,
        "200",
        JSON,
        &[
            ("A session", json!({"ok": true, "session_id": SESSION})),
            (
                "Too many sessions",
                failed("RuntimeError: Too many opened inference sessions (max 50), please come back later"),
            ),
            ("Not a number", failed("ValueError: invalid literal for int() with base 10: ''")),
        ],
    );
    put(
        document,
        "/api/v1/close_inference_session",
        "200",
        JSON,
        &[
            ("Closed", json!({"ok": true, "session_id": SESSION})),
            ("None was named", json!({"ok": true, "session_id": null})),
        ],
    );
    for path in [open, "/api/v1/close_inference_session"] {
        put(document, path, "400", JSON, &[("Unreadable", error("bad_request", "the request cannot be read"))]);
    }
}

fn chat(document: &mut Value) {
    let path = "/v1/chat/completions";
    let messages = json!([
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]);
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
        ],
    );
    let usage = json!({"prompt_tokens": 31, "completion_tokens": 8, "total_tokens": 39,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    let said = json!({"role": "assistant", "content": "The capital of France is Paris."});
    put(
        document,
        path,
        "200",
        JSON,
        &[(
            "A reply",
            json!({"id": "chatcmpl-1f0c", "object": "chat.completion", "created": 1_750_000_000, "model": "smollm2-135m-instruct",
               "choices": [{"index": 0, "message": said, "finish_reason": "stop"}], "usage": usage}),
        )],
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
    let streams = [("A reply", json!([begin, word, end])), ("A failure on the way", json!([begin, word, broken]))];
    put(document, path, "200", "text/event-stream", &streams);
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
            "tools is not supported by this server yet",
            Some("tools"),
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

fn rest(document: &mut Value) {
    let model = json!({"id": "smollm2-135m-instruct", "default": true, "state": "ready", "missing": null, "chat": true,
        "family": "llama", "context_length": 8192, "dtype": "q4_1", "blocks": 30, "hidden": 576, "vocab": 49152});
    let sessions = json!({"max_sessions": 50, "default_length": 1024, "max_length": 8192, "idle_seconds": 300});
    put(document, "/api/v1/models", "200", JSON, &[("One model", json!({"models": [model], "sessions": sessions}))]);
    let servers = json!([{"peer": "in-process", "start": 0, "end": 30, "rps": 1000.0, "rtt_ms": 0.0, "free_tokens": 32768,
        "relayed": null, "version": null, "dtype": null, "name": null}]);
    let swarm = json!({"model": "smollm2-135m-instruct", "blocks": 30, "missing": [], "fault": null, "servers": servers,
        "route": [{"peer": "in-process", "start": 0, "end": 30}]});
    put(document, "/api/v1/swarm", "200", JSON, &[("On this machine", json!({"models": [swarm]}))]);
    let id = "smollm2-135m-instruct";
    put(document, "/health/live", "200", JSON, &[("Alive", json!({"status": "ok", "version": "0.1.0"}))]);
    let ready = json!({"code": "ready", "message": "every model can answer",
        "models": [{"model": id, "ready": true, "missing": null, "missing_blocks": []}]});
    put(document, "/health/ready", "200", JSON, &[("Ready", ready)]);
    let lacking = json!({"code": "not_ready", "message": "not every model can answer: smollm2-135m-instruct: no server hosts blocks 12, 13",
        "models": [{"model": id, "ready": false, "missing": "no server hosts blocks 12, 13", "missing_blocks": [12, 13]}]});
    put(document, "/health/ready", "503", JSON, &[("Not ready", lacking)]);
    let text = "# HELP corolla_turns_running Replies being written.\n# TYPE corolla_turns_running gauge\ncorolla_turns_running 1\n# EOF\n";
    put(document, "/metrics", "200", crate::metrics::MEDIA_TYPE, &[("Measurements", json!(text))]);
    for path in ["/api/v1/models", "/api/v1/swarm", "/health/live", "/health/ready", "/metrics"] {
        put(document, path, "400", JSON, &[("Unreadable", error("bad_request", "the request cannot be read"))]);
    }
}
