//! `/v1/chat/completions`: chat in the shape that OpenAI's clients speak.

mod describe;
mod messages;
mod request;
mod scan;
mod shape;
mod stream;
mod tools;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use corolla_domain::{
    generation::FinishReason,
    session::{ReplyRequest, SessionService},
};
use poem::{
    Request, Response,
    http::{HeaderValue, Method},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, Registry},
    types::ToJSON,
};

use super::{
    StreamOptions,
    shape::{Stamp, finish_reason},
    stream::response,
};
use crate::{
    error::Fault,
    guard::owner,
    reply::Running,
    settings::ApiSettings,
    table::{self, Table},
};
use request::ChatAsk;
use scan::Scanner;
use shape::{Choice, Completion, Said};

/// The chat operation.
#[derive(Clone)]
pub(crate) struct Chat {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

impl Chat {
    async fn complete(&self, mut request: Request) -> Result<Response, Fault> {
        let body = request.take_body();
        let mut ask = ChatAsk::read(&super::json(&request, body, &self.settings).await?)?;
        ask.request.owner = owner(&request);
        let logprobs = ask.request.sampling.alternatives.is_some();
        let running = self.start(ask.request).await?;
        let scanner = Scanner::new(running.call_form(), ask.tools);
        match ask.stream {
            Some(StreamOptions { include_usage }) => {
                let events = stream::Events::new((running, scanner), ask.n, logprobs, include_usage);
                Ok(response(events, self.settings.keep_alive))
            }
            None => whole(running, scanner, ask.n, logprobs).await,
        }
    }

    async fn start(&self, request: ReplyRequest) -> Result<Running, Fault> {
        Running::start(&self.service, request, self.settings.reply_timeout).await.map_err(|fault| match fault.code {
            "empty_input" => fault.about("messages"),
            _ => fault,
        })
    }
}

/// The replies in one piece.
async fn whole(mut running: Running, mut scanner: Scanner, n: usize, logprobs: bool) -> Result<Response, Fault> {
    let stamp = Stamp::new("chatcmpl", running.model());
    let mut choices = Vec::with_capacity(n);
    for index in 0..n {
        if index > 0 {
            running.again(index);
        }
        let all = running.collect().await;
        let found = scanner.finish(&all.text);
        let called = !found.calls.is_empty();
        choices.push(Choice {
            index: index as u64,
            finish_reason: reason(&all.end?, called).to_owned(),
            message: Said {
                role: "assistant".to_owned(),
                content: (!called || !found.text.is_empty()).then_some(found.text),
                tool_calls: called.then(|| found.calls.into_iter().map(Into::into).collect()),
            },
            logprobs: logprobs.then(|| all.likelihoods.into()),
        });
    }
    let completion = Completion {
        id: stamp.id,
        object: "chat.completion".to_owned(),
        created: stamp.created,
        model: stamp.model,
        choices,
        usage: running.usage().into(),
        route: running.route(),
    };
    let mut response = Response::builder().content_type("application/json").body(completion.to_json_string());
    if let Ok(timing) = HeaderValue::from_str(&running.timing()) {
        response.headers_mut().insert("server-timing", timing);
    }
    Ok(response)
}

/// Why a reply ended, of which calls may be a part.
fn reason(finish: &FinishReason, called: bool) -> &'static str {
    match finish_reason(finish) {
        "stop" if called => "tool_calls",
        other => other,
    }
}

impl OpenApi for Chat {
    fn meta() -> Vec<MetaApi> {
        vec![describe::api()]
    }

    fn register(registry: &mut Registry) {
        describe::register(registry);
    }

    fn add_routes(self, table: &mut Table) {
        let handle = |chat: Self, request| async move { chat.complete(request).await };
        table::add(table, (Method::POST, describe::PATH), self, handle);
    }
}
