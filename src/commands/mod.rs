//! One module a subcommand.

pub(crate) mod bench;
pub(crate) mod bootstrap;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod host;
pub(crate) mod key;
pub(crate) mod openapi;
pub(crate) mod score;
pub(crate) mod serve;
pub(crate) mod swarm;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
};

use corolla_domain::{
    ports::{FaultKind, PortError, Unobserved},
    session::{ModelState, SessionService},
};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    Stop,
    config::{self, LogFormat, Overrides, Settings, TypedBackend, TypedDtype, TypedKvCache},
    plan::{self, ModelPlan},
    plugin, wiring,
};

/// The flag that every command with settings has.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigFile {
    /// Configuration file; without this, ./corolla.toml where there is one.
    #[arg(long, value_name = "FILE", env = "COROLLA_CONFIG")]
    config: Option<PathBuf>,
}

/// Flags that say what the default model is computed with.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Compute {
    /// What computes the default model.
    #[arg(long, value_name = "NAME")]
    backend: Option<TypedBackend>,
    /// What the default model's weights are kept in.
    #[arg(long, value_name = "NAME")]
    dtype: Option<TypedDtype>,
    /// What keys and values of its KV cache are kept in, by candle-cpu.
    #[arg(long, value_name = "NAME")]
    kv_cache: Option<TypedKvCache>,
}

impl Compute {
    /// What these flags say, and nothing else.
    fn overrides(self) -> Overrides {
        Overrides { backend: self.backend, dtype: self.dtype, kv_cache: self.kv_cache, ..Overrides::default() }
    }
}

/// Settings, and for each of their models how it is computed. Where another program is needed for that, it takes this
/// one's place.
async fn planned(file: &ConfigFile, overrides: &Overrides) -> Result<(Settings, Vec<ModelPlan>), Stop> {
    let settings = config::load(file.config.as_deref(), overrides).map_err(Stop::usage)?;
    let plans = plan::decide(&settings).await?;
    Ok((settings, plans))
}

/// The same for the default model alone, computed with so many `threads` where that is said.
async fn planned_default(
    file: &ConfigFile,
    overrides: &Overrides,
    threads: Option<usize>,
) -> Result<(Settings, Vec<ModelPlan>), Stop> {
    let mut settings = config::load(file.config.as_deref(), overrides).map_err(Stop::usage)?;
    settings.models.retain(|model| model.id == settings.default_model);
    settings.models.iter_mut().for_each(|model| model.threads = threads.or(model.threads));
    let plans = plan::decide(&settings).await?;
    Ok((settings, plans))
}

/// `corolla probe`: what this program can compute with, as JSON.
pub(crate) fn probe() -> Result<(), Stop> {
    let probe = plugin::Probe::own(wiring::facts);
    print(&(serde_json::to_string(&probe).map_err(Stop::failure)? + "\n"))
}

/// Settings in which every model could be loaded, as far as its files' headers tell.
fn settings(file: &ConfigFile, overrides: &Overrides) -> Result<Settings, Stop> {
    let mut settings = config::load(file.config.as_deref(), overrides).map_err(Stop::usage)?;
    for (at, model) in settings.models.iter_mut().enumerate() {
        let looked = wiring::look_at(model, settings.limits.prefill_chunk)
            .map_err(|fault| Stop::usage(format!("models[{at}] ({}): {fault}", model.id)))?;
        model.cache_tokens = looked.cache_tokens;
    }
    Ok(settings)
}

/// A service with the default model loaded; `progress` may show on a terminal.
async fn load_default(settings: &Settings, plans: &[ModelPlan], progress: bool) -> Result<Arc<SessionService>, Stop> {
    let progress = progress && io::stderr().is_terminal();
    if progress {
        eprint!("loading {} ...", settings.default_model);
    }
    let service = wiring::service(settings, Arc::new(Unobserved)).await.map_err(Stop::failure)?;
    Box::pin(wiring::load_models(&service, plans)).await;
    if progress {
        eprint!("\r\x1b[K");
    }
    if service.catalogue().get(&settings.default_model).is_some() {
        return Ok(service);
    }
    let states = service.catalogue().states().map(|(_, state)| state);
    let reasons: Vec<String> =
        states.filter_map(|s| if let ModelState::Failed(reason) = s { Some(reason) } else { None }).collect();
    Err(Stop::failure(format!("{} could not be loaded: {}", settings.default_model, reasons.join("; "))))
}

/// Writes to the standard output. A reader that went away is no fault.
pub(crate) fn print(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => {
            Err(Stop::failure(format!("cannot write to the standard output: {fault}")))
        }
        _ => Ok(()),
    }
}

/// Sends events to the standard error stream; `default` is what is shown where COROLLA_LOG does not say.
fn log(default: &str) {
    log_as(default, LogFormat::Text);
}

/// The same in a format of choice.
fn log_as(default: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_env("COROLLA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().with_current_span(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).init();
}

/// How a fault of a server of blocks, or of its swarm, ends the command.
fn host_fault(fault: &PortError) -> Stop {
    match fault.kind() {
        FaultKind::InvalidInput | FaultKind::NotFound | FaultKind::Unsupported => Stop::usage(fault),
        _ => Stop::failure(fault),
    }
}

fn interrupted() -> Stop {
    Stop { sentence: "interrupted".to_owned(), code: 130 }
}

/// Whoever asks twice does not wait for what is open.
fn interrupted_again() -> Stop {
    Stop { sentence: "interrupted again: what was open was broken off".to_owned(), code: 130 }
}

/// Signals by which the user or the system asks this process to end. None is lost from the moment on that this is made.
struct Stops {
    #[cfg(unix)]
    heard: [Option<tokio::signal::unix::Signal>; 2],
}

impl Stops {
    fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Self { heard: [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok()) }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Ready with the next one.
    async fn next(&mut self) {
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.heard;
            tokio::select! {
                Some(()) = async { interrupt.as_mut()?.recv().await } => {}
                Some(()) = async { terminate.as_mut()?.recv().await } => {}
                else => std::future::pending().await,
            }
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Does `work`, unless the process is asked to end before it is done.
async fn unless_stopped<T>(work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let mut stops = Stops::listen();
    tokio::select! {
        outcome = work => outcome,
        () = stops.next() => Err(interrupted()),
    }
}
