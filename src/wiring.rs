//! Settings become adapters behind ports: the only place that knows every adapter by name.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use corolla_candle::{DtypeChoice, KernelChoice, Target};
use corolla_checkpoint::inspect as look;
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{
    model::{BlockRange, ModelSpec},
    ports::{FaultKind, PortError, RemoteSwarm, SessionStore, Timestamp},
    routing::{InProcessSwarm, JoinedSwarm},
    session::{Ambient, Catalogue, ModelEntry, ModelState, SessionService},
};
use corolla_sessions::{MemorySessions, RedisSessions};
use corolla_swarm::{PetalsConfig, PetalsSwarm, default_dht_prefix};
pub(crate) use corolla_swarm::{Pin, check_pins};

use crate::config::{Backend, Blocks, Dtype, ModelSettings, Settings, Store};

/// Sessions of several services may live in one Redis server.
const REDIS_PREFIX: &str = "corolla:";
/// How often expired sessions are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// A service over models that are still to be loaded; see [`load_models`].
///
/// # Errors
/// A session store that cannot be reached.
pub(crate) async fn service(settings: &Settings) -> Result<Arc<SessionService>, PortError> {
    let ids = settings.models.iter().map(|m| m.id.clone()).collect();
    let catalogue = Catalogue::loading(ids, settings.default_model.clone())?;
    let store: Arc<dyn SessionStore> = match &settings.store {
        Store::Memory => Arc::new(MemorySessions::default()),
        Store::Redis(url) => Arc::new(RedisSessions::connect(url, REDIS_PREFIX).await?),
    };
    Ok(Arc::new(SessionService::new(catalogue, store, settings.limits.clone(), ambient())))
}

/// Checks what can be known of a model before it is loaded: its files' headers, and that this build has its backend.
///
/// # Errors
/// A sentence that names the fix.
pub(crate) fn inspect(model: &ModelSettings) -> Result<String, PortError> {
    let target = target(model)?;
    if matches!(target, Target::Cuda { .. }) && !cfg!(feature = "cuda") {
        let text =
            "backend = \"candle-cuda\" is not in this build: build with `--features cuda`, or use \"candle-cpu\"";
        return Err(PortError::new(FaultKind::Unsupported, text));
    }
    let summary = look(&model.path)?;
    corolla_tokenizers::load(&model.path)?;
    let all = BlockRange::first(summary.blocks);
    if let Some(range) = model.block_range.filter(|range| !all.contains(*range)) {
        let text = format!("block_range = \"{range}\" goes beyond the model's blocks; write \"{all}\" or a part of it");
        return Err(PortError::invalid(text));
    }
    let here = model.here(summary.blocks).map_or(0, BlockRange::len);
    let positions = summary.max_positions.map_or("any number of".to_owned(), |n| n.to_string());
    let cache = size_of::<f32>() * summary.cache_numbers * here;
    Ok(format!(
        "{} in {}, {} blocks ({}), hidden {}, vocabulary {}, {positions} positions; {} MB of weights, {} MB of KV cache at most",
        summary.family,
        summary.stored.name(),
        summary.blocks,
        model.placement(summary.blocks),
        summary.hidden,
        summary.vocab,
        summary.bytes / 1_000_000,
        cache.saturating_mul(model.cache_tokens) / 1_000_000,
    ))
}

/// Loads every model of the catalogue, one after the other, and tells the service what became of it.
pub(crate) async fn load_models(service: &SessionService, models: &[ModelSettings]) {
    for model in models {
        let begun = std::time::Instant::now();
        let state = match load_model(model).await {
            Ok(entry) => {
                let spec = entry.local.spec();
                tracing::info!(model = %model.id, dtype = %spec.dtype, seconds = begun.elapsed().as_secs_f64(), "loaded");
                ModelState::Loaded(entry)
            }
            Err(fault) => {
                tracing::error!(model = %model.id, error = %fault, "not loaded");
                ModelState::Failed(fault.to_string())
            }
        };
        service.catalogue().set(&model.id, state);
    }
}

/// Forgets expired sessions for as long as it runs.
pub(crate) async fn sweep(service: Arc<SessionService>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        service.sweep().await;
    }
}

