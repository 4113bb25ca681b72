//! The messages of a chat request.

use corolla_domain::model::{Answered, Message, Role, ToolCall};
use serde_json::Value;

use super::tools::{self, MAX_TOOLS};
use crate::{
    error::Fault,
    fields::{Fields, kind},
    openai::unsupported,
};

/// Longest id of a call.
const MAX_ID: usize = 256;

/// What was said, oldest first.
pub(super) fn read(value: Option<&Value>) -> Result<Vec<Message>, Fault> {
    let list = match value {
        None => return Err(Fault::invalid("messages", "messages is missing")),
        Some(Value::Array(list)) if list.is_empty() => {
            return Err(Fault::invalid("messages", "messages must not be empty"));
        }
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(Fault::invalid("messages", format!("messages must be a list, not {}", kind(other))));
        }
    };
    let mut messages: Vec<Message> = Vec::with_capacity(list.len());
    for (index, message) in list.iter().enumerate() {
        let mut message = one(&format!("messages[{index}]"), message)?;
        if let Some(answers) = message.answers.as_mut().filter(|answers| answers.name.is_none()) {
            let mut calls = messages.iter().rev().flat_map(|earlier| &earlier.tool_calls);
            answers.name = calls.find(|call| call.id == answers.id).map(|call| call.name.clone());
        }
        messages.push(message);
    }
    Ok(messages)
}

fn one(at: &str, value: &Value) -> Result<Message, Fault> {
    let Value::Object(members) = value else {
        return Err(Fault::invalid(at, format!("{at} must be an object, not {}", kind(value))));
    };
    let role_at = format!("{at}.role");
    let role = match members.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool") => Role::Tool,
        Some("function") => {
            let message = "messages of the role function are not supported by this server, those of the role tool are";
            return Err(unsupported(&role_at, message.to_owned()));
        }
        _ => {
            let message = format!("{role_at} must be one of system, developer, user, assistant, tool");
            return Err(Fault::invalid(&role_at, message));
        }
    };
    for name in ["function_call", "audio"] {
        if members.get(name).is_some_and(|value| !value.is_null()) {
            let at = format!("{at}.{name}");
            return Err(unsupported(&at, format!("{at} is not supported by this server yet")));
        }
    }
    let fields = Fields(members);
    let tool_calls = calls(&format!("{at}.tool_calls"), fields.get("tool_calls"), role)?;
    let content = content(&format!("{at}.content"), members.get("content"), role)?;
    let answers = answered(at, &fields, role)?;
    Ok(Message { role, content, tool_calls, answers })
}

/// A text, or a list of parts that are all texts.
fn content(at: &str, value: Option<&Value>, role: Role) -> Result<String, Fault> {
    match value {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) if role == Role::Assistant => Ok(String::new()),
        Some(Value::Array(parts)) => {
            let part = |(index, part): (usize, &Value)| {
                let at = format!("{at}[{index}]");
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => Ok(text.to_owned()),
                    (Some(kind), _) if kind != "text" => Err(unsupported(
                        &at,
                        format!("{at}: parts of the type {kind:.40} are not supported, only text"),
                    )),
                    _ => Err(Fault::invalid(&at, format!("{at} must be {{\"type\":\"text\",\"text\":\"...\"}}"))),
                }
            };
            parts.iter().enumerate().map(part).collect()
        }
        Some(other) => {
            Err(Fault::invalid(at, format!("{at} must be a string or a list of text parts, not {}", kind(other))))
        }
        None => Err(Fault::invalid(at, format!("{at} is missing"))),
    }
}

fn calls(at: &str, value: Option<&Value>, role: Role) -> Result<Vec<ToolCall>, Fault> {
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.is_empty() => return Ok(Vec::new()),
        Some(_) if role != Role::Assistant => {
            return Err(Fault::invalid(at, format!("{at}: only the assistant calls tools")));
        }
        Some(Value::Array(list)) if list.len() <= MAX_TOOLS => list,
        Some(Value::Array(list)) => {
            let message = format!("{at} must hold at most {MAX_TOOLS} calls, got {}", list.len());
            return Err(Fault::invalid(at, message));
        }
        Some(other) => return Err(Fault::invalid(at, format!("{at} must be a list, not {}", kind(other)))),
    };
    list.iter().enumerate().map(|(index, value)| call(&format!("{at}[{index}]"), value)).collect()
}

