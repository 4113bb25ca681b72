//! `/api/v1/models`: what is served here, and whether it can answer now.

use std::{collections::HashMap, sync::Arc};

use corolla_domain::{
    model::{Chat, Message, ModelId, Role},
    session::{ModelState, SessionService},
};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, payload::Json};

use crate::spec::Tag;

/// What is served here.
#[derive(Debug, Object)]
pub(crate) struct ModelList {
    /// Every model of this server, in the order of its configuration.
    models: Vec<ModelInfo>,
    /// Bounds on sessions.
    sessions: SessionLimits,
}

/// One model. What describes its shape is null until it is loaded.
#[derive(Debug, Object)]
pub(crate) struct ModelInfo {
    /// The name to ask for it by.
    id: String,
    /// Whether it answers where a request names no model.
    default: bool,
    /// Whether it can answer now.
    state: State,
    /// What it lacks, where it cannot.
    #[oai(nullable)]
    missing: Option<String>,
    /// Whether it has a chat format, which `/v1/chat/completions` needs.
    #[oai(nullable)]
    chat: Option<bool>,
    /// Architecture, e.g. `llama` or `bloom`.
    #[oai(nullable)]
    family: Option<String>,
    /// Tokens that it was trained to see at once; null where its position scheme sets no limit.
    #[oai(nullable)]
    context_length: Option<u64>,
    /// Weights as they are computed with.
    #[oai(nullable)]
    dtype: Option<String>,
    /// Number of transformer blocks.
    #[oai(nullable)]
    blocks: Option<u64>,
    /// Width of its hidden state.
    #[oai(nullable)]
    hidden: Option<u64>,
    /// Number of tokens it knows.
    #[oai(nullable)]
    vocab: Option<u64>,
}

/// Whether a model can answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "ModelState", rename_all = "lowercase")]
pub(crate) enum State {
    /// It can.
    Ready,
    /// It is being loaded.
    Loading,
    /// Some of it is missing, or it could not be loaded.
    Missing,
}

/// Bounds on sessions.
#[derive(Debug, Object)]
pub(crate) struct SessionLimits {
    /// Sessions open at the same time.
    max_sessions: u64,
    /// Tokens that a session can hold where its opener does not say.
    default_length: u64,
    /// Tokens that a session may ask for.
    max_length: u64,
    /// A session is forgotten this many seconds after its last reply.
    idle_seconds: u64,
}

/// The operation on models.
#[derive(Clone)]
pub(crate) struct Models {
    pub(crate) service: Arc<SessionService>,
}

#[derive(ApiResponse)]
pub(crate) enum ListResponse {
    /// The models.
    #[oai(status = 200)]
    Fine(Json<ModelList>),
}

#[OpenApi]
impl Models {
    /// List the models
    ///
    /// What is served here: shape, chat ability, and whether each model can answer now or what it lacks.
    #[oai(path = "/api/v1/models", method = "get", operation_id = "list-models", tag = "Tag::Models")]
    async fn list(&self) -> ListResponse {
        let states = self.service.readiness().await;
        let mut missing: HashMap<ModelId, Option<String>> =
            states.into_iter().map(|state| (state.model, state.missing)).collect();
        let catalogue = self.service.catalogue();
        let models = catalogue
            .states()
            .map(|(id, state)| describe(id, &state, *id == *catalogue.default_id(), missing.remove(id).flatten()))
            .collect();
        let limits = self.service.limits();
        let sessions = SessionLimits {
            max_sessions: limits.max_sessions as u64,
            default_length: limits.default_length as u64,
            max_length: limits.max_length as u64,
            idle_seconds: limits.idle.as_secs(),
        };
        ListResponse::Fine(Json(ModelList { models, sessions }))
    }
}

fn describe(id: &ModelId, state: &ModelState, default: bool, missing: Option<String>) -> ModelInfo {
    let entry = match state {
        ModelState::Loaded(entry) => Some(entry),
        ModelState::Loading | ModelState::Failed(_) => None,
    };
    let spec = entry.map(|entry| entry.local.spec());
    let spec = spec.as_deref();
    let hello = Chat::from(vec![Message::new(Role::User, "Hello")]);
    ModelInfo {
        id: id.to_string(),
        default,
        state: match (state, &missing) {
            (ModelState::Loading, _) => State::Loading,
            (ModelState::Loaded(_), None) => State::Ready,
            (ModelState::Loaded(_) | ModelState::Failed(_), _) => State::Missing,
        },
        missing,
        chat: entry.map(|entry| entry.tokenizer.chat_prompt(&hello).is_ok()),
        family: spec.map(|spec| spec.family.clone()),
        context_length: spec.and_then(|spec| spec.max_positions).map(|positions| positions as u64),
        dtype: spec.map(|spec| spec.dtype.clone()),
        blocks: spec.map(|spec| spec.blocks as u64),
        hidden: spec.map(|spec| spec.hidden as u64),
        vocab: spec.map(|spec| spec.vocab as u64),
    }
}
