//! One model of the configuration: which files, what computes it, and where its blocks are.

use std::path::{Path, PathBuf};

use corolla_domain::{
    fit::{Dtype, Kernels, KvType, Screen},
    model::{BlockRange, ModelId},
};

use super::{
    choice::{Activations, Blocks, Head},
    swarm::{self, HostSettings, SwarmSettings},
    typed,
};
use crate::{backend::Backend, join::JoinToken};

/// Positions that a KV cache holds by default.
pub(super) const CACHE_TOKENS: usize = 32_768;

/// One model to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelSettings {
    /// The name clients use.
    pub(crate) id: ModelId,
    /// A GGUF file, or a folder in Hugging Face layout.
    pub(crate) path: PathBuf,
    /// What computes, and with what.
    pub(crate) compute: ComputeSettings,
    /// Who runs the transformer blocks.
    pub(crate) blocks: Blocks,
    /// The blocks that this process runs, where they are local but not all of them; a swarm runs the rest.
    pub(crate) block_range: Option<BlockRange>,
    /// Threads of the backend; `None` is one for each core.
    pub(crate) threads: Option<usize>,
    /// Positions that the KV cache holds, over all sessions. Where it is given in bytes, so many as these hold once the model
    /// was looked at.
    pub(crate) cache_tokens: usize,
    /// Bytes that the KV cache takes, where it is given in bytes.
    pub(crate) cache_bytes: Option<u64>,
    /// How to reach the swarm; used where it runs the blocks, or has clients for those that run here.
    pub(crate) swarm: SwarmSettings,
    /// Whether embeddings and LM head are computed here; they are not by a server of blocks.
    pub(crate) ends: bool,
    /// How the blocks that run here are served to the swarm, where they are.
    pub(crate) host: Option<HostSettings>,
}

impl ModelSettings {
    /// The blocks that this process runs of a model that has so many.
    pub(crate) fn here(&self, blocks: usize) -> Option<BlockRange> {
        match self.blocks {
            Blocks::Local => Some(self.block_range.unwrap_or(BlockRange::first(blocks))),
            Blocks::Swarm => None,
        }
    }

    /// The blocks that this process runs at least: a server of blocks may be free to choose which, and how many.
    pub(crate) fn certain(&self, blocks: usize) -> Option<BlockRange> {
        match (&self.host, self.block_range) {
            (Some(host), None) if !self.ends => Some(BlockRange::first(host.num_blocks.unwrap_or(1).clamp(1, blocks))),
            _ => self.here(blocks),
        }
    }

    /// The token by which others host blocks in the model's swarm, where it has one that lets everybody in.
    pub(crate) fn open_token(&self) -> Option<JoinToken> {
        let shared = self.blocks == Blocks::Swarm || self.block_range.is_some() || self.host.is_some();
        if shared { self.swarm.open_token(&self.id) } else { None }
    }

    /// The runs of blocks that a swarm runs of a model that has so many.
    pub(crate) fn far(&self, blocks: usize) -> Vec<BlockRange> {
        match self.here(blocks) {
            None => vec![BlockRange::first(blocks)],
            Some(here) => {
                let (before, after) = (BlockRange::new(0, here.start()), BlockRange::new(here.end(), blocks));
                before.into_iter().chain(after).collect()
            }
        }
    }

    /// Who runs which blocks, in words.
    pub(crate) fn placement(&self, blocks: usize) -> String {
        let far: Vec<String> = self.far(blocks).iter().map(ToString::to_string).collect();
        match self.here(blocks) {
            Some(_) if !self.ends && self.block_range.is_none() => {
                "as many as fit, where the swarm needs them".to_owned()
            }
            None => "all from the swarm".to_owned(),
            Some(_) if far.is_empty() => "all here".to_owned(),
            Some(here) => format!("{here} here, {} from the swarm", far.join(" and ")),
        }
    }
}

/// What is computed with; what is left open is decided when the model's files and the machine were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComputeSettings {
    /// The backend.
    pub(crate) backend: Option<Backend>,
    /// The backend of the blocks, where they have their own.
    pub(crate) blocks_backend: Option<Backend>,
    /// How weights are kept.
    pub(crate) dtype: Option<Dtype>,
    /// The number of the card.
    pub(crate) card: Option<usize>,
    /// Whether embeddings and head of a model on a card stay in the machine's memory.
    pub(crate) head_on_processor: bool,
    /// Which kernels the processor runs.
    pub(crate) kernels: Option<Kernels>,
    /// Whether the processor multiplies weights with activations as they are, rounded nowhere.
    pub(crate) exact_activations: bool,
    /// The screen over the head with which the processor finds the best tokens.
    pub(crate) screen: Option<Screen>,
    /// What keys and values are kept in.
    pub(crate) kv_type: KvType,
    /// Whether a model that does not fit is refused.
    pub(crate) check_memory: bool,
}

