//! What a person types: the shape of the file, and its layers.

use std::path::{Path, PathBuf};

use corolla_domain::session::Limits;
use figment::{
    Figment, Provider,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize};

use super::{
    choice::{Access, Activations, Backend, Blocks, Dtype, Head, Kernels, KvCache, LogFormat, Pooling, Reach, Screen},
    flags,
};
use crate::{backend, plugin};

/// Variables with our prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 13] = [
    "bootstrap_allowed_peers",
    "bootstrap_dht_prefix",
    "bootstrap_identity",
    "bootstrap_initial_peers",
    "bootstrap_listen",
    "bootstrap_model",
    "bootstrap_secret_file",
    "cache",
    "config",
    "join",
    "log",
    plugin::FOLDER_KEY,
    plugin::GUARD_KEY,
];

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typed {
    pub(super) listen: String,
    pub(super) default_model: Option<String>,
    pub(super) sessions: Sessions,
    pub(super) limits: Rates,
    pub(super) embeddings: Embeddings,
    pub(super) access: Access,
    pub(super) api_keys: Vec<Key>,
    pub(super) cors: CorsRules,
    pub(super) log_format: LogFormat,
    pub(super) models: Vec<Model>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) sha256: String,
    pub(super) requests_per_minute: Option<u32>,
    pub(super) concurrent: Option<usize>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CorsRules {
    pub(super) origins: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sessions {
    pub(super) max_sessions: usize,
    pub(super) default_length: usize,
    pub(super) max_length: usize,
    pub(super) idle_seconds: usize,
    pub(super) prefix_cache: Option<usize>,
    pub(super) store: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rates {
    pub(super) concurrent: usize,
    pub(super) queue: usize,
    pub(super) prefill_chunk: usize,
    pub(super) max_body_bytes: usize,
    pub(super) body_seconds: usize,
    pub(super) connections: usize,
    pub(super) idle_seconds: usize,
    pub(super) drain_seconds: usize,
    pub(super) reply_seconds: usize,
    pub(super) route_seconds: usize,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Embeddings {
    pub(super) pooling: Pooling,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) id: String,
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) backend: Backend,
    pub(super) blocks_backend: Option<backend::Backend>,
    pub(super) device: Option<String>,
    pub(super) head: Option<Head>,
    #[serde(default)]
    pub(super) dtype: Dtype,
    #[serde(default)]
    pub(super) kernels: Kernels,
    #[serde(default)]
    pub(super) activations: Activations,
    #[serde(default)]
    pub(super) screen: Screen,
    #[serde(default)]
    pub(super) kv_cache: KvCache,
    #[serde(default = "yes")]
    pub(super) memory_check: bool,
    #[serde(default)]
    pub(super) blocks: Blocks,
    pub(super) block_range: Option<String>,
    pub(super) threads: Option<usize>,
    pub(super) cache_tokens: Option<usize>,
    pub(super) cache_bytes: Option<String>,
    pub(super) swarm: Option<Swarm>,
    pub(super) host: Option<Host>,
    /// No key: `corolla host` leaves embeddings and head out.
    #[serde(skip, default = "yes")]
    pub(super) ends: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Swarm {
    pub(super) join: Option<String>,
    pub(super) initial_peers: Option<Vec<String>>,
    pub(super) dht_prefix: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) allowed_peers: Option<Vec<String>>,
    #[serde(default)]
    pub(super) allowed_servers: Vec<String>,
    #[serde(default)]
    pub(super) blocked_servers: Vec<String>,
    #[serde(default)]
    pub(super) pinned_servers: Vec<String>,
    #[serde(default)]
    pub(super) listen: Vec<String>,
    pub(super) request_timeout: Option<String>,
    pub(super) identity: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    pub(super) listen: Option<Vec<String>>,
    pub(super) identity: Option<PathBuf>,
    #[serde(default)]
    pub(super) reach: Reach,
    pub(super) public_name: Option<String>,
    pub(super) num_blocks: Option<usize>,
    pub(super) update_period: Option<String>,
    pub(super) drain: Option<String>,
}

fn yes() -> bool {
    true
}

/// What flags say; `None` leaves a key as it is.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Overrides {
    /// Where to listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<String>,
    /// The model for requests that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_model: Option<String>,
    /// What computes that model.
    #[serde(skip)]
    pub(crate) backend: Option<Backend>,
    /// What it computes with.
    #[serde(skip)]
    pub(crate) dtype: Option<Dtype>,
    /// What its keys and values are kept in.
    #[serde(skip)]
    pub(crate) kv_cache: Option<KvCache>,
    /// The model's file or folder, in place of the models that are configured.
    #[serde(skip)]
    pub(crate) path: Option<PathBuf>,
    /// The swarm that runs the blocks of that model.
    #[serde(skip)]
    pub(crate) join: Option<String>,
    /// Present: that model's blocks are served, and nothing else of it.
    #[serde(skip)]
    pub(crate) host: Option<HostFlags>,
}

