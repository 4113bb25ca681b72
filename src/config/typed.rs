//! What a person types: the shape of the file, and its layers.

use std::path::{Path, PathBuf};

use corolla_domain::session::Limits;
use figment::{
    Figment, Provider,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize};

/// Variables with our prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 3] = ["cache", "config", "log"];

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typed {
    pub(super) listen: String,
    pub(super) default_model: Option<String>,
    pub(super) sessions: Sessions,
    pub(super) limits: Rates,
    pub(super) models: Vec<Model>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sessions {
    pub(super) max_sessions: usize,
    pub(super) default_length: usize,
    pub(super) max_length: usize,
    pub(super) idle_seconds: usize,
    pub(super) store: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rates {
    pub(super) concurrent: usize,
    pub(super) queue: usize,
    pub(super) prefill_chunk: usize,
    pub(super) max_body_bytes: usize,
    pub(super) reply_seconds: usize,
    pub(super) route_seconds: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) id: String,
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) backend: Backend,
    #[serde(default)]
    pub(super) dtype: Dtype,
    #[serde(default)]
    pub(super) blocks: Blocks,
    pub(super) block_range: Option<String>,
    pub(super) threads: Option<usize>,
    #[serde(default = "cache_tokens")]
    pub(super) cache_tokens: usize,
    pub(super) swarm: Option<Swarm>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Swarm {
    pub(super) initial_peers: Option<Vec<String>>,
    pub(super) dht_prefix: Option<String>,
    #[serde(default)]
    pub(super) allowed_servers: Vec<String>,
    #[serde(default)]
    pub(super) blocked_servers: Vec<String>,
    #[serde(default)]
    pub(super) pinned_servers: Vec<String>,
    pub(super) request_timeout: Option<String>,
    pub(super) identity: Option<PathBuf>,
}

fn cache_tokens() -> usize {
    32_768
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// candle on this machine's processor.
    #[default]
    CandleCpu,
    /// candle on an NVIDIA card.
    CandleCuda,
    /// libtorch in f32.
    Tch,
}

/// What weights are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dtype {
    /// The file's own: its quantisation, or bf16 for 16-bit files.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// Who runs the transformer blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Blocks {
    /// This process.
    #[default]
    Local,
    /// A Petals swarm.
    Swarm,
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
}

impl Default for Typed {
    fn default() -> Self {
        let Limits { max_sessions, default_length, max_length, idle, concurrent, queue, prefill_chunk, patience } =
            Limits::default();
        Self {
            listen: "127.0.0.1:8000".to_owned(),
            default_model: None,
            sessions: Sessions {
                max_sessions,
                default_length,
                max_length,
                idle_seconds: idle.as_secs() as usize,
                store: "memory".to_owned(),
            },
            limits: Rates {
                concurrent,
                queue,
                prefill_chunk,
                max_body_bytes: 2 << 20,
                reply_seconds: 900,
                route_seconds: patience.without_route.as_secs() as usize,
            },
            models: vec![Model {
                id: "smollm2-135m-instruct".to_owned(),
                path: "models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
                backend: Backend::default(),
                dtype: Dtype::default(),
                blocks: Blocks::default(),
                block_range: None,
                threads: None,
                cache_tokens: cache_tokens(),
                swarm: None,
            }],
        }
    }
}

/// Merges the layers.
pub(super) fn read(file: Option<&Path>, overrides: &Overrides) -> Result<Typed, String> {
    layers(file, Env::prefixed("COROLLA_").ignore(&OTHER_VARIABLES).split("__"), overrides).extract().map_err(|e| {
        let faults: Vec<String> = e.into_iter().map(|fault| sentence(&fault)).collect();
        faults.join("\n")
    })
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
