//! `/v1`: the API that OpenAI's clients speak. Here is what reading their requests has in common.

pub(crate) mod chat;
pub(crate) mod completions;
mod describe;
pub(crate) mod embeddings;
mod likelihood;
pub(crate) mod models;
mod shape;
mod stream;

use corolla_domain::{
    generation::{MAX_ALTERNATIVES, Sampling, StopRule},
    model::{ModelId, TokenId},
    session::Prompt,
};
use poem::{Body, Request, http::StatusCode};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    body,
    error::Fault,
    fields::{Fields, kind},
    settings::ApiSettings,
    v1,
};

/// Stop texts that one request may bring.
const MAX_STOPS: usize = 16;
/// Replies to one prompt.
const MAX_CHOICES: usize = 16;

/// How to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamOptions {
    /// Whether a last chunk carries the counts.
    include_usage: bool,
}

/// The JSON of a request's body.
async fn json(request: &Request, body: Body, settings: &ApiSettings) -> Result<Value, Fault> {
    let media = body::media_type(request.headers());
    if media.as_deref() != Some("application/json") {
        let media = media.map_or("no Content-Type was given".to_owned(), |media| format!("this is {media:.60}"));
        let message = format!("the body must be application/json; {media}");
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let bytes = body::read(request.headers(), body, settings).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Fault::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid JSON: {error}"))
    })
}

/// The members of a request's body.
fn members(body: &Value) -> Result<Fields<'_>, Fault> {
    match body {
        Value::Object(members) => Ok(Fields(members)),
        other => Err(Fault::invalid("body", format!("the body must be a JSON object, not {}", kind(other)))),
    }
}

/// Something that the API has and this server does not.
fn unsupported(param: &str, message: String) -> Fault {
    Fault::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).about(param)
}

/// Refuses members that change what a reply is, and that this server does not honour, unless their value asks for
/// nothing.
fn refuse(fields: &Fields<'_>, names: &[&str]) -> Result<(), Fault> {
    let harmless = |name: &str, value: &Value| match name {
        "function_call" => matches!(value.as_str(), Some("none" | "auto")),
        "modalities" => value.as_array().is_some_and(|all| all.iter().all(|one| one == "text")),
        "suffix" => value == "",
        "web_search_options" => false, // an empty object asks for a search, too
        _ => {
            value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty)
                || *value == Value::Bool(false)
        }
    };
    for name in names {
        if let Some(value) = fields.get(name)
            && !harmless(name, value)
        {
            return Err(unsupported(name, format!("{name} is not supported by this server yet")));
        }
    }
    Ok(())
}

/// Which model, where it is said; an empty name says nothing.
fn model(fields: &Fields<'_>) -> Result<Option<ModelId>, Fault> {
    Ok(fields.text("model")?.filter(|model| !model.is_empty()).map(ModelId::from))
}

/// Which session, where it is in one.
fn session(fields: &Fields<'_>) -> Result<Option<Uuid>, Fault> {
    fields.text("session_id")?.map(v1::session_id).transpose()
}

/// How tokens are chosen; `logprobs` has a shape of its own in each operation.
fn sampling(fields: &Fields<'_>) -> Result<Sampling, Fault> {
    Ok(Sampling {
        temperature: fields.number("temperature")?.unwrap_or(1.0),
        top_k: fields.count("top_k")?,
        top_p: fields.number("top_p")?,
        min_p: fields.number("min_p")?,
        repetition_penalty: fields.number("repetition_penalty")?.unwrap_or(1.0),
        presence_penalty: fields.number("presence_penalty")?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty")?.unwrap_or(0.0),
        bias: bias(fields.get("logit_bias"))?,
        alternatives: None,
        seed: fields.bits("seed")?,
    })
}

/// A number of alternatives.
fn alternatives(fields: &Fields<'_>, name: &str) -> Result<Option<usize>, Fault> {
    let count = fields.count(name)?;
    match count {
        Some(count) if count > MAX_ALTERNATIVES => {
            Err(Fault::invalid(name, format!("{name} must be at most {MAX_ALTERNATIVES}, got {count}")))
        }
        count => Ok(count),
    }
}

