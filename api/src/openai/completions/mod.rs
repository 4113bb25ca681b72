//! `/v1/completions`: texts continued, in the shape that OpenAI's clients speak.

mod describe;
mod request;
mod shape;
mod stream;
mod work;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use corolla_domain::session::SessionService;
use poem::{Request, Response, http::Method};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, Registry},
    types::ToJSON,
};

use super::{StreamOptions, shape::Stamp, stream::response};
use crate::{
    error::Fault,
    guard::owner,
    settings::ApiSettings,
    table::{self, Table},
};
use request::CompletionAsk;
use shape::{Choice, Completion};
use work::Work;

/// The completion operation.
#[derive(Clone)]
pub(crate) struct Completions {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

impl Completions {
    async fn complete(&self, mut request: Request) -> Result<Response, Fault> {
        let body = request.take_body();
        let mut ask = CompletionAsk::read(&super::json(&request, body, &self.settings).await?)?;
        ask.like.owner = owner(&request);
        let stream = ask.stream;
        let work = Work::begin(self.service.clone(), self.settings.reply_timeout, ask).await?;
        match stream {
            Some(StreamOptions { include_usage }) => {
                let events = stream::Events::new(work, include_usage);
                Ok(response(events, self.settings.keep_alive))
            }
            None => whole(work).await,
        }
    }
}

/// All texts in one piece.
async fn whole(mut work: Work) -> Result<Response, Fault> {
    let stamp = Stamp::new("cmpl", work.model());
    let mut choices: Vec<Choice> = Vec::new();
    while let Some(piece) = work.next().await? {
        if choices.len() as u64 == piece.index {
            choices.push(Choice { index: piece.index, ..Choice::default() });
        }
        if let Some(choice) = choices.last_mut() {
            choice.add(piece);
        }
    }
    let completion = Completion {
        id: stamp.id,
        object: "text_completion".to_owned(),
        created: stamp.created,
        model: stamp.model,
        choices,
        usage: Some(work.usage()),
        route: work.route(),
    };
    Ok(Response::builder().content_type("application/json").body(completion.to_json_string()))
}

impl OpenApi for Completions {
    fn meta() -> Vec<MetaApi> {
        vec![describe::api()]
    }

    fn register(registry: &mut Registry) {
        describe::register(registry);
    }

    fn add_routes(self, table: &mut Table) {
        let handle = |completions: Self, request| async move { completions.complete(request).await };
        table::add(table, (Method::POST, describe::PATH), self, handle);
    }
}
