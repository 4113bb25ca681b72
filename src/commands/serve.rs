//! `corolla serve`: the chat page and the HTTP API.

use corolla_api::ApiSettings;
use tokio::net::TcpListener;

use super::{Compute, ConfigFile, asked_to_stop, log, planned};
use crate::{Stop, config::Overrides, wiring};

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    #[command(flatten)]
    compute: Compute,
}

/// Listens at once and loads the models behind the open door; `/health/ready` tells when they can answer.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let overrides = Overrides { listen: options.listen, ..options.compute.overrides() };
    let (settings, plans) = planned(&options.file, &overrides).await?;
    log("info");
    let listener = TcpListener::bind(settings.listen).await.map_err(|fault| {
        Stop::usage(format!("cannot listen on {}: {fault}; choose another with --listen", settings.listen))
    })?;
    let address = listener.local_addr().map_err(Stop::failure)?;
    let service = wiring::service(&settings).await.map_err(Stop::usage)?;
    let loading = tokio::spawn({
        let service = service.clone();
        async move { wiring::load_models(&service, &plans).await }
    });
    let sweeping = tokio::spawn(wiring::sweep(service.clone()));
    let api = ApiSettings {
        max_body_bytes: settings.max_body_bytes,
        reply_timeout: settings.reply_timeout,
        ..ApiSettings::default()
    };
    tracing::info!("listening on http://{address}");
    let served = corolla_api::serve(listener, corolla_api::routes(service, api), asked_to_stop()).await;
    loading.abort();
    sweeping.abort();
    served.map_err(|fault| Stop::failure(format!("the server ended early: {fault}")))
}
