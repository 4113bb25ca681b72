//! From the JSON of a chat request to a request for the domain.

use corolla_domain::{
    generation::Sampling,
    model::{Chat, Grammar, Message, Role},
    session::{Length, Prompt, ReplyRequest},
};
use serde_json::Value;

use super::{messages, tools::Tools};
use crate::{
    error::Fault,
    fields::{Fields, kind},
    openai::{self, StreamOptions},
};

/// What is asked for.
#[derive(Debug)]
pub(super) struct ChatAsk {
    /// For the domain.
    pub(super) request: ReplyRequest,
    /// How to stream; `None` for a reply in one piece.
    pub(super) stream: Option<StreamOptions>,
    /// How many replies.
    pub(super) n: usize,
    /// Names of the tools that may be called.
    pub(super) tools: Vec<String>,
}

impl ChatAsk {
    /// Reads the request. Members that nobody knows are passed over; known ones that this server cannot honour are
    /// refused by name, since a reply without them would be a wrong one.
    pub(super) fn read(body: &Value) -> Result<Self, Fault> {
        let fields = openai::members(body)?;
        openai::refuse(&fields, &super::describe::UNSUPPORTED)?;
        let model = openai::model(&fields)?;
        let tools = Tools::read(&fields)?;
        let prompt = prompt(&fields, &tools)?;
        let max_tokens = fields.count("max_tokens")?;
        let length = fields.count("max_completion_tokens")?.or(max_tokens).map_or(Length::Rest, Length::NewTokens);
        let session = openai::session(&fields)?;
        let request = ReplyRequest {
            model,
            session,
            owner: None,
            prompt,
            length,
            sampling: Sampling { alternatives: alternatives(&fields)?, ..openai::sampling(&fields)? },
            grammar: tools.grammar(grammar(fields.get("response_format"))?)?,
            stop: openai::stop(&fields)?,
        };
        let names = tools.offered.iter().map(|tool| tool.name.clone()).collect();
        Ok(Self { request, stream: openai::stream(&fields)?, n: openai::choices(&fields)?, tools: names })
    }
}

/// The chat, and what of the reply is there already.
fn prompt(fields: &Fields<'_>, tools: &Tools) -> Result<Prompt, Fault> {
    let name = "continue_final_message";
    let mut chat = Chat { messages: messages::read(fields.get("messages"))?, tools: tools.offered.clone() };
    if !fields.flag(name)?.unwrap_or(false) {
        return Ok(Prompt::Chat(chat));
    }
    if !chat.tools.is_empty() {
        return Err(Fault::invalid(name, format!("{name} goes with no tools: a call begins with the reply")));
    }
    if fields.get("response_format").is_some_and(|format| format["type"] != "text") {
        let message = format!("{name} goes with no response_format but text: a grammar begins with the reply");
        return Err(Fault::invalid(name, message));
    }
    match chat.messages.pop() {
        Some(Message { role: Role::Assistant, content, tool_calls, .. }) if tool_calls.is_empty() => {
            Ok(Prompt::Begun(chat, content))
        }
        _ => Err(Fault::invalid(name, format!("{name} needs a message of the assistant at the end of messages"))),
    }
}

/// What the text must be.
fn grammar(value: Option<&Value>) -> Result<Option<Grammar>, Fault> {
    let name = "response_format";
    let Some(value) = value else { return Ok(None) };
    match value["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Grammar::JsonObject)),
        Some("json_schema") => {
            let none = serde_json::Map::new();
            let fields = Fields(value["json_schema"].as_object().unwrap_or(&none));
            let inside = |fault: Fault| Fault::invalid(name, format!("{name}.json_schema.{}", fault.message));
            fields.text("name").map_err(inside)?;
            fields.flag("strict").map_err(inside)?;
            match &value["json_schema"]["schema"] {
                schema @ Value::Object(_) => Ok(Some(Grammar::JsonSchema(schema.to_string()))),
                other => {
                    let message = format!("{name}.json_schema.schema must be an object, not {}", kind(other));
                    Err(Fault::invalid(name, message))
                }
            }
        }
        _ => Err(Fault::invalid(name, format!("{name}.type must be one of text, json_object, json_schema"))),
    }
}

