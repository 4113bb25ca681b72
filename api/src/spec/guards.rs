//! What the guards say, on every operation that is behind them: keys, refusals, and the header that names a request.

use serde_json::{Map, Value, json};

use super::examples::{JSON, chat_error, error};
use crate::{
    fault::{ChatFaultBody, FaultBody, is_openai},
    guard::is_open,
};

/// A refusal: status, what it means, and examples of code and sentence.
type Refusal = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const UNKNOWN: Refusal = (
    "401",
    "The server wants an API key, and none was sent or another one.",
    &[
        ("missing_api_key", "this server wants an API key: send it in a header, Authorization: Bearer KEY"),
        ("invalid_api_key", "this server does not know the API key that was sent"),
    ],
);
const FOREIGN: Refusal = (
    "403",
    "A page of another site asks, and its origin is not allowed.",
    &[(
        "origin_not_allowed",
        "the origin of the page that asks is not allowed here; the server's operator allows origins with the key \
         cors.origins",
    )],
);
const OFTEN: Refusal = (
    "429",
    "The API key has sent too much.",
    &[
        ("rate_limited", "the API key has sent its 60 requests a minute"),
        ("too_many_requests", "the API key has its 2 requests under way; one must end first"),
    ],
);
const CROWDED: Refusal = (
    "503",
    "The server has too many connections.",
    &[("too_many_connections", "the server has as many connections as it takes: 512; try again shortly")],
);

/// Puts them in.
pub(super) fn complete(document: &mut Value) {
    document["components"]["securitySchemes"]["apiKey"] = json!({
        "type": "http", "scheme": "bearer",
        "description": "One of the server's API keys. A server that listens for its own machine alone may want none.",
    });
    document["components"]["headers"]["RequestId"] = json!({
        "description": "Names the request in the server's log: what the client sent in this header, or a new name.",
        "schema": {"type": "string"},
    });
    document["security"] = json!([{}, {"apiKey": []}]);
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, item) in paths {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let unreadable = &mut operation["responses"]["400"];
            if unreadable.is_null() {
                let told = told(path, "invalid_request_error", "bad_request", "the request cannot be read");
                *unreadable = refusal(path, "The request is no HTTP that the server can read.");
                unreadable["content"][JSON]["examples"]["unreadable"] = json!({"summary": "Unreadable", "value": told});
            }
            let open = is_open(path);
            if open {
                operation["security"] = json!([]);
            }
            for refusal in if open { &[FOREIGN][..] } else { &[UNKNOWN, FOREIGN, OFTEN, CROWDED] } {
                add(operation, path, refusal);
            }
            for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
                response["headers"]["X-Request-Id"] = json!({"$ref": "#/components/headers/RequestId"});
            }
        }
    }
}

fn add(operation: &mut Value, path: &str, (status, description, examples): &Refusal) {
    let response = &mut operation["responses"][*status];
    if response.is_null() {
        *response = refusal(path, description);
    }
    if matches!(*status, "429" | "503") {
        response["headers"]["Retry-After"] =
            json!({"description": "Seconds after which to try again.", "schema": {"type": "string"}});
    }
    for (code, message) in *examples {
        let kind = if *status == "429" { "rate_limit_error" } else { "invalid_request_error" };
        let kind = if *status == "503" { "server_error" } else { kind };
        let value = told(path, kind, code, message);
        let summary = code.replace('_', " ");
        let name = code.replace('_', "-");
        response["content"][JSON]["examples"][name] = json!({"summary": summary, "value": value});
    }
}

/// A response whose body is an error, in the shape of its path.
fn refusal(path: &str, description: &str) -> Value {
    let schema = if is_openai(path) { ChatFaultBody::NAME } else { FaultBody::NAME };
    let schema = format!("#/components/schemas/{schema}");
    json!({"description": description, "content": {JSON: {"schema": {"$ref": schema}}}})
}

/// Such a body.
fn told(path: &str, kind: &str, code: &str, message: &str) -> Value {
    if is_openai(path) { chat_error(kind, code, message, None) } else { error(code, message) }
}
