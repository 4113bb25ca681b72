//! Configuration: what was typed (defaults, file, environment, flags) becomes what is true. A fault names the key, the
//! value and the fix.

mod choice;
mod flags;
mod guard;
mod model;
mod swarm;
mod typed;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use choice::Access;
pub(crate) use choice::{
    Backend as TypedBackend, Blocks, Dtype as TypedDtype, KvCache as TypedKvCache, LogFormat, Reach as TypedReach,
};
use corolla_api::Connections;
use corolla_domain::{
    model::ModelId,
    routing::Patience,
    session::{Limits, Pooling},
};
pub(crate) use guard::{Guard, NAMES, is_name};
pub(crate) use model::{ComputeSettings, ModelSettings};
pub(crate) use swarm::HostSettings;
pub(crate) use typed::{HostFlags, Overrides};

/// The file that is read where none is named.
const DEFAULT_FILE: &str = "corolla.toml";

/// More conversations than any machine has room to keep.
const MAX_PREFIXES: usize = 100_000;

/// Where sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Store {
    /// In this process; gone with it.
    Memory,
    /// In a Redis server, shared by replicas.
    Redis(String),
}

/// A configuration that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// The model for requests that name none.
    pub(crate) default_model: ModelId,
    /// The models, at least one.
    pub(crate) models: Vec<ModelSettings>,
    /// Bounds on what clients can ask for.
    pub(crate) limits: Limits,
    /// Where sessions are kept.
    pub(crate) store: Store,
    /// Longest request body in bytes.
    pub(crate) max_body_bytes: usize,
    /// How long a client may take to send a body.
    pub(crate) body_timeout: Duration,
    /// How long one reply may take.
    pub(crate) reply_timeout: Duration,
    /// How the states of a text become its embedding.
    pub(crate) pooling: Pooling,
    /// Bounds on connections.
    pub(crate) connections: Connections,
    /// Who may ask.
    pub(crate) guard: Guard,
    /// Sites whose pages may read answers.
    pub(crate) origins: Vec<String>,
    /// How lines of the log look.
    pub(crate) log_format: LogFormat,
}

/// Reads the configuration: defaults, then `file` (or `corolla.toml` where there is one), then the environment, then
/// flags.
///
/// # Errors
/// A sentence for each fault found, naming key, value and fix.
pub(crate) fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Settings, String> {
    let settings = load_without_files(file, overrides)?;
    let faults = settings.models.iter().enumerate().filter_map(|(at, model)| model::check_path(at, &model.path).err());
    let faults: Vec<String> = faults.collect();
    if faults.is_empty() { Ok(settings) } else { Err(faults.join("\n")) }
}

/// The same, whether the models' files are there or not.
///
/// # Errors
/// A sentence for each fault found, naming key, value and fix.
pub(crate) fn load_without_files(file: Option<&Path>, overrides: &Overrides) -> Result<Settings, String> {
    let file = match file {
        Some(file) if !file.is_file() => return Err(format!("there is no configuration file {}", file.display())),
        Some(file) => Some(file.to_owned()),
        None => Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.is_file()),
    };
    let typed = typed::read(file.as_deref(), overrides)?;
    check(typed)
}

