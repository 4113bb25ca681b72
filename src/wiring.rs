//! Plans become adapters behind ports. This file and those below it are the only ones that know adapters by name.

mod backends;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use corolla_checkpoint::{ModelSummary, inspect as look};
use corolla_domain::{
    fit::{Demand, Sizes, Stored},
    model::{BlockRange, ModelSpec},
    ports::{PortError, RemoteSwarm, SessionStore, Timestamp},
    routing::{InProcessSwarm, JoinedSwarm},
    session::{Ambient, Catalogue, ModelEntry, ModelState, SessionService},
};
use corolla_sessions::{MemorySessions, RedisSessions};
use corolla_swarm::{PetalsConfig, PetalsSwarm, default_dht_prefix};
pub(crate) use corolla_swarm::{Pin, check_pins};

use crate::{
    config::{ModelSettings, Settings, Store},
    plan::ModelPlan,
};
pub(crate) use backends::facts;

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

/// Checks what can be known of a model before it is loaded: its files' headers.
///
/// # Errors
/// A sentence that names the fix.
pub(crate) fn inspect(model: &ModelSettings) -> Result<String, PortError> {
    let summary = look(&model.path)?;
    corolla_tokenizers::load(&model.path)?;
    let all = BlockRange::first(summary.blocks);
    if let Some(range) = model.block_range.filter(|range| !all.contains(*range)) {
        let text = format!("block_range = \"{range}\" goes beyond the model's blocks; write \"{all}\" or a part of it");
        return Err(PortError::invalid(text));
    }
    let here = model.here(summary.blocks).map_or(0, BlockRange::len);
    let positions = summary.max_positions.map_or("any number of".to_owned(), |n| n.to_string());
    let cache = cache_bytes(&summary) * here as u64;
    Ok(format!(
        "{} in {}, {} blocks ({}), hidden {}, vocabulary {}, {positions} positions; {} MB of weights, {} MB of KV cache at most",
        summary.family,
        summary.stored.name(),
        summary.blocks,
        model.placement(summary.blocks),
        summary.hidden,
        summary.vocab,
        summary.bytes / 1_000_000,
        cache.saturating_mul(model.cache_tokens as u64) / 1_000_000,
    ))
}

/// Bytes of KV cache for one position in one block.
fn cache_bytes(summary: &ModelSummary) -> u64 {
    (size_of::<f32>() * summary.cache_numbers) as u64
}

/// What a model needs of this machine.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn demand(model: &ModelSettings, prefill_chunk: usize) -> Result<Demand, PortError> {
    let summary = look(&model.path)?;
    let sizes = Sizes { hidden: summary.hidden as u64, vocab: summary.vocab as u64, cache: cache_bytes(&summary) };
    let hosted = model.here(summary.blocks).map_or(0..0, |here| here.start()..here.end());
    let stored = Stored::named(&summary.stored.name());
    Ok(Demand::new(&summary.parts, hosted, stored, sizes, model.cache_tokens as u64, prefill_chunk as u64))
}

/// Loads every model of the catalogue, one after the other, and tells the service what became of it.
pub(crate) async fn load_models(service: &SessionService, plans: &[ModelPlan]) {
    for plan in plans {
        let model = &plan.settings;
        let begun = std::time::Instant::now();
        tracing::info!(
            model = %model.id, backend = plan.choice.ends.backend, dtype = %plan.choice.ends.dtype,
            reason = plan.choice.reason, "loading"
        );
        let state = match load_model(plan).await {
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
pub(crate) async fn load_model(plan: &ModelPlan) -> Result<ModelEntry, PortError> {
    let model = &plan.settings;
    let path = model.path.clone();
    let tokenizer = tokio::task::spawn_blocking(move || corolla_tokenizers::load(&path))
        .await
        .map_err(|e| PortError::internal("the tokenizer's loader ended early").with_source(e))??;
    let (local, engine) = backends::load(plan).await?;
    let here = engine.map(|engine| InProcessSwarm::new(model.id.clone(), engine));
    let swarm: Arc<dyn RemoteSwarm> = match here {
        None => swarm(model).await?.0,
        Some(here) if on_swarm(model)? => Arc::new(JoinedSwarm::new(here, swarm(model).await?.0)),
        Some(here) => Arc::new(here),
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
