//! Examples for every request, reply and error of the description. poem-openapi has no place for them, so they are
//! put into the finished document.

mod openai;

use serde_json::{Value, json};

/// Puts the examples in.
pub(super) fn complete(document: &mut Value) {
    v1(document);
    v2(document);
    openai::complete(document);
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

pub(super) const JSON: &str = "application/json";

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
}

fn v2(document: &mut Value) {
    let path = "/api/v2/generate";
    let open = json!({"type": "open_inference_session", "max_length": 1024});
    let ask = json!({"type": "generate", "inputs": "A cat sat on a mat\n", "max_new_tokens": 1, "do_sample": 1,
        "temperature": 0.6, "top_p": 0.9, "stop_sequence": "</s>", "extra_stop_sequences": ["\n\n"]});
    put(
        document,
        path,
        "101",
        JSON,
        &[
            ("Open a session", open),
            ("It is open", json!({"ok": true})),
            ("Ask for a reply", ask),
            ("A piece", json!({"ok": true, "outputs": " and", "stop": false, "token_count": 1})),
            ("The last piece", json!({"ok": true, "outputs": ".</s>", "stop": true, "token_count": 2})),
            (
                "A failure",
                failed("ValueError: extra_stop_sequences require stop_sequence length to be exactly 1 token"),
            ),
        ],
    );
    let plain = "this path is a WebSocket: ask for an upgrade, and see /docs for its frames";
    put(document, path, "400", JSON, &[("No WebSocket", error("websocket_expected", plain))]);
    let full = "Too many opened inference sessions (max 50), please come back later";
    put(document, path, "429", JSON, &[("Full", error("too_many_sessions", full))]);
}

fn rest(document: &mut Value) {
    let model = json!({"id": "smollm2-135m-instruct", "default": true, "state": "ready", "missing": null, "chat": true,
        "family": "llama", "context_length": 8192, "dtype": "q4_1", "blocks": 30, "hidden": 576, "vocab": 49152});
    let sessions = json!({"max_sessions": 50, "default_length": 1024, "max_length": 8192, "idle_seconds": 300});
    put(document, "/api/v1/models", "200", JSON, &[("One model", json!({"models": [model], "sessions": sessions}))]);
    let id = "smollm2-135m-instruct";
    let card = json!({"id": id, "object": "model", "created": 1_750_000_000, "owned_by": "corolla"});
    put(document, "/v1/models", "200", JSON, &[("One model", json!({"object": "list", "data": [card]}))]);
    put(document, "/v1/models/{model}", "200", JSON, &[("The model", card)]);
    let unknown = chat_error("invalid_request_error", "model_not_found", "there is no model x", Some("model"));
    put(document, "/v1/models/{model}", "404", JSON, &[("Unknown", unknown)]);
    let servers = json!([{"peer": "in-process", "start": 0, "end": 30, "rps": 1000.0, "rtt_ms": 0.0, "free_tokens": 32768,
        "relayed": null, "version": null, "dtype": null, "name": null}]);
    let swarm = json!({"model": "smollm2-135m-instruct", "blocks": 30, "missing": [], "fault": null, "join": null,
        "file": "SmolLM2-135M-Instruct.Q4_1.gguf", "servers": servers,
        "route": [{"peer": "in-process", "start": 0, "end": 30}]});
    put(document, "/api/v1/swarm", "200", JSON, &[("On this machine", json!({"models": [swarm]}))]);
    put(document, "/health/live", "200", JSON, &[("Alive", json!({"status": "ok", "version": "0.1.0"}))]);
    let ready = json!({"code": "ready", "message": "every model can answer",
        "models": [{"model": id, "ready": true, "missing": null, "missing_blocks": []}]});
    put(document, "/health/ready", "200", JSON, &[("Ready", ready)]);
    let lacking = json!({"code": "not_ready", "message": "not every model can answer: smollm2-135m-instruct: no server hosts blocks 12, 13",
        "models": [{"model": id, "ready": false, "missing": "no server hosts blocks 12, 13", "missing_blocks": [12, 13]}]});
    put(document, "/health/ready", "503", JSON, &[("Not ready", lacking)]);
    let text = "# HELP corolla_turns_running Replies being written.\n# TYPE corolla_turns_running gauge\ncorolla_turns_running 1\n# EOF\n";
    put(document, "/metrics", "200", crate::metrics::MEDIA_TYPE, &[("Measurements", json!(text))]);
}