fn check(typed: typed::Typed) -> Result<Settings, String> {
    let mut faults = Vec::new();
    let listen = typed.listen.parse().map_err(|_| {
        format!("listen = \"{}\" is no address; write an IP address and a port, e.g. \"127.0.0.1:8000\"", typed.listen)
    });
    let mut models: Vec<ModelSettings> = Vec::new();
    for (at, model) in typed.models.into_iter().enumerate() {
        match model::check(at, model) {
            Ok(model) if models.iter().any(|m| m.id == model.id) => {
                faults.push(format!("models[{at}].id = \"{}\" is used twice; give each model its own name", model.id));
            }
            Ok(model) => models.push(model),
            Err(fault) => faults.push(fault),
        }
    }
    let default_model = match (typed.default_model, models.first()) {
        (Some(id), _) if models.iter().any(|m| m.id.0 == id) => Some(ModelId(id)),
        (Some(id), _) if faults.is_empty() => {
            let ids: Vec<&str> = models.iter().map(|m| m.id.0.as_str()).collect();
            faults.push(format!("default_model = \"{id}\" is none of the models; there is: {}", ids.join(", ")));
            None
        }
        (None, Some(first)) => Some(first.id.clone()),
        _ => None,
    };
    let sessions = typed.sessions;
    let store = match sessions.store.as_str() {
        "memory" => Some(Store::Memory),
        url if url.starts_with("redis://") || url.starts_with("rediss://") => Some(Store::Redis(url.to_owned())),
        other => {
            faults.push(format!("sessions.store = \"{other}\" is no store; write \"memory\" or \"redis://host:port\""));
            None
        }
    };
    let numbers = [
        ("sessions.max_sessions", sessions.max_sessions, 1, 1_000_000),
        ("sessions.default_length", sessions.default_length, 1, sessions.max_length.max(1)),
        ("sessions.max_length", sessions.max_length, 1, 10_000_000),
        ("sessions.idle_seconds", sessions.idle_seconds, 1, 30 * 24 * 3600),
        ("limits.concurrent", typed.limits.concurrent, 1, 100_000),
        ("limits.queue", typed.limits.queue, 0, 1_000_000),
        ("limits.prefill_chunk", typed.limits.prefill_chunk, 1, 65_536),
        ("limits.max_body_bytes", typed.limits.max_body_bytes, 1024, 1 << 30),
        ("limits.body_seconds", typed.limits.body_seconds, 1, 3600),
        ("limits.connections", typed.limits.connections, 1, 1_000_000),
        ("limits.idle_seconds", typed.limits.idle_seconds, 1, 24 * 3600),
        ("limits.drain_seconds", typed.limits.drain_seconds, 0, 24 * 3600),
        ("limits.route_seconds", typed.limits.route_seconds, 0, 24 * 3600),
        ("limits.reply_seconds", typed.limits.reply_seconds, 1, 24 * 3600),
    ];
    for (key, value, low, high) in numbers {
        if !(low..=high).contains(&value) {
            faults.push(format!("{key} = {value} is out of range; it may be {low} to {high}"));
        }
    }
    // Where strangers share the server without names, one could tell by the clock what another has asked; and the caches of a
    // swarm are other people's, who have a use for what would be held in case it is of use here.
    let far = |model: &ModelSettings| model.blocks == Blocks::Swarm || model.block_range.is_some();
    let prefixes = match typed.access {
        Access::Auto if !models.iter().any(far) => Limits::default().prefixes,
        Access::Auto | Access::Open => 0,
    };
    let prefixes = sessions.prefix_cache.unwrap_or(prefixes);
    if prefixes > MAX_PREFIXES {
        faults.push(format!("sessions.prefix_cache = {prefixes} is out of range; it may be 0 to {MAX_PREFIXES}"));
    }
    let seconds = |number: usize| Duration::from_secs(number as u64);
    let listen = listen.map_err(|fault| faults.push(fault)).ok();
    let guard = guard::check(typed.access, typed.api_keys).map_err(|fault| faults.push(fault)).ok();
    let origins = guard::check_cors(typed.cors).map_err(|fault| faults.push(fault)).ok();
    match (listen, default_model, store, guard.zip(origins)) {
        (Some(listen), Some(default_model), Some(store), Some((guard, origins))) if faults.is_empty() => Ok(Settings {
            listen,
            default_model,
            models,
            limits: Limits {
                max_sessions: sessions.max_sessions,
                default_length: sessions.default_length,
                max_length: sessions.max_length,
                idle: seconds(sessions.idle_seconds),
                prefixes,
                concurrent: typed.limits.concurrent,
                queue: typed.limits.queue,
                prefill_chunk: typed.limits.prefill_chunk,
                patience: Patience { without_route: seconds(typed.limits.route_seconds), ..Patience::default() },
            },
            store,
            max_body_bytes: typed.limits.max_body_bytes,
            body_timeout: seconds(typed.limits.body_seconds),
            reply_timeout: seconds(typed.limits.reply_seconds),
            pooling: typed.embeddings.pooling.chosen(),
            connections: Connections {
                most: typed.limits.connections,
                idle: seconds(typed.limits.idle_seconds),
                drain: seconds(typed.limits.drain_seconds),
            },
            guard,
            origins,
            log_format: typed.log_format,
        }),
        _ => Err(faults.join("\n")),
    }
}

#[cfg(test)]
mod tests;
