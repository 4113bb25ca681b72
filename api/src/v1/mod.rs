//! `/api/v1`: the form endpoints that the first clients speak. Requests are read by hand, since every handled outcome
//! is HTTP 200 and parameters may stand in the query, a form, or a JSON object.

pub(crate) mod ask;
mod describe;
pub(crate) mod params;
mod python;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use corolla_domain::{
    generation::FinishReason,
    model::ModelId,
    session::{ReplyError, SessionService},
};
use poem::{
    Request, Response,
    http::{HeaderValue, Method},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, Registry},
    types::ToJSON as _,
};

pub(crate) use ask::session_id;
pub(crate) use describe::generate_members;

use crate::{
    error::Fault,
    guard::owner,
    reply::Running,
    settings::ApiSettings,
    table::{self, Table},
};
use ask::Ask;
use params::{Params, to_count};
use wire::{Value, answer, failure};

/// The three operations of `/api/v1`.
#[derive(Clone)]
pub(crate) struct V1 {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

impl V1 {
    async fn generate(&self, mut request: Request) -> poem::Result<Response> {
        let body = request.take_body();
        let params = Params::from_request(&request, body, &self.settings).await?;
        Ok(match params.and_then(|params| Ask::read(&params)) {
            Ok(mut ask) => {
                ask.request.owner = owner(&request);
                self.reply(ask).await
            }
            Err(fault) => failure(&fault, None),
        })
    }

    async fn reply(&self, ask: Ask) -> Response {
        let mut running = match Running::start(&self.service, ask.request, self.settings.reply_timeout).await {
            Ok(running) => running,
            Err(fault) => return failure(&named(fault, ask.session.as_deref()), None),
        };
        let all = running.collect().await;
        let mut response = match all.end {
            Ok(FinishReason::SessionFull { position, needed, max_length }) => {
                let full = ReplyError::LengthExceeded { position, needed, max_length };
                failure(&full.into(), Some(&all.text))
            }
            Ok(FinishReason::EndOfText(_) | FinishReason::StopSequence(_) | FinishReason::Length) => {
                let route = running.route().map(|route| route.to_json_string());
                let mut fields = vec![("ok", Value::Bool(true)), ("outputs", Value::Text(&all.text))];
                fields.extend(route.as_deref().map(|route| ("route", Value::Json(route))));
                answer(&fields)
            }
            Err(fault) => {
                let produced = running.usage().new_tokens > 0;
                failure(&named(fault, ask.session.as_deref()), produced.then_some(&all.text))
            }
        };
        if let Ok(timing) = HeaderValue::from_str(&running.timing()) {
            response.headers_mut().insert("server-timing", timing);
        }
        response
    }

    async fn open(&self, request: Request) -> Response {
        let read = |params: &Params| {
            let max_length = params.int("max_length")?.map(|length| to_count("max_length", length)).transpose()?;
            Ok::<_, Fault>((params.text("model")?.map(ModelId::from), max_length))
        };
        let opened = match read(&Params::from_query(&request)) {
            Ok((model, max_length)) => self.service.open(model, max_length).await.map_err(Fault::from),
            Err(fault) => Err(fault),
        };
        match opened {
            Ok(id) => {
                let id = id.simple().to_string();
                answer(&[("ok", Value::Bool(true)), ("session_id", Value::Text(&id))])
            }
            Err(fault) => failure(&fault, None),
        }
    }

    async fn close(&self, request: Request) -> Response {
        let params = Params::from_query(&request);
        let given = match params.text("session_id") {
            Ok(given) => given,
            Err(fault) => return failure(&fault, None),
        };
        if let Some(id) = given.and_then(|text| session_id(text).ok())
            && let Err(error) = self.service.close(id).await
        {
            tracing::warn!(%error, "a session could not be closed; it will expire");
        }
        answer(&[("ok", Value::Bool(true)), ("session_id", given.map_or(Value::Null, Value::Text))])
    }
}

/// A lost session is named as the client named it.
fn named(mut fault: Fault, session: Option<&str>) -> Fault {
    if let Some(given) = session
        && fault.code == "session_gone"
    {
        fault.message = ReplyError::SessionGone(given.to_owned()).to_string();
    }
    fault
}

impl OpenApi for V1 {
    fn meta() -> Vec<MetaApi> {
        vec![describe::api()]
    }

    fn register(registry: &mut Registry) {
        describe::register(registry);
    }

    fn add_routes(self, table: &mut Table) {
        let generate = |api: Self, request| async move { api.generate(request).await };
        let open = |api: Self, request| async move { api.open(request).await };
        let close = |api: Self, request| async move { api.close(request).await };
        table::add(table, (Method::POST, describe::GENERATE), self.clone(), generate);
        table::add(table, (Method::GET, describe::OPEN), self.clone(), open);
        table::add(table, (Method::GET, describe::CLOSE), self, close);
    }
}
