//! From the parameters of `/api/v1/generate` to a request for the domain.

use corolla_domain::{
    generation::{Sampling, StopRule},
    model::ModelId,
    session::{Length, Prompt, ReplyError, ReplyRequest},
};
use uuid::Uuid;

use super::{
    params::{Params, to_count},
    python::echo,
};
use crate::error::Fault;

/// What is asked of `/api/v1/generate`.
#[derive(Debug)]
pub(crate) struct Ask {
    /// For the domain.
    pub(crate) request: ReplyRequest,
    /// The session's name as the client wrote it.
    pub(crate) session: Option<String>,
}

impl Ask {
    /// Converts every parameter in the documented order, then checks what needs more than one of them.
    pub(crate) fn read(params: &Params) -> Result<Self, Fault> {
        let inputs = params.text("inputs")?;
        let do_sample = params.flag("do_sample")?.unwrap_or(false);
        let temperature = params.float("temperature")?.unwrap_or(1.0);
        let top_k = params.int("top_k")?;
        let top_p = params.float("top_p")?;
        let max_length = params.int("max_length")?;
        let max_new_tokens = params.int("max_new_tokens")?;
        let session = params.text("session_id")?;
        let model = params.text("model")?;
        let repetition_penalty = params.float("repetition_penalty")?.unwrap_or(1.0);
        let seed = params.int("seed")?;
        let stop = params.text("stop_sequence")?;
        let min_p = params.float("min_p")?;

        let session_id = session.map(session_id).transpose()?;
        let length = match (max_length, max_new_tokens) {
            (Some(total), None) => Length::Total(to_count("max_length", total)?),
            (None, Some(new)) => Length::NewTokens(to_count("max_new_tokens", new)?),
            _ => return Err(assertion("please set max_length or max_new_tokens (not both)")),
        };
        if stop == Some("") {
            return Err(Fault::invalid("stop_sequence", "stop_sequence must not be empty"));
        }
        let mut sampling = Sampling { repetition_penalty, ..Sampling::greedy() };
        if do_sample {
            if top_k.is_some() && top_p.is_some() {
                return Err(Fault::invalid("top_k", "You have to provide only top_k or top_p for sampling"));
            }
            sampling.temperature = temperature;
            sampling.top_k = top_k.map(|k| to_count("top_k", k)).transpose()?;
            sampling.top_p = top_p;
            sampling.min_p = min_p;
            sampling.seed = seed.map(i64::cast_unsigned);
        }
        Ok(Self {
            request: ReplyRequest {
                model: model.map(ModelId::from),
                session: session_id,
                owner: None,
                prompt: inputs.map_or(Prompt::Nothing, |text| Prompt::Text(text.to_owned())),
                length,
                sampling,
                grammar: None,
                stop: StopRule {
                    sequences: stop.map(str::to_owned).into_iter().collect(),
                    endings: None,
                    include: true,
                    ignore_eos: false,
                    skip_special: false,
                },
            },
            session: session.map(str::to_owned),
        })
    }
}

/// The id that a client wrote, with or without dashes. What cannot be an id is a session that does not exist.
pub(crate) fn session_id(text: &str) -> Result<Uuid, Fault> {
    Uuid::try_parse(text).map_err(|_| ReplyError::SessionGone(echo(text)).into())
}

fn assertion(message: &str) -> Fault {
    Fault { legacy: "AssertionError", ..Fault::invalid("max_new_tokens", message) }
}
