//! `corolla serve`: the chat page and the HTTP API.

use std::{path::PathBuf, sync::Arc};

use corolla_api::{ApiSettings, Entrance, Metrics};
use corolla_domain::session::SessionService;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{Compute, ConfigFile, Stops, interrupted_again, log_as, planned};
use crate::{
    Stop,
    config::{Blocks, ModelSettings, Overrides},
    plan::ModelPlan,
    wiring::{self, host},
};

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Join the swarm of this token: it runs the blocks of the model that the token names.
    #[arg(long, value_name = "TOKEN", env = "COROLLA_JOIN", hide_env_values = true)]
    join: Option<String>,
    /// A model to serve in place of those that are configured: a GGUF file, or a folder in Hugging Face layout.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
}

/// Listens at once and loads the models behind the open door; `/health/ready` tells when they can answer.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let overrides =
        Overrides { listen: options.listen, join: options.join, path: options.model, ..options.compute.overrides() };
    let (settings, plans) = planned(&options.file, &overrides).await?;
    let keys = settings.guard.keys(settings.listen).map_err(Stop::usage)?;
    log_as("info", settings.log_format);
    let listener = TcpListener::bind(settings.listen).await.map_err(|fault| {
        Stop::usage(format!("cannot listen on {}: {fault}; choose another with --listen", settings.listen))
    })?;
    let address = listener.local_addr().map_err(Stop::failure)?;
    let metrics = Arc::<Metrics>::default();
    for plan in plans.iter().filter(|plan| plan.settings.blocks == Blocks::Local) {
        metrics.set_cache_room(&plan.settings.id, plan.settings.cache_tokens);
    }
    let entrances = settings.models.iter().map(|model| (model.id.clone(), entrance(model))).collect();
    let service = wiring::service(&settings, metrics.clone()).await.map_err(Stop::usage)?;
    let (leave, leaving) = watch::channel(());
    let working = tokio::spawn(work(service.clone(), plans, leaving));
    let sweeping = tokio::spawn(wiring::sweep(service.clone()));
    let api = ApiSettings {
        max_body_bytes: settings.max_body_bytes,
        body_timeout: settings.body_timeout,
        reply_timeout: settings.reply_timeout,
        pooling: settings.pooling,
        keys,
        origins: settings.origins,
        entrances,
        metrics,
        ..ApiSettings::default()
    };
    tracing::info!("listening on http://{address}");
    let (mut first, mut second) = (Stops::listen(), Stops::listen());
    let stopping = async move {
        first.next().await;
        leave.send_replace(());
    };
    let serving = async {
        let served =
            corolla_api::serve(listener, corolla_api::routes(service, api), settings.connections, stopping).await;
        sweeping.abort();
        working.await.map_err(|fault| Stop::failure(format!("the models' keeper ended early: {fault}")))?;
        served.map_err(|fault| Stop::failure(format!("the server ended early: {fault}")))
    };
    let again = async {
        second.next().await;
        second.next().await;
    };
    tokio::select! {
        ended = serving => ended,
        () = again => Err(interrupted_again()),
    }
}

/// How others host blocks of `model`.
fn entrance(model: &ModelSettings) -> Entrance {
    let file = model.path.file_name().map(|name| name.to_string_lossy().into_owned());
    Entrance { file, token: model.open_token().map(|token| token.to_string()) }
}

/// Loads the models, and serves blocks of those that are to be hosted, until it is told to leave.
async fn work(service: Arc<SessionService>, plans: Vec<ModelPlan>, mut leaving: watch::Receiver<()>) {
    let hosted = tokio::select! {
        hosted = wiring::load_models(&service, &plans) => hosted,
        _ = leaving.changed() => return,
    };
    let hosting = hosted.into_iter().map(|(plan, engine)| host::stay(plan.clone(), engine, leaving.clone()));
    hosting.collect::<JoinSet<()>>().join_all().await;
}
