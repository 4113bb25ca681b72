//! For those who run the server: liveness, readiness and counters.

use std::{sync::Arc, time::Duration};

use corolla_domain::{routing::InProcessSwarm, session::SessionService};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    payload::{Json, PlainText},
};

use crate::{settings::ApiSettings, spec::Tag};

/// How long a model's swarm may take to say how much of its cache is free.
const CACHE_PATIENCE: Duration = Duration::from_secs(1);

/// The process answers.
#[derive(Debug, Object)]
pub(crate) struct Alive {
    /// Always `ok`.
    status: String,
    /// Version of the server.
    version: String,
}

/// Whether every model can answer.
#[derive(Debug, Object)]
#[oai(rename = "Readiness")]
pub(crate) struct Ready {
    /// `ready`, or `not_ready`.
    code: String,
    /// The same in one sentence; names what is missing.
    message: String,
    /// Each model.
    models: Vec<ModelReady>,
}

/// Whether one model can answer.
#[derive(Debug, Object)]
#[oai(rename = "ModelReadiness")]
pub(crate) struct ModelReady {
    /// Which model.
    model: String,
    /// Whether it can answer now.
    ready: bool,
    /// What it lacks, where it cannot.
    #[oai(nullable)]
    missing: Option<String>,
    /// Its transformer blocks that nobody runs.
    missing_blocks: Vec<u64>,
}

/// The operations for operators.
#[derive(Clone)]
pub(crate) struct Operations {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

#[derive(ApiResponse)]
pub(crate) enum LiveResponse {
    /// The process answers.
    #[oai(status = 200)]
    Alive(Json<Alive>),
}

#[derive(ApiResponse)]
pub(crate) enum ReadyResponse {
    /// Every model can answer.
    #[oai(status = 200)]
    Ready(Json<Ready>),
    /// Some model cannot.
    #[oai(status = 503)]
    NotReady(Json<Ready>),
}

#[derive(ApiResponse)]
pub(crate) enum MetricsResponse {
    /// The counters.
    #[oai(status = 200, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")]
    Fine(PlainText<String>),
}

#[OpenApi]
impl Operations {
    /// Is the process alive?
    ///
    /// Answers as soon as the server listens, whatever the models do. Restart the process where it does not.
    #[oai(path = "/health/live", method = "get", operation_id = "check-liveness", tag = "Tag::Operations")]
    #[allow(clippy::unused_async, reason = "operations are async")]
    async fn live(&self) -> LiveResponse {
        LiveResponse::Alive(Json(Alive { status: "ok".to_owned(), version: self.settings.version.clone() }))
    }

    /// Can every model answer?
    ///
    /// 200 once each configured model can answer, else 503 that names for each model what is missing. Send no
    /// traffic while it is 503.
    #[oai(path = "/health/ready", method = "get", operation_id = "check-readiness", tag = "Tag::Operations")]
    async fn ready(&self) -> ReadyResponse {
        let models: Vec<_> = self
            .service
            .readiness()
            .await
            .into_iter()
            .map(|it| ModelReady {
                model: it.model.to_string(),
                ready: it.missing.is_none(),
                missing: it.missing,
                missing_blocks: it.missing_blocks.into_iter().map(|block| block as u64).collect(),
            })
            .collect();
        let lacking: Vec<_> =
            models.iter().filter_map(|it| Some(format!("{}: {}", it.model, it.missing.as_ref()?))).collect();
        if lacking.is_empty() {
            let message = "every model can answer".to_owned();
            return ReadyResponse::Ready(Json(Ready { code: "ready".to_owned(), message, models }));
        }
        let message = format!("not every model can answer: {}", lacking.join("; "));
        ReadyResponse::NotReady(Json(Ready { code: "not_ready".to_owned(), message, models }))
    }

    /// Read the measurements
    ///
    /// Counters, gauges and histograms in the text format of OpenMetrics, which Prometheus reads: how long replies waited,
    /// their first token and those after it took, steps at each server of blocks, failovers, the KV cache, what was
    /// answered.
    #[oai(path = "/metrics", method = "get", operation_id = "read-metrics", tag = "Tag::Operations")]
    async fn metrics(&self) -> poem::Result<MetricsResponse> {
        let metrics = &self.settings.metrics;
        for entry in self.service.catalogue().iter() {
            let id = entry.local.spec().id.clone();
            let Ok(Ok(map)) = tokio::time::timeout(CACHE_PATIENCE, entry.swarm.map(&id)).await else { continue };
            let here = map.servers.iter().find(|server| server.peer == InProcessSwarm::peer());
            if let Some(free) = here.and_then(|server| server.free_tokens) {
                metrics.set_cache_free(&id, free);
            }
        }
        let text = metrics.write(&self.service.meter().snapshot()).map_err(poem::error::InternalServerError)?;
        Ok(MetricsResponse::Fine(PlainText(text)))
    }
}
