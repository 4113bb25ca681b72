//! The frames of `/api/v2/generate`, in and out.

use corolla_domain::{
    generation::StopRule,
    model::ModelId,
    session::{Length, ReplyRequest},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    error::Fault,
    fields::kind,
    v1::{
        ask::{Ask, session_id},
        params::{Params, to_count},
        wire::{self, Style},
    },
};

/// Further stop texts that one request may bring.
const MAX_STOPS: usize = 16;

/// The first message: which session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// One of its own.
    New {
        /// Over which model.
        model: Option<ModelId>,
        /// Positions it can hold.
        max_length: usize,
    },
    /// One that is there.
    Known(Uuid),
}

impl Open {
    pub(super) fn read(text: &str) -> Result<Self, Fault> {
        let members = members(text, "open_inference_session")?;
        let params = Params::from_members(members);
        if let Some(given) = params.text("session_id")? {
            return Ok(Self::Known(session_id(given)?));
        }
        let max_length = params.int("max_length")?.ok_or_else(|| missing("max_length"))?;
        let model = params.text("model")?.map(ModelId::from);
        Ok(Self::New { model, max_length: to_count("max_length", max_length)? })
    }
}

/// A request for a reply.
#[derive(Debug)]
pub(super) struct Generate {
    /// For the domain.
    pub(super) request: ReplyRequest,
    /// Send a frame after so many tokens; `None` for one frame at the end.
    pub(super) frame: Option<usize>,
}

impl Generate {
    /// Reads the parameters of `/api/v1/generate` and two of its own; the session is that of the socket.
    pub(super) fn read(text: &str, session: Uuid) -> Result<Self, Fault> {
        let mut members = members(text, "generate")?;
        members.remove("session_id");
        members.remove("model");
        let endings = texts(members.remove("extra_stop_sequences"))?;
        let mut request = Ask::read(&Params::from_members(members))?.request;
        request.session = Some(session);
        let stops = !request.stop.sequences.is_empty();
        let mut frame = None;
        if stops {
            // The stop sequence alone ends such a reply, and a frame comes every max_new_tokens.
            if let Length::NewTokens(count) = request.length {
                frame = Some(count.max(1));
                request.length = Length::Rest;
            }
        }
        request.stop = StopRule { endings, ignore_eos: stops, ..request.stop };
        Ok(Self { request, frame })
    }
}

/// The members of a message of that type.
fn members(text: &str, expected: &str) -> Result<Map<String, Value>, Fault> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let fault = Fault::invalid("frame", format!("the frame is not valid JSON: {error}"));
        Fault { legacy: "JSONDecodeError", ..fault }
    })?;
    let Value::Object(members) = value else {
        let message = format!("the frame must be a JSON object, not {}", kind(&value));
        return Err(Fault { legacy: "TypeError", ..Fault::invalid("frame", message) });
    };
    match members.get("type") {
        Some(Value::String(given)) if given == expected => Ok(members),
        None => Err(missing("type")),
        Some(_) => {
            let message = format!("the type of this frame must be {expected}");
            Err(Fault { legacy: "AssertionError", ..Fault::invalid("type", message) })
        }
    }
}

fn missing(name: &str) -> Fault {
    Fault { legacy: "KeyError", ..Fault::invalid(name, name) }
}

/// The further stop texts. Absent and null ask for nothing.
fn texts(value: Option<Value>) -> Result<Option<Vec<String>>, Fault> {
    let name = "extra_stop_sequences";
    let wrong = |message: String| Err(Fault::invalid(name, message));
    let list = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => return wrong(format!("{name} must be a list of strings, not {}", kind(&other))),
    };
    if list.len() > MAX_STOPS {
        return wrong(format!("{name} must hold at most {MAX_STOPS} strings, got {}", list.len()));
    }
    let mut texts = Vec::with_capacity(list.len());
    for item in list {
        match item {
            Value::String(text) if !text.is_empty() => texts.push(text),
            _ => return wrong(format!("{name} must hold strings that are not empty")),
        }
    }
    Ok(Some(texts))
}