/// Loads one model: tokenizer, local part, blocks.
///
/// # Errors
/// What the adapters say.
pub(crate) async fn load_model(model: &ModelSettings) -> Result<ModelEntry, PortError> {
    let path = model.path.clone();
    let tokenizer = tokio::task::spawn_blocking(move || corolla_tokenizers::load(&path))
        .await
        .map_err(|e| PortError::internal("the tokenizer's loader ended early").with_source(e))??;
    let config = LoadConfig {
        id: model.id.clone(),
        path: model.path.clone(),
        ends: true,
        blocks: match (model.blocks, model.block_range) {
            (Blocks::Swarm, _) => BlockChoice::None,
            (Blocks::Local, Some(range)) => BlockChoice::Range(range),
            (Blocks::Local, None) => BlockChoice::All,
        },
        cache_tokens: model.cache_tokens,
    };
    let candle = corolla_candle::load(config, target(model)?).await?;
    let local = candle.local().ok_or_else(|| PortError::internal("the model was loaded without embeddings"))?;
    let swarm: Arc<dyn RemoteSwarm> = match model.blocks {
        Blocks::Local => {
            let engine = candle.engine().ok_or_else(|| PortError::internal("the model was loaded without blocks"))?;
            let here = InProcessSwarm::new(model.id.clone(), engine);
            if on_swarm(model)? { Arc::new(JoinedSwarm::new(here, swarm(model).await?.0)) } else { Arc::new(here) }
        }
        Blocks::Swarm => swarm(model).await?.0,
    };
    Ok(ModelEntry { tokenizer: Arc::new(tokenizer), local, swarm })
}

/// Whether a swarm runs any of a model's blocks.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn on_swarm(model: &ModelSettings) -> Result<bool, PortError> {
    Ok(!model.far(look(&model.path)?.blocks).is_empty())
}

/// A client of the swarm that runs a model's blocks, and how many blocks the model has.
///
/// # Errors
/// Files that cannot be read, an address that is none, a network that cannot be used.
pub(crate) async fn swarm(model: &ModelSettings) -> Result<(Arc<dyn RemoteSwarm>, usize), PortError> {
    let summary = look(&model.path)?;
    let settings = &model.swarm;
    let dht_prefix = match &settings.dht_prefix {
        Some(prefix) => prefix.clone(),
        None => default_dht_prefix(&summary.family, &model.id.0)?,
    };
    let blocks = summary.blocks;
    let spec = ModelSpec {
        id: model.id.clone(),
        family: summary.family,
        hidden: summary.hidden,
        vocab: summary.vocab,
        blocks,
        max_positions: summary.max_positions,
        eos: summary.eos,
        bos: summary.bos,
        dtype: summary.stored.name(),
    };
    let mut config = PetalsConfig {
        identity: settings.identity.clone(),
        allowed_servers: settings.allowed_servers.clone(),
        blocked_servers: settings.blocked_servers.clone(),
        pinned_servers: settings.pinned_servers.clone(),
        request_timeout: settings.request_timeout,
        ..PetalsConfig::new(&spec, dht_prefix)
    };
    if let Some(peers) = &settings.initial_peers {
        config.initial_peers.clone_from(peers);
    }
    Ok((Arc::new(PetalsSwarm::start(config).await?), blocks))
}

/// Where and how candle computes a model.
fn target(model: &ModelSettings) -> Result<Target, PortError> {
    let dtype = match model.dtype {
        Dtype::Auto => DtypeChoice::Auto,
        Dtype::F32 => DtypeChoice::F32,
        Dtype::Bf16 => DtypeChoice::Bf16,
    };
    match model.backend {
        Backend::CandleCpu => Ok(Target::Cpu { dtype, kernels: KernelChoice::Auto, threads: model.threads }),
        Backend::CandleCuda => Ok(Target::Cuda { dtype, device: 0 }),
        Backend::Tch => Err(PortError::new(
            FaultKind::Unsupported,
            "backend = \"tch\" needs the cargo feature `libtorch`, which this version does not have yet; use \
             \"candle-cpu\"",
        )),
    }
}

fn ambient() -> Ambient {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    };
    // Session names must not be guessable, so there is no way to go on without the system's randomness.
    #[allow(clippy::expect_used, reason = "see above")]
    let random = || getrandom::u64().expect("the system's source of randomness");
    Ambient { now: Arc::new(now), random: Arc::new(random) }
}