/// What the flags of `corolla host` say; `None` leaves a key as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFlags {
    /// The blocks.
    pub(crate) blocks: Option<String>,
    /// How many; `Some(None)` is as many as there is memory for.
    pub(crate) num_blocks: Option<Option<usize>>,
    /// Where the swarm is entered.
    pub(crate) initial_peers: Option<Vec<String>>,
    /// The model's name in the swarm.
    pub(crate) dht_prefix: Option<String>,
    /// File with the swarm's secret.
    pub(crate) secret_file: Option<PathBuf>,
    /// The only members.
    pub(crate) allowed_peers: Option<Vec<String>>,
    /// Where to listen.
    pub(crate) listen: Option<Vec<String>>,
    /// File of the key.
    pub(crate) identity: Option<PathBuf>,
    /// Positions that the KV cache holds.
    pub(crate) cache_tokens: Option<usize>,
    /// Bytes that it takes.
    pub(crate) cache_bytes: Option<String>,
    /// Whether others reach it.
    pub(crate) reach: Option<Reach>,
    /// What the server is called in lists.
    pub(crate) public_name: Option<String>,
    /// Threads.
    pub(crate) threads: Option<usize>,
    /// How often the server announces itself.
    pub(crate) update_period: Option<String>,
    /// How long sessions may go on at the end.
    pub(crate) drain: Option<String>,
}

impl Model {
    /// A model with the defaults of all keys that have one.
    pub(super) fn new(id: String, path: PathBuf) -> Self {
        Self {
            id,
            path,
            backend: Backend::default(),
            blocks_backend: None,
            device: None,
            head: None,
            dtype: Dtype::default(),
            kernels: Kernels::default(),
            activations: Activations::default(),
            screen: Screen::default(),
            kv_cache: KvCache::default(),
            memory_check: true,
            blocks: Blocks::default(),
            block_range: None,
            threads: None,
            cache_tokens: None,
            cache_bytes: None,
            swarm: None,
            host: None,
            ends: true,
        }
    }
}

impl Default for Typed {
    fn default() -> Self {
        let Limits {
            max_sessions, default_length, max_length, idle, concurrent, queue, prefill_chunk, patience, ..
        } = Limits::default();
        Self {
            listen: "127.0.0.1:8000".to_owned(),
            default_model: None,
            sessions: Sessions {
                max_sessions,
                default_length,
                max_length,
                idle_seconds: idle.as_secs() as usize,
                prefix_cache: None,
                store: "memory".to_owned(),
            },
            limits: Rates {
                concurrent,
                queue,
                prefill_chunk,
                max_body_bytes: 2 << 20,
                body_seconds: 30,
                connections: 512,
                idle_seconds: 75,
                drain_seconds: 30,
                reply_seconds: 900,
                route_seconds: patience.without_route.as_secs() as usize,
            },
            embeddings: Embeddings::default(),
            access: Access::default(),
            api_keys: Vec::new(),
            cors: CorsRules::default(),
            log_format: LogFormat::default(),
            models: vec![Model::new(
                "smollm2-135m-instruct".to_owned(),
                "models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            )],
        }
    }
}

/// Merges the layers.
pub(super) fn read(file: Option<&Path>, overrides: &Overrides) -> Result<Typed, String> {
    let environment = Env::prefixed("COROLLA_").ignore(&OTHER_VARIABLES).split("__");
    let typed = layers(file, environment, overrides).extract().map_err(|e| {
        let faults: Vec<String> = e.into_iter().map(|fault| sentence(&fault)).collect();
        faults.join("\n")
    })?;
    flags::merge(typed, overrides)
}

fn layers(file: Option<&Path>, environment: impl Provider, overrides: &Overrides) -> Figment {
    let mut figment = Figment::from(Serialized::defaults(Typed::default()));
    if let Some(file) = file {
        figment = figment.merge(Toml::file_exact(file));
    }
    figment.merge(environment).merge(Serialized::defaults(overrides))
}

/// One fault as a sentence with key, value, place and fix.
fn sentence(fault: &figment::Error) -> String {
    let key = fault.path.join(".");
    let place = fault.metadata.as_ref().map_or(String::new(), |m| match &m.source {
        Some(figment::Source::File(file)) => format!(" in {}", file.display()),
        _ if m.name.contains("environment") => {
            format!(" (environment variable COROLLA_{})", key.replace('.', "__").to_uppercase())
        }
        _ => String::new(),
    });
    match &fault.kind {
        Kind::UnknownField(field, known) => {
            let key = if fault.path.last().is_some_and(|last| last == field) { key } else { join(&key, field) };
            format!("{key} is no key of the configuration{place}; the keys here are: {}", known.join(", "))
        }
        Kind::MissingField(field) => format!("{} is missing{place}; add it", join(&key, field)),
        Kind::UnknownVariant(value, known) => {
            format!("{key} = \"{value}\" is not possible{place}; it may be: {}", known.join(", "))
        }
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            let wanted = wanted.to_string();
            let wanted = if wanted == "usize" { "a whole number" } else { &wanted };
            format!("{key} = {found} does not fit{place}; it must be {wanted}")
        }
        kind if key.is_empty() => format!("the configuration cannot be read{place}: {kind}"),
        kind => format!("{key} cannot be read{place}: {kind}"),
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