/// A piece of a reply.
pub(super) struct Frame<'a> {
    pub(super) outputs: &'a str,
    /// Whether the reply is over.
    pub(super) stop: bool,
    /// Tokens behind `outputs`.
    pub(super) token_count: usize,
    /// JSON of the reply's route.
    pub(super) route: Option<&'a str>,
}

impl Frame<'_> {
    pub(super) fn write(&self) -> String {
        let count = self.token_count.to_string();
        let mut fields = vec![("ok", wire::Value::Bool(true)), ("outputs", wire::Value::Text(self.outputs))];
        fields.extend(self.route.map(|route| ("route", wire::Value::Json(route))));
        fields.push(("stop", wire::Value::Bool(self.stop)));
        fields.push(("token_count", wire::Value::Json(&count)));
        wire::write(&fields, Style::Spaced)
    }
}

/// The session is open.
pub(super) fn ready() -> String {
    wire::write(&[("ok", wire::Value::Bool(true))], Style::Spaced)
}

/// What went wrong, and the text before it that has not been sent.
pub(super) fn failure(fault: &Fault, outputs: Option<&str>) -> String {
    wire::failed(fault, outputs, Style::Spaced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::wire::traceback;

    #[test]
    fn frames_are_spaced_as_python_writes_them() {
        assert_eq!(ready(), r#"{"ok": true}"#);
        let frame = Frame { outputs: "é\n", stop: false, token_count: 2, route: None };
        assert_eq!(frame.write(), r#"{"ok": true, "outputs": "\u00e9\n", "stop": false, "token_count": 2}"#);
        assert_eq!(failure(&missing("type"), None), r#"{"ok": false, "traceback": "KeyError: 'type'"}"#);
    }

    #[test]
    fn the_first_message_opens_a_session() {
        let new = Open::New { model: Some("m".into()), max_length: 64 };
        assert_eq!(Open::read(r#"{"type":"open_inference_session","max_length":64,"model":"m","x":1}"#).unwrap(), new);
        for (text, expected) in [
            (r#"{"type":"open_inference_session"}"#, "KeyError: 'max_length'"),
            ("{", "JSONDecodeError: the frame is not valid JSON"),
            ("[]", "TypeError: the frame must be a JSON object, not a list"),
            (r#"{"max_length":1}"#, "KeyError: 'type'"),
            (r#"{"type":"generate"}"#, "AssertionError: the type of this frame must be open_inference_session"),
            (r#"{"type":"open_inference_session","max_length":-1}"#, "ValueError: "),
            (r#"{"type":"open_inference_session","session_id":"x"}"#, "KeyError: 'Session x expired"),
        ] {
            let told = traceback(&Open::read(text).unwrap_err());
            assert!(told.starts_with(expected), "{text}: {told}");
        }
    }

    #[test]
    fn a_stop_sequence_makes_frames_of_the_length() {
        let read = |text: &str| Generate::read(text, Uuid::nil());
        let plain = read(r#"{"type":"generate","inputs":"a","max_new_tokens":5,"session_id":"other"}"#).unwrap();
        assert_eq!((plain.frame, plain.request.length), (None, Length::NewTokens(5)));
        assert_eq!(plain.request.session, Some(Uuid::nil()));
        assert!(!plain.request.stop.ignore_eos);
        let framed = r#"{"type":"generate","max_new_tokens":2,"stop_sequence":"</s>","extra_stop_sequences":["\n\n"]}"#;
        let framed = read(framed).unwrap();
        assert_eq!((framed.frame, framed.request.length), (Some(2), Length::Rest));
        assert_eq!(framed.request.stop.endings, Some(vec!["\n\n".to_owned()]));
        assert!(framed.request.stop.ignore_eos && framed.request.stop.include);
        for wrong in [r#""x""#, "[1]", r#"[""]"#] {
            let text = format!(r#"{{"type":"generate","max_new_tokens":2,"extra_stop_sequences":{wrong}}}"#);
            assert_eq!(read(&text).unwrap_err().param.as_deref(), Some("extra_stop_sequences"));
        }
    }
}
