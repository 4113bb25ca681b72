//! `/v1/models`: the models in the shape that OpenAI's clients speak.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use corolla_domain::{model::ModelId, session::SessionService};
use poem::http::StatusCode;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Path, payload::Json};

use crate::{error::Fault, fault::ChatFaultBody, spec::Tag};

/// The models that are served here.
#[derive(Debug, Object)]
#[oai(rename = "ModelCards")]
pub(crate) struct Cards {
    /// Always `list`.
    object: String,
    /// The models, in the order of the server's configuration.
    data: Vec<Card>,
}

/// A model.
#[derive(Debug, Object)]
#[oai(rename = "ModelCard")]
pub(crate) struct Card {
    /// The name to ask for it by.
    id: String,
    /// Always `model`.
    object: String,
    /// When this server began to offer it, in seconds since 1970.
    created: u64,
    /// Always `corolla`.
    owned_by: String,
}

/// The operations on models under `/v1`.
#[derive(Clone)]
pub(crate) struct ModelCards {
    service: Arc<SessionService>,
    since: u64,
}

#[derive(ApiResponse)]
pub(crate) enum CardsResponse {
    /// The models.
    #[oai(status = 200)]
    Fine(Json<Cards>),
}

#[derive(ApiResponse)]
pub(crate) enum CardResponse {
    /// The model.
    #[oai(status = 200)]
    Fine(Json<Card>),
    /// There is no such model.
    #[oai(status = 404)]
    Unknown(Json<ChatFaultBody>),
}

impl ModelCards {
    pub(crate) fn new(service: Arc<SessionService>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { service, since }
    }

    fn card(&self, id: &ModelId) -> Card {
        Card { id: id.to_string(), object: "model".to_owned(), created: self.since, owned_by: "corolla".to_owned() }
    }
}

#[OpenApi]
impl ModelCards {
    /// List the models by name
    ///
    /// What can stand as `model` in a request. `/api/v1/models` tells more of each, and whether it can answer now.
    #[oai(path = "/v1/models", method = "get", operation_id = "list-model-cards", tag = "Tag::Models")]
    #[allow(clippy::unused_async, reason = "operations are async")]
    async fn list(&self) -> CardsResponse {
        let data = self.service.catalogue().states().map(|(id, _)| self.card(id)).collect();
        CardsResponse::Fine(Json(Cards { object: "list".to_owned(), data }))
    }

    /// Look a model up by name
    ///
    /// The model, if it is served here. A `/` in its name is written as `%2F`.
    #[oai(path = "/v1/models/:model", method = "get", operation_id = "read-model-card", tag = "Tag::Models")]
    #[allow(clippy::unused_async, reason = "operations are async")]
    async fn read(
        &self,
        /// The model's name.
        model: Path<String>,
    ) -> CardResponse {
        let asked = model.0;
        let known =
            self.service.catalogue().states().map(|(id, _)| id).find(|id| id.0 == asked).map(|id| self.card(id));
        match known {
            Some(card) => CardResponse::Fine(Json(card)),
            None => {
                let fault = Fault::new(StatusCode::NOT_FOUND, "model_not_found", format!("there is no model {asked}"));
                CardResponse::Unknown(Json((&fault.about("model")).into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::stage::Stage;

    #[tokio::test]
    async fn models_are_listed_and_looked_up() {
        let client = Stage::new().client();
        let get = async |path: &str| -> (u16, Value) {
            let response = client.get(path).send().await.0;
            let status = response.status().as_u16();
            (status, serde_json::from_str(&response.into_body().into_string().await.unwrap()).unwrap())
        };
        let (status, list) = get("/v1/models").await;
        assert_eq!((status, &list["object"], &list["data"][0]["id"]), (200, &"list".into(), &"alphabet".into()));
        let (status, card) = get("/v1/models/alphabet").await;
        assert_eq!((status, &card), (200, &list["data"][0]));
        let (status, error) = get("/v1/models/org%2Fother").await;
        assert_eq!((status, &error["error"]["code"]), (404, &"model_not_found".into()));
        assert_eq!(error["error"]["message"], "there is no model org/other");
    }
}
