//! `/v1/chat/completions`: chat in the shape that OpenAI's clients speak.

mod describe;
pub(crate) mod fields;
mod request;
mod shape;
mod stream;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use corolla_domain::{
    generation::FinishReason,
    session::{ReplyRequest, SessionService, Usage},
};
use poem::{
    Body, EndpointExt, Request, Response,
    endpoint::{BoxEndpoint, make},
    http::{HeaderValue, Method, StatusCode},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, Registry},
    types::ToJSON,
};
use serde_json::Value;

use crate::{body, error::Fault, reply::Running, settings::ApiSettings};
use request::ChatAsk;
use shape::{Choice, Completion, Said, Stamp, TokenUsage};

/// The chat operation.
#[derive(Clone)]
pub(crate) struct Chat {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

impl Chat {
    async fn complete(&self, mut request: Request) -> Result<Response, Fault> {
        let body = request.take_body();
        let ask = ChatAsk::read(&self.json(&request, body).await?)?;
        let running = self.start(ask.request).await?;
        match ask.stream {
            Some(options) => Ok(stream::response(running, options.include_usage, self.settings.keep_alive)),
            None => whole(running).await,
        }
    }

    async fn start(&self, request: ReplyRequest) -> Result<Running, Fault> {
        Running::start(&self.service, request, self.settings.reply_timeout).await.map_err(|fault| match fault.code {
            "empty_input" => fault.about("messages"),
            _ => fault,
        })
    }

    async fn json(&self, request: &Request, body: Body) -> Result<Value, Fault> {
        let media = body::media_type(request.headers());
        if media.as_deref() != Some("application/json") {
            let media = media.map_or("no Content-Type was given".to_owned(), |media| format!("this is {media:.60}"));
            let message = format!("the body must be application/json; {media}");
            return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
        }
        let bytes = body::read(request.headers(), body, &self.settings).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Fault::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid JSON: {error}"))
        })
    }
}

/// The reply in one piece.
async fn whole(mut running: Running) -> Result<Response, Fault> {
    let stamp = Stamp::new(running.model());
    let all = running.collect().await;
    let finish = all.end?;
    let completion = Completion {
        id: stamp.id,
        object: "chat.completion".to_owned(),
        created: stamp.created,
        model: stamp.model,
        choices: vec![Choice {
            index: 0,
            message: Said { role: "assistant".to_owned(), content: all.text },
            finish_reason: finish_reason(&finish).to_owned(),
        }],
        usage: usage(running.usage()),
        route: running.route(),
    };
    let mut response = Response::builder().content_type("application/json").body(completion.to_json_string());
    if let Ok(timing) = HeaderValue::from_str(&running.timing()) {
        response.headers_mut().insert("server-timing", timing);
    }
    Ok(response)
}

fn finish_reason(finish: &FinishReason) -> &'static str {
    match finish {
        FinishReason::EndOfText(_) | FinishReason::StopSequence(_) => "stop",
        FinishReason::Length | FinishReason::SessionFull { .. } => "length",
    }
}

fn usage(usage: Usage) -> TokenUsage {
    TokenUsage {
        prompt_tokens: usage.prompt_tokens as u64,
        completion_tokens: usage.new_tokens as u64,
        total_tokens: (usage.prompt_tokens + usage.new_tokens) as u64,
        prompt_tokens_details: shape::PromptDetails { cached_tokens: usage.cached_tokens as u64 },
    }
}

impl OpenApi for Chat {
    fn meta() -> Vec<MetaApi> {
        vec![describe::api()]
    }

    fn register(registry: &mut Registry) {
        describe::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        let endpoint = make(move |request| {
            let chat = self.clone();
            async move { chat.complete(request).await.map_err(poem::Error::from) }
        });
        table.entry(describe::PATH.to_owned()).or_default().insert(Method::POST, endpoint.map_to_response().boxed());
    }
}
