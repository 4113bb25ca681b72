//! From the JSON of a completion request to requests for the domain.

use corolla_domain::{
    generation::Sampling,
    session::{Length, Prompt, ReplyRequest},
};
use serde_json::Value;

use crate::{
    error::Fault,
    openai::{self, StreamOptions},
};

/// Prompts that one request may bring.
pub(super) const MAX_PROMPTS: usize = 64;
/// New tokens where the request does not say.
pub(super) const DEFAULT_TOKENS: usize = 16;
/// Members of OpenAI's requests that change what a reply is, and that this server does not honour.
pub(super) const UNSUPPORTED: [&str; 1] = ["suffix"];

/// What is asked for.
#[derive(Debug)]
pub(super) struct CompletionAsk {
    /// What to continue.
    pub(super) prompts: Vec<Prompt>,
    /// How, for the domain; its own prompt is nothing.
    pub(super) like: ReplyRequest,
    /// How many texts for each.
    pub(super) n: usize,
    /// Whether the prompts come before the texts.
    pub(super) echo: bool,
    /// Whether nothing is written at all.
    pub(super) nothing: bool,
    /// How to stream; `None` for texts in one piece.
    pub(super) stream: Option<StreamOptions>,
}

impl CompletionAsk {
    /// Reads the request, as that of a chat is read.
    pub(super) fn read(body: &Value) -> Result<Self, Fault> {
        let fields = openai::members(body)?;
        openai::refuse(&fields, &UNSUPPORTED)?;
        let prompts = match fields.get("prompt") {
            None => vec![Prompt::Nothing],
            Some(value) => openai::prompts("prompt", value, MAX_PROMPTS)?,
        };
        let n = openai::choices(&fields)?;
        if let Some(best_of) = fields.count("best_of")?
            && best_of != n
        {
            let message = format!("best_of must be the same as n, which is {n}: this server shows all it writes");
            return Err(openai::unsupported("best_of", message));
        }
        let echo = fields.flag("echo")?.unwrap_or(false);
        let alternatives = openai::alternatives(&fields, "logprobs")?;
        let session = openai::session(&fields)?;
        if session.is_some() && (echo || prompts.len() > 1) {
            let message = "a session takes one prompt, and without echo";
            return Err(Fault::invalid("session_id", message));
        }
        let new_tokens = fields.count("max_tokens")?.unwrap_or(DEFAULT_TOKENS);
        let nothing = new_tokens == 0;
        if nothing && !echo {
            return Err(Fault::invalid("max_tokens", "max_tokens must be at least 1 where echo is not true"));
        }
        let like = ReplyRequest {
            model: openai::model(&fields)?,
            session,
            owner: None,
            prompt: Prompt::Nothing,
            length: Length::NewTokens(new_tokens),
            sampling: Sampling { alternatives, ..openai::sampling(&fields)? },
            grammar: None,
            stop: openai::stop(&fields)?,
        };
        Ok(Self { prompts, like, n, echo, nothing, stream: openai::stream(&fields)? })
    }
}

#[cfg(test)]
mod tests {
    use corolla_domain::model::TokenId;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prompt_has_four_shapes_and_may_be_absent() {
        let tokens = |ids: &[u32]| Prompt::Tokens(ids.iter().copied().map(TokenId).collect());
        let text = |text: &str| Prompt::Text(text.to_owned());
        for (value, prompts) in [
            (json!({"prompt": "a"}), vec![text("a")]),
            (json!({"prompt": ["a", "b"]}), vec![text("a"), text("b")]),
            (json!({"prompt": [5, 6]}), vec![tokens(&[5, 6])]),
            (json!({"prompt": [[5], [6, 7]]}), vec![tokens(&[5]), tokens(&[6, 7])]),
            (json!({}), vec![Prompt::Nothing]),
        ] {
            assert_eq!(CompletionAsk::read(&value).unwrap().prompts, prompts, "{value}");
        }
    }

    #[test]
    fn what_is_wrong_or_not_supported_is_named() {
        for (body, param) in [
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": [true]}), "prompt"),
            (json!({"prompt": [-1]}), "prompt"),
            (json!({"prompt": {"a": 1}}), "prompt"),
            (json!({"prompt": vec!["a"; MAX_PROMPTS + 1]}), "prompt"),
            (json!({"suffix": "end"}), "suffix"),
            (json!({"best_of": 3}), "best_of"),
            (json!({"logprobs": 21}), "logprobs"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"top_k": 1u64 << 63}), "top_k"),
            (json!({"seed": 1u64 << 63}), "seed"),
            (json!({"top_k": -1}), "top_k"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"prompt": "a", "echo": true, "session_id": "6f1d2c3b4a5968778695a4b3c2d1e0f0"}), "session_id"),
        ] {
            assert_eq!(CompletionAsk::read(&body).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
        assert!(CompletionAsk::read(&json!({"suffix": null, "best_of": 2, "n": 2})).is_ok());
        assert!(CompletionAsk::read(&json!({"max_tokens": 0, "echo": true})).unwrap().nothing);
        assert_eq!(CompletionAsk::read(&json!({"seed": -1})).unwrap().like.sampling.seed, Some(u64::MAX));
        let tiny = CompletionAsk::read(&json!({"top_p": 1e-300})).unwrap().like.sampling.top_p;
        assert_eq!(tiny, Some(f32::MIN_POSITIVE), "it is above 0");
    }

    #[test]
    fn every_documented_member_is_read() {
        for (name, _) in super::super::describe::members() {
            let fault = CompletionAsk::read(&json!({name: [[[1]]]})).unwrap_err();
            let at = fault.param.unwrap();
            assert!(at.starts_with(name), "{name} is documented, but the fault is at {at}");
        }
    }
}
