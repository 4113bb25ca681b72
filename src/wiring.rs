//! Plans become adapters behind ports. This file and those below it are the only ones that know adapters by name.

mod backends;
pub(crate) mod host;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use corolla_checkpoint::{ModelSummary, inspect};
use corolla_domain::{
    fit::{Demand, KvType, Sizes},
    model::{BlockRange, ModelSpec},
    ports::{BlockEngine, Observer, PortError, RemoteSwarm, SessionStore, Timestamp},
    routing::{InProcessSwarm, JoinedSwarm},
    session::{Ambient, Catalogue, ModelEntry, ModelState, SessionService},
};
use corolla_sessions::{MemorySessions, RedisSessions};
pub(crate) use corolla_swarm::{
    PUBLIC_INITIAL_PEERS, Pin, check_pins,
    server::{Reach, Way},
    transport::{Access, PeerId, SwarmSecret},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm, default_dht_prefix};

use crate::{
    config::{ModelSettings, Settings, Store},
    plan::{Looked, ModelPlan},
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
pub(crate) async fn service(
    settings: &Settings,
    observer: Arc<dyn Observer>,
) -> Result<Arc<SessionService>, PortError> {
    let ids = settings.models.iter().map(|m| m.id.clone()).collect();
    let catalogue = Catalogue::loading(ids, settings.default_model.clone())?;
    let store: Arc<dyn SessionStore> = match &settings.store {
        Store::Memory => Arc::new(MemorySessions::default()),
        Store::Redis(url) => Arc::new(RedisSessions::connect(url, REDIS_PREFIX).await?),
    };
    Ok(Arc::new(SessionService::observed(catalogue, store, settings.limits.clone(), ambient(), observer)))
}

/// Looks at a model's files without reading weights: what it is, and what it needs of this machine when
/// `prefill_chunk` positions are computed at a time.
///
/// # Errors
/// A sentence that names the fix.
pub(crate) fn look_at(model: &ModelSettings, prefill_chunk: usize) -> Result<Looked, PortError> {
    let summary = inspect(&model.path)?;
    let tokenizer = if model.ends { Some(corolla_tokenizers::load(&model.path)?) } else { None };
    let all = BlockRange::first(summary.blocks);
    if let Some(range) = model.block_range.filter(|range| !all.contains(*range)) {
        let text = format!("block_range = \"{range}\" goes beyond the model's blocks; write \"{all}\" or a part of it");
        return Err(PortError::invalid(text));
    }
    let here = model.certain(summary.blocks).map_or(0..0, |here| here.start()..here.end());
    let cache_tokens = cache_tokens(model, &summary, here.len())?;
    let positions = summary.max_positions.map_or("any number of".to_owned(), |n| n.to_string());
    let kv_type = model.compute.kv_type;
    let sizes = sizes(&summary, kv_type);
    let about = format!(
        "{} in {}, {} blocks ({}), hidden {}, vocabulary {}, {positions} positions; {} MB of weights, {} MB of KV cache{} at most",
        summary.family,
        summary.stored.name(),
        summary.blocks,
        model.placement(summary.blocks),
        summary.hidden,
        summary.vocab,
        summary.bytes / 1_000_000,
        (sizes.cache * here.len() as u64).saturating_mul(cache_tokens as u64) / 1_000_000,
        if kv_type == KvType::F32 { String::new() } else { format!(" in {kv_type}") },
    );
    let (tokens, chunk) = (cache_tokens as u64, prefill_chunk as u64);
    let demand = Demand::new(&summary.parts, here, summary.stored.into(), sizes, tokens, chunk);
    Ok(Looked { about, demand: if model.ends { demand } else { demand.without_ends() }, cache_tokens, tokenizer })
}

/// Positions that the KV cache of `blocks` blocks holds.
fn cache_tokens(model: &ModelSettings, summary: &ModelSummary, blocks: usize) -> Result<usize, PortError> {
    let Some(bytes) = model.cache_bytes.filter(|_| blocks > 0) else { return Ok(model.cache_tokens) };
    let position = sizes(summary, model.compute.kv_type).cache.saturating_mul(blocks as u64).max(1);
    let tokens = usize::try_from(bytes / position).unwrap_or(usize::MAX);
    if tokens == 0 {
        return Err(PortError::invalid(format!(
            "cache_bytes (--attn-cache-bytes): {bytes} bytes leave no room for a session; one position takes {position} of \
             them in {blocks} blocks"
        )));
    }
    Ok(tokens)
}

/// The sizes of a model that say how much room a step takes.
fn sizes(summary: &ModelSummary, kv_type: KvType) -> Sizes {
    let cache = summary.position_bytes(kv_type);
    Sizes { hidden: summary.hidden as u64, vocab: summary.vocab as u64, cache: cache as u64 }
}

/// Loads every model of the catalogue, one after the other, and tells the service what became of it. Returns those whose
/// blocks are to be served to a swarm too: the same weights, and one KV cache.
pub(crate) async fn load_models<'a>(
    service: &SessionService,
    plans: &'a [ModelPlan],
) -> Vec<(&'a ModelPlan, Arc<dyn BlockEngine>)> {
    let mut hosted = Vec::new();
    for plan in plans {
        let model = &plan.settings;
        let begun = std::time::Instant::now();
        tracing::info!(
            model = %model.id, backend = plan.choice.ends.backend, dtype = %plan.choice.ends.dtype,
            reason = plan.choice.reason, "loading"
        );
        let state = match load_model(plan).await {
            Ok((entry, engine)) => {
                hosted.extend(engine.filter(|_| model.host.is_some()).map(|engine| (plan, engine)));
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
    hosted
}

/// Forgets expired sessions for as long as it runs.
pub(crate) async fn sweep(service: Arc<SessionService>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        service.sweep().await;
    }
}

/// Loads one model: local part and blocks. With it comes what computes the blocks that run here.
///
/// # Errors
/// What the adapters say.
async fn load_model(plan: &ModelPlan) -> Result<(ModelEntry, Option<Arc<dyn BlockEngine>>), PortError> {
    let model = &plan.settings;
    let without = || PortError::internal("a model without ends is to write replies");
    let tokenizer = plan.tokenizer.clone().ok_or_else(without)?;
    let (local, engine) = backends::load(plan).await?;
    let spec = local.spec();
    let here = engine.clone().map(|engine| InProcessSwarm::new(model.id.clone(), engine));
    let swarm: Arc<dyn RemoteSwarm> = match here {
        None => swarm(model, &spec).await?,
        Some(here) if model.far(spec.blocks).is_empty() => Arc::new(here),
        Some(here) => Arc::new(JoinedSwarm::new(here, swarm(model, &spec).await?)),
    };
    Ok((ModelEntry { tokenizer: Arc::new(tokenizer), local, swarm }, engine))
}

/// What a model is, from its files.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn spec(model: &ModelSettings) -> Result<ModelSpec, PortError> {
    let summary = inspect(&model.path)?;
    Ok(summary.spec(model.id.clone(), summary.stored.name()))
}

/// A client of the swarm that runs a model's blocks.
///
/// # Errors
/// An address that is none, a network that cannot be used.
pub(crate) async fn swarm(model: &ModelSettings, spec: &ModelSpec) -> Result<Arc<dyn RemoteSwarm>, PortError> {
    let settings = &model.swarm;
    let dht_prefix = dht_prefix(model, &spec.family)?;
    let mut config = PetalsConfig {
        identity: settings.identity.clone(),
        access: settings.access.clone(),
        listen: settings.listen.clone(),
        allowed_servers: settings.allowed_servers.clone(),
        blocked_servers: settings.blocked_servers.clone(),
        pinned_servers: settings.pinned_servers.clone(),
        request_timeout: settings.request_timeout,
        ..PetalsConfig::new(spec.id.clone(), spec.blocks, spec.hidden, dht_prefix)
    };
    if let Some(peers) = &settings.initial_peers {
        config.initial_peers.clone_from(peers);
    }
    Ok(Arc::new(PetalsSwarm::start(config).await?))
}

/// Under which name a swarm announces a model's blocks.
fn dht_prefix(model: &ModelSettings, family: &str) -> Result<String, PortError> {
    match &model.swarm.dht_prefix {
        Some(prefix) => Ok(prefix.clone()),
        None => default_dht_prefix(family, &model.id.0),
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