/// How many replies to one prompt.
fn choices(fields: &Fields<'_>) -> Result<usize, Fault> {
    let n = fields.count("n")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&n) {
        return Err(Fault::invalid("n", format!("n must be at least 1 and at most {MAX_CHOICES}, got {n}")));
    }
    if n > 1 && fields.get("session_id").is_some() {
        return Err(Fault::invalid("n", "n must be 1 in a session: it can go on from one reply only"));
    }
    Ok(n)
}

/// Whether and how to stream.
fn stream(fields: &Fields<'_>) -> Result<Option<StreamOptions>, Fault> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = match fields.get("stream_options") {
        None => false,
        Some(Value::Object(options)) => Fields(options).flag("include_usage")?.unwrap_or(false),
        Some(other) => {
            let message = format!("stream_options must be an object, not {}", kind(other));
            return Err(Fault::invalid("stream_options", message));
        }
    };
    Ok(stream.then_some(StreamOptions { include_usage }))
}

/// Token ids with what is added to their scores.
fn bias(value: Option<&Value>) -> Result<Vec<(TokenId, f32)>, Fault> {
    let wrong = |message: String| Fault::invalid("logit_bias", message);
    let members = match value {
        None => return Ok(Vec::new()),
        Some(Value::Object(members)) => members,
        Some(other) => return Err(wrong(format!("logit_bias must be an object, not {}", kind(other)))),
    };
    let pair = |(name, value): (&String, &Value)| {
        let token = name.parse().map(TokenId);
        let token = token.map_err(|_| wrong(format!("logit_bias names tokens by their id, not {name:.40}")))?;
        let bias = value.as_f64().ok_or_else(|| wrong(format!("logit_bias must hold numbers, not {}", kind(value))))?;
        #[allow(clippy::cast_possible_truncation, reason = "sampling computes in f32")]
        Ok((token, bias as f32))
    };
    members.iter().map(pair).collect()
}

/// What ends a reply beside its length. Special tokens are no part of a text here, nor are the stop texts.
fn stop(fields: &Fields<'_>) -> Result<StopRule, Fault> {
    Ok(StopRule { sequences: stops(fields.get("stop"))?, skip_special: true, ..StopRule::default() })
}

/// Texts that end a reply.
fn stops(value: Option<&Value>) -> Result<Vec<String>, Fault> {
    let wrong = |message: String| Fault::invalid("stop", message);
    let all = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(texts)) => texts
            .iter()
            .map(|text| text.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| wrong("stop must hold strings only".to_owned()))?,
        Some(other) => return Err(wrong(format!("stop must be a string or a list of strings, not {}", kind(other)))),
    };
    if all.len() > MAX_STOPS {
        return Err(wrong(format!("stop must hold at most {MAX_STOPS} strings, got {}", all.len())));
    }
    if all.iter().any(String::is_empty) {
        return Err(wrong("stop must not hold an empty string".to_owned()));
    }
    Ok(all)
}

/// One text, several, the tokens of one, or those of several; `most` at most.
fn prompts(name: &str, value: &Value, most: usize) -> Result<Vec<Prompt>, Fault> {
    let shapes = "a string, a list of strings, a list of tokens, or a list of lists of tokens";
    let wrong = |value: &Value| Fault::invalid(name, format!("{name} must be {shapes}; found {}", kind(value)));
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) => list,
        other => return Err(wrong(other)),
    };
    let tokens = |list: &[Value]| -> Result<Prompt, Fault> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).map(TokenId);
        let ids = list.iter().map(|value| id(value).ok_or_else(|| wrong(value)));
        Ok(Prompt::Tokens(ids.collect::<Result<_, _>>()?))
    };
    if list.is_empty() {
        return Err(Fault::invalid(name, format!("{name} must not be empty")));
    }
    if list.iter().all(Value::is_number) {
        return Ok(vec![tokens(list)?]);
    }
    if list.len() > most {
        return Err(Fault::invalid(name, format!("{name} must hold at most {most} texts, got {}", list.len())));
    }
    let prompt = |value: &Value| match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(list) => tokens(list),
        other => Err(wrong(other)),
    };
    list.iter().map(prompt).collect()
}