/// `logprobs` is a switch here, and `top_logprobs` a number that needs it.
fn alternatives(fields: &Fields<'_>) -> Result<Option<usize>, Fault> {
    let count = openai::alternatives(fields, "top_logprobs")?;
    let on = fields.flag("logprobs")?.unwrap_or(false);
    match count {
        Some(count) if count > 0 && !on => {
            Err(Fault::invalid("top_logprobs", "top_logprobs needs logprobs: true beside it"))
        }
        count => Ok(on.then_some(count.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use corolla_domain::model::TokenId;
    use serde_json::json;

    use super::*;

    fn read(extra: &Value) -> Result<ChatAsk, Fault> {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatAsk::read(&body)
    }

    #[test]
    fn a_plain_request_takes_the_usual_defaults() {
        let ask = read(&json!({"model": "m", "unknown": {"a": 1}, "user": null})).unwrap();
        assert!(ask.stream.is_none());
        assert_eq!(ask.request.model, Some("m".into()));
        assert_eq!(ask.request.length, Length::Rest);
        assert_eq!(ask.request.sampling, Sampling::at_temperature(1.0));
        assert!(ask.request.stop.skip_special && !ask.request.stop.include);
        assert_eq!(ask.request.prompt, Prompt::Chat(vec![Message::new(Role::User, "Hi")].into()));
    }

    #[test]
    fn a_last_message_of_the_assistant_is_gone_on_with_where_that_is_asked_for() {
        let last = |role: &str| json!([{"role": "user", "content": "Hi"}, {"role": role, "content": "Hel"}]);
        let prompt = |extra: &Value| read(extra).map(|ask| ask.request.prompt);
        let hi = vec![Message::new(Role::User, "Hi")].into();
        let begun = prompt(&json!({"messages": last("assistant"), "continue_final_message": true})).unwrap();
        assert_eq!(begun, Prompt::Begun(hi, "Hel".to_owned()));
        let off = prompt(&json!({"messages": last("assistant"), "continue_final_message": false})).unwrap();
        assert!(matches!(off, Prompt::Chat(all) if all.messages.len() == 2));
        let tools = json!([{"type": "function", "function": {"name": "look"}}]);
        for wrong in [
            json!({"continue_final_message": true}),
            json!({"messages": last("assistant"), "continue_final_message": true, "tools": tools}),
            json!({"messages": last("assistant"), "continue_final_message": true, "response_format": {"type": "json_object"}}),
        ] {
            assert_eq!(read(&wrong).unwrap_err().param.as_deref(), Some("continue_final_message"), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for name in super::super::describe::UNSUPPORTED {
            let fault = read(&json!({name: [{"type": "x"}]})).unwrap_err();
            assert_eq!((fault.code, fault.param.as_deref()), ("unsupported_parameter", Some(name)));
            assert!(read(&json!({name: null})).is_ok(), "{name}");
        }
        let nothing = json!({"n": 1, "tools": [], "logit_bias": {}, "logprobs": false});
        assert!(read(&nothing).is_ok());
    }

    #[test]
    fn every_documented_member_is_read() {
        for (name, _) in super::super::describe::members() {
            let wrong = json!({name: [[1]]});
            let fault = read(&wrong).unwrap_err();
            let at = fault.param.unwrap();
            assert!(at.starts_with(name), "{name} is documented, but the fault is at {at}");
        }
    }

    #[test]
    fn stops_are_bounded() {
        assert_eq!(read(&json!({"stop": "x"})).unwrap().request.stop.sequences, ["x"]);
        assert_eq!(read(&json!({"stop": ["x", "y"]})).unwrap().request.stop.sequences, ["x", "y"]);
        assert!(read(&json!({"stop": ""})).is_err());
        assert!(read(&json!({"stop": vec!["x"; openai::MAX_STOPS + 1]})).is_err());
    }

    #[test]
    fn a_format_is_text_json_or_a_schema() {
        let grammar = |format: Value| read(&json!({"response_format": format})).map(|ask| ask.request.grammar);
        assert_eq!(grammar(json!({"type": "text"})).unwrap(), None);
        assert_eq!(grammar(json!({"type": "json_object"})).unwrap(), Some(Grammar::JsonObject));
        let schema =
            json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": {"type": "object"}}});
        assert_eq!(grammar(schema).unwrap(), Some(Grammar::JsonSchema("{\"type\":\"object\"}".to_owned())));
        let named = |name: Value, strict: Value| json!({"type": "json_schema", "json_schema": {"name": name, "strict": strict, "schema": {}}});
        assert!(grammar(named(Value::Null, Value::Null)).is_ok());
        for wrong in [
            json!({"type": "xml"}),
            json!({}),
            json!("json"),
            json!({"type": "json_schema", "json_schema": {}}),
            named(json!(5), json!(true)),
            named(json!("x"), json!("yes")),
        ] {
            assert_eq!(grammar(wrong).unwrap_err().param.as_deref(), Some("response_format"));
        }
    }

    #[test]
    fn choices_logprobs_and_biases_are_read() {
        let ask =
            read(&json!({"n": 3, "logprobs": true, "top_logprobs": 5, "logit_bias": {"17": -100, "5": 1.5}})).unwrap();
        assert_eq!((ask.n, ask.request.sampling.alternatives), (3, Some(5)));
        let mut bias = ask.request.sampling.bias;
        bias.sort_by_key(|(token, _)| *token);
        assert_eq!(bias, [(TokenId(5), 1.5), (TokenId(17), -100.0)]);
        assert_eq!(read(&json!({"logprobs": true})).unwrap().request.sampling.alternatives, Some(0));
        for (wrong, param) in [
            (json!({"n": 0}), "n"),
            (json!({"n": 17}), "n"),
            (json!({"n": 2, "session_id": "6f1d2c3b4a5968778695a4b3c2d1e0f0"}), "n"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"logprobs": 1}), "logprobs"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias"),
            (json!({"logit_bias": {"1": "x"}}), "logit_bias"),
        ] {
            assert_eq!(read(&wrong).unwrap_err().param.as_deref(), Some(param), "{wrong}");
        }
    }

    #[test]
    fn the_newer_name_of_the_length_wins() {
        let both = read(&json!({"max_tokens": 5, "max_completion_tokens": 7})).unwrap();
        assert_eq!(both.request.length, Length::NewTokens(7));
        assert!(read(&json!({"max_tokens": -1})).is_err());
        assert!(read(&json!({"max_tokens": 1.5})).is_err());
    }
}
