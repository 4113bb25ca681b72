//! For those who run the server: liveness, readiness and counters.

use std::{fmt::Write as _, sync::Arc};

use corolla_domain::session::SessionService;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    payload::{Json, PlainText},
};

use crate::{fault::FaultBody, settings::ApiSettings, spec::Tag};

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
    /// The request is no HTTP that the server can read.
    #[allow(dead_code, reason = "answered before it gets here; declared for the description")]
    #[oai(status = 400)]
    Unreadable(Json<FaultBody>),
}

#[derive(ApiResponse)]
pub(crate) enum ReadyResponse {
    /// Every model can answer.
    #[oai(status = 200)]
    Ready(Json<Ready>),
    /// The request is no HTTP that the server can read.
    #[allow(dead_code, reason = "answered before it gets here; declared for the description")]
    #[oai(status = 400)]
    Unreadable(Json<FaultBody>),
    /// Some model cannot.
    #[oai(status = 503)]
    NotReady(Json<Ready>),
}

#[derive(ApiResponse)]
pub(crate) enum MetricsResponse {
    /// The counters.
    #[oai(status = 200, content_type = "text/plain; version=0.0.4; charset=utf-8")]
    Fine(PlainText<String>),
    /// The request is no HTTP that the server can read.
    #[allow(dead_code, reason = "answered before it gets here; declared for the description")]
    #[oai(status = 400)]
    Unreadable(Json<FaultBody>),
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
            .map(|it| ModelReady { model: it.model.to_string(), ready: it.missing.is_none(), missing: it.missing })
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

    /// Read the counters
    ///
    /// Counters and gauges in the text format of Prometheus.
    #[oai(path = "/metrics", method = "get", operation_id = "read-metrics", tag = "Tag::Operations")]
    #[allow(clippy::unused_async, reason = "operations are async")]
    async fn metrics(&self) -> MetricsResponse {
        let now = self.service.meter().snapshot();
        let rows = [
            ("turns_running", "gauge", "Replies being written.", now.turns_running),
            ("turns_waiting", "gauge", "Requests waiting for their turn.", now.turns_waiting),
            ("sessions_live", "gauge", "Sessions open in this process.", now.sessions_live),
            ("turns_started_total", "counter", "Replies begun.", now.turns_started),
            (
                "prompt_tokens_cached_total",
                "counter",
                "Prompt tokens found computed already.",
                now.prompt_tokens_cached,
            ),
            ("tokens_computed_total", "counter", "Positions run through the blocks.", now.tokens_computed),
            ("tokens_generated_total", "counter", "Tokens produced.", now.tokens_generated),
        ];
        let mut out = String::new();
        for (name, kind, help, value) in rows {
            let _ = writeln!(out, "# HELP corolla_{name} {help}\n# TYPE corolla_{name} {kind}\ncorolla_{name} {value}");
        }
        MetricsResponse::Fine(PlainText(out))
    }
}