/// # Errors
/// A sentence that names key, value and fix.
pub(super) fn check(at: usize, model: typed::Model) -> Result<ModelSettings, String> {
    let name = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if model.id.is_empty() || model.id.len() > 128 || !model.id.chars().all(name) {
        let id = model.id;
        return Err(format!("models[{at}].id = \"{id}\" is no name; use up to 128 of letters, digits and - _ . / :"));
    }
    if model.threads == Some(0) || model.threads.is_some_and(|n| n > 1024) {
        return Err(format!("models[{at}].threads must be 1 to 1024; leave it out for one thread a core"));
    }
    let cache_bytes = match (model.cache_tokens, &model.cache_bytes) {
        (Some(0), _) => {
            return Err(format!(
                "models[{at}].cache_tokens = 0 leaves no room for a session; {CACHE_TOKENS} is the default"
            ));
        }
        (Some(_), Some(_)) => {
            return Err(format!(
                "models[{at}] has both cache_tokens and cache_bytes, two sizes of one KV cache; keep one"
            ));
        }
        (_, Some(text)) => Some(check_size(&format!("models[{at}].cache_bytes"), text)?),
        (_, None) => None,
    };
    let block_range = model.block_range.as_ref().map(|text| check_range(at, model.blocks, text)).transpose()?;
    let compute = check_compute(at, &model)?;
    let swarm = swarm::check(at, model.swarm.unwrap_or_default())?;
    let host = model.host.map(|host| swarm::check_host(at, model.blocks, &swarm, host)).transpose()?;
    Ok(ModelSettings {
        id: ModelId(model.id),
        swarm,
        ends: model.ends,
        host,
        path: model.path,
        compute,
        blocks: model.blocks,
        block_range,
        threads: model.threads,
        cache_tokens: model.cache_tokens.unwrap_or(CACHE_TOKENS),
        cache_bytes,
    })
}

fn check_size(key: &str, text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
        format!("{key} = \"{text}\" is no size; write a whole number of MB, GB, MiB or GiB, such as \"2GiB\"")
    })
}

fn check_range(at: usize, blocks: Blocks, text: &str) -> Result<BlockRange, String> {
    let key = format!("models[{at}].block_range = \"{text}\"");
    if blocks == Blocks::Swarm {
        return Err(format!(
            "{key} is for blocks = \"local\": these run here and the swarm runs the rest; with blocks = \"swarm\" \
             leave it out"
        ));
    }
    let numbers =
        text.split_once(':').and_then(|(start, end)| Some((start.trim().parse().ok()?, end.trim().parse().ok()?)));
    numbers.and_then(|(start, end)| BlockRange::new(start, end)).ok_or_else(|| {
        format!(
            "{key} is no run of blocks; write \"first block:block after the last\", such as \"0:12\" for blocks 0 to 11"
        )
    })
}

/// # Errors
/// There is no such file.
pub(super) fn check_path(at: usize, path: &Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    Err(format!(
        "models[{at}].path = \"{}\": there is no such file or folder; `make model` fetches the default model, any other \
         is a GGUF file or a folder in Hugging Face layout",
        path.display()
    ))
}

/// What can be said of a backend's settings without looking at files or at the machine.
fn check_compute(at: usize, model: &typed::Model) -> Result<ComputeSettings, String> {
    let backend = model.backend.chosen();
    let blocks_backend = model.blocks_backend;
    let among = |wanted: Backend| {
        let either = [backend, blocks_backend];
        backend.is_none() || either.contains(&Some(wanted))
    };
    let only = |key: &str, wanted: Backend| {
        let name = wanted.name();
        format!("models[{at}].{key} is for backend = \"{name}\" only; leave it out, or use that backend")
    };
    if model.device.is_some() && !among(Backend::CandleCuda) {
        return Err(only("device", Backend::CandleCuda));
    }
    if model.head.is_some() && !(backend.is_none() || backend == Some(Backend::CandleCuda)) {
        return Err(only("head", Backend::CandleCuda));
    }
    let kernels = model.kernels.chosen();
    if kernels.is_some() && !among(Backend::CandleCpu) {
        return Err(only("kernels", Backend::CandleCpu));
    }
    if model.activations != Activations::Auto && !among(Backend::CandleCpu) {
        return Err(only("activations", Backend::CandleCpu));
    }
    let head_on_processor = model.head == Some(Head::Cpu);
    // It belongs to the head, wherever the blocks are.
    if model.screen.chosen().is_some() && !head_on_processor && backend.is_some_and(|backend| !backend.screens()) {
        return Err(only("screen", Backend::CandleCpu));
    }
    // It belongs to the blocks, where they run here.
    let kv_type = model.kv_cache.chosen();
    let of_blocks = blocks_backend.or(backend).filter(|_| model.blocks == Blocks::Local);
    if of_blocks.is_some_and(|backend| !backend.kv_types().contains(&kv_type)) {
        return Err(only(&format!("kv_cache = \"{kv_type}\""), Backend::CandleCpu));
    }
    let card = model.device.as_ref().map(|device| {
        let number = device.strip_prefix("cuda:").filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        number.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
            format!("models[{at}].device = \"{device}\" is no device; write \"cuda:0\" for the first card")
        })
    });
    Ok(ComputeSettings {
        backend,
        blocks_backend,
        dtype: model.dtype.chosen(),
        card: card.transpose()?,
        head_on_processor,
        kernels,
        exact_activations: model.activations == Activations::F32,
        screen: model.screen.chosen(),
        kv_type,
        check_memory: model.memory_check,
    })
}