fn call(at: &str, value: &Value) -> Result<ToolCall, Fault> {
    tools::must_be_function(at, value)?;
    let function = &value["function"];
    let name = tools::name(&format!("{at}.function.name"), &function["name"])?;
    let id = id(&format!("{at}.id"), &value["id"])?;
    let arguments_at = format!("{at}.function.arguments");
    let Some(arguments) = function["arguments"].as_str() else {
        let message = format!("{arguments_at} must be a string of JSON, not {}", kind(&function["arguments"]));
        return Err(Fault::invalid(&arguments_at, message));
    };
    Ok(ToolCall { id, name, arguments: arguments.to_owned() })
}

fn answered(at: &str, fields: &Fields<'_>, role: Role) -> Result<Option<Answered>, Fault> {
    let given = fields.get("tool_call_id").or((role == Role::Tool).then_some(&Value::Null));
    let given = given.map(|value| id(&format!("{at}.tool_call_id"), value)).transpose()?;
    let Some(id) = given.filter(|_| role == Role::Tool) else { return Ok(None) };
    let name = fields.get("name").map(|name| tools::name(&format!("{at}.name"), name)).transpose()?;
    Ok(Some(Answered { id, name }))
}

fn id(at: &str, value: &Value) -> Result<String, Fault> {
    match value.as_str() {
        Some(id) if (1..=MAX_ID).contains(&id.len()) => Ok(id.to_owned()),
        Some(id) => {
            Err(Fault::invalid(at, format!("{at} must have at least 1 and at most {MAX_ID} bytes, got {}", id.len())))
        }
        None => Err(Fault::invalid(at, format!("{at} must be a string, not {}", kind(value)))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn content_may_be_text_parts() {
        let parts = json!([
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null},
        ]);
        let messages = read(Some(&parts)).unwrap();
        assert_eq!(messages, [Message::new(Role::System, "ab"), Message::new(Role::Assistant, "")]);
    }

    #[test]
    fn calls_and_what_they_returned_are_read() {
        let function = json!({"name": "weather", "arguments": "{\"city\": \"Rome\"}"});
        let call = json!({"id": "call_1", "type": "function", "function": function});
        let messages = json!([
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "warm"},
            {"role": "tool", "tool_call_id": "call_2", "content": "late", "name": "now"},
        ]);
        let messages = read(Some(&messages)).unwrap();
        let (id, name, arguments) = ("call_1".to_owned(), "weather".to_owned(), "{\"city\": \"Rome\"}".to_owned());
        assert_eq!(messages[0].tool_calls, [ToolCall { id: id.clone(), name: name.clone(), arguments }]);
        assert_eq!(messages[1].answers, Some(Answered { id, name: Some(name) }), "the call before it has the name");
        assert_eq!(messages[2].answers.as_ref().unwrap().name.as_deref(), Some("now"));
    }

    #[test]
    fn faults_name_the_member() {
        let call = |extra: Value| {
            let mut call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
            for (name, value) in extra.as_object().unwrap() {
                call[name] = value.clone();
            }
            json!({"role": "assistant", "tool_calls": [call]})
        };
        for (message, at) in [
            (json!({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "tool", "tool_call_id": "x".repeat(257), "content": "x"}), "messages[0].tool_call_id"),
            (json!({"role": "tool", "tool_call_id": "1", "content": null}), "messages[0].content"),
            (json!({"role": "user", "content": "x", "tool_call_id": 5}), "messages[0].tool_call_id"),
            (json!({"role": "user", "content": "x", "tool_calls": [1]}), "messages[0].tool_calls"),
            (json!({"role": "assistant", "tool_calls": {"a": 1}}), "messages[0].tool_calls"),
            (json!({"role": "assistant", "tool_calls": [1]}), "messages[0].tool_calls[0]"),
            (call(json!({"type": "custom"})), "messages[0].tool_calls[0].type"),
            (call(json!({"id": null})), "messages[0].tool_calls[0].id"),
            (call(json!({"function": {"name": "a b", "arguments": ""}})), "messages[0].tool_calls[0].function.name"),
            (call(json!({"function": {"name": "f", "arguments": {}}})), "messages[0].tool_calls[0].function.arguments"),
            (json!({"role": "function", "name": "f", "content": "x"}), "messages[0].role"),
            (json!({"role": "assistant", "function_call": {}}), "messages[0].function_call"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0]"),
        ] {
            let fault = read(Some(&json!([message]))).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(at), "{message}");
        }
    }
}
