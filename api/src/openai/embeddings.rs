//! `/v1/embeddings`: texts as vectors, in the shape that OpenAI's clients speak.

use std::sync::Arc;

use corolla_domain::{
    model::ModelId,
    session::{Prompt, SessionService},
};
use data_encoding::BASE64;
use poem::{Request, Response, http::Method};
use poem_openapi::{
    OpenApi, Tags as _,
    registry::{MetaApi, MetaSchema, Registry},
    types::Type as _,
};
use serde::Serialize;
use serde_json::Value;

use super::describe::{errors, prompts};
use crate::{
    error::Fault,
    fault::ChatFaultBody,
    settings::ApiSettings,
    spec::{
        Tag,
        meta::{Member, Operation, body, inline, integer, json, list, named, object, one_of, operation, or, text},
    },
    table::{self, Table},
};

const PATH: &str = "/v1/embeddings";
const REQUEST: &str = "EmbeddingRequest";
const LIST: &str = "EmbeddingList";
const ROW: &str = "Embedding";
/// Texts that one request may bring.
const MAX_INPUTS: usize = 256;

/// The embedding operation.
#[derive(Clone)]
pub(crate) struct Embeddings {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

/// What is asked for.
#[derive(Debug)]
struct Ask {
    model: Option<ModelId>,
    inputs: Vec<Prompt>,
    /// Numbers as the base64 of their bytes.
    base64: bool,
}

#[derive(Serialize)]
struct Answer {
    object: &'static str,
    data: Vec<Row>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Row {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Plain(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Ask {
    fn read(value: &Value) -> Result<Self, Fault> {
        let fields = super::members(value)?;
        let input = fields.get("input").ok_or_else(|| Fault::invalid("input", "input is missing"))?;
        let inputs = super::prompts("input", input, MAX_INPUTS)?;
        let base64 = match fields.text("encoding_format")? {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("encoding_format must be float or base64, not {other:.40}");
                return Err(Fault::invalid("encoding_format", message));
            }
        };
        if fields.get("dimensions").is_some() {
            let message = "dimensions is not supported: a vector is as wide as the model's hidden state";
            return Err(super::unsupported("dimensions", message.to_owned()));
        }
        let model = super::model(&fields)?;
        Ok(Self { model, inputs, base64 })
    }
}

impl Embeddings {
    async fn embed(&self, mut request: Request) -> Result<Response, Fault> {
        let body = request.take_body();
        let ask = Ask::read(&super::json(&request, body, &self.settings).await?)?;
        let limit = self.settings.reply_timeout;
        let answer = tokio::time::timeout(limit, self.all(ask)).await.map_err(|_| Fault::too_slow(limit))??;
        let json = serde_json::to_string(&answer).map_err(|error| {
            tracing::error!(%error, "embeddings could not be written");
            Fault::internal()
        })?;
        Ok(Response::builder().content_type("application/json").body(json))
    }

    async fn all(&self, ask: Ask) -> Result<Answer, Fault> {
        let mut data = Vec::with_capacity(ask.inputs.len());
        let mut tokens = 0;
        for (index, input) in ask.inputs.iter().enumerate() {
            let found = self.service.embed(ask.model.clone(), input, self.settings.pooling).await;
            let found = found.map_err(Fault::from).map_err(|fault| match fault.code {
                "empty_input" => Fault::invalid("input", format!("input[{index}] must not be empty")),
                "length_not_allowed" => Fault { param: Some("input".to_owned()), ..fault },
                _ => fault,
            })?;
            tokens += found.tokens;
            let embedding = if ask.base64 {
                let bytes: Vec<u8> = found.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Numbers::Base64(BASE64.encode(&bytes))
            } else {
                Numbers::Plain(found.values)
            };
            data.push(Row { object: "embedding", index, embedding });
        }
        let model = ask.model.as_ref().unwrap_or(self.service.catalogue().default_id()).to_string();
        let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
        Ok(Answer { object: "list", data, model, usage })
    }
}

/// Members of a request that are read.
fn members() -> Vec<Member> {
    let formats = ["float", "base64"].map(Into::into).to_vec();
    let format =
        MetaSchema { enum_items: formats, ..text("Numbers, or the base64 of their bytes as f32, little-endian.") };
    vec![
        ("model", text("Which model; the default one where it is left out.")),
        ("input", prompts(MAX_INPUTS, "What to make vectors of.")),
        ("encoding_format", or(format, "float")),
    ]
}

impl OpenApi for Embeddings {
    fn meta() -> Vec<MetaApi> {
        let operation = operation(Operation {
            path: PATH,
            method: Method::POST,
            tag: Tag::Embeddings,
            id: "create-embedding",
            summary: "Make vectors of texts",
            description: "One vector of length 1 for each text, as wide as the model's hidden state: the states after \
                          the last norm, their mean or the last of them, as the server's `embeddings.pooling` says. \
                          The texts are read as they are, with the token that the model puts before a text. Closing \
                          the connection stops the compute. dimensions is refused by name.",
            params: Vec::new(),
            request: Some(body("The texts.", true, &[("application/json", REQUEST)])),
            responses: errors(json(200, "The vectors, in the order of the texts.", LIST)),
        });
        vec![MetaApi { paths: vec![operation] }]
    }

    fn register(registry: &mut Registry) {
        Tag::Embeddings.register(registry);
        ChatFaultBody::register(registry);
        registry.schemas.insert(REQUEST.to_owned(), object("Texts to make vectors of.", vec!["input"], members()));
        let number = || inline(MetaSchema::new_with_format("number", "float"));
        let numbers =
            one_of(vec![inline(list(number(), "The numbers.")), inline(text("Their bytes in base64."))], "The vector.");
        let kind =
            |name: &'static str, always| ("object", MetaSchema { enum_items: vec![name.into()], ..text(always) });
        let row = object(
            "A vector.",
            vec!["object", "index", "embedding"],
            [kind("embedding", "Always `embedding`."), ("index", integer(0, "Of which text.")), ("embedding", numbers)],
        );
        registry.schemas.insert(ROW.to_owned(), row);
        let usage = object(
            "Counts.",
            vec!["prompt_tokens", "total_tokens"],
            [("prompt_tokens", integer(0, "Tokens of all texts.")), ("total_tokens", integer(0, "The same."))],
        );
        let all = object(
            "The vectors.",
            vec!["object", "data", "model", "usage"],
            [
                kind("list", "Always `list`."),
                ("data", list(named(ROW), "One vector a text.")),
                ("model", text("Who read them.")),
                ("usage", usage),
            ],
        );
        registry.schemas.insert(LIST.to_owned(), all);
    }

    fn add_routes(self, table: &mut Table) {
        let handle = |embeddings: Self, request| async move { embeddings.embed(request).await };
        table::add(table, (Method::POST, PATH), self, handle);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stage::Stage;

    async fn ask(body: Value) -> (u16, Value) {
        let stage = Stage::new();
        let response = stage.client().post(PATH).body_json(&body).send().await.0;
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.into_body().into_string().await.unwrap()).unwrap())
    }

    #[tokio::test]
    async fn one_vector_a_text_in_either_encoding() {
        let (status, answer) = ask(json!({"input": ["abc", "b"], "model": "alphabet"})).await;
        assert_eq!(status, 200, "{answer}");
        // The toy's state is one positive number, whose direction is 1.
        let row = |index: u32| json!({"object": "embedding", "index": index, "embedding": [1.0]});
        let expected = json!({"object": "list", "data": [row(0), row(1)], "model": "alphabet",
            "usage": {"prompt_tokens": 4, "total_tokens": 4}});
        assert_eq!(answer, expected);
        let (_, answer) = ask(json!({"input": [100, 101], "encoding_format": "base64"})).await;
        assert_eq!(answer["data"][0]["embedding"], "AACAPw==", "the bytes of 1.0");
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({"input": ""}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": {"a": 1}}), "input"),
            (json!({"input": "x".repeat(5000)}), "input"),
            (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
            (json!({"input": "a", "dimensions": 3}), "dimensions"),
            (json!({"input": "a", "model": 5}), "model"),
        ] {
            let (status, answer) = ask(body.clone()).await;
            assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{body} {answer}");
        }
        assert_eq!(ask(json!({"input": "a", "model": "other"})).await.0, 404);
    }
}
