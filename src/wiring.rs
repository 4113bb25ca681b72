//! Settings become adapters behind ports: the only place that knows every adapter by name.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use corolla_candle::{BlockChoice, CandleConfig, CandleModel, DeviceChoice, DtypeChoice};
use corolla_domain::{
    fit::{Demand, Dtype, Side, Sizes, Stored},
    model::ModelSpec,
    ports::{BlockEngine, FaultKind, LocalModel, PortError, RemoteSwarm, SessionStore, Timestamp},
    routing::InProcessSwarm,
    session::{Ambient, Catalogue, ModelEntry, ModelState, SessionService},
};
use corolla_sessions::{MemorySessions, RedisSessions};
use corolla_swarm::{PetalsConfig, PetalsSwarm, default_dht_prefix};
pub(crate) use corolla_swarm::{Pin, check_pins};

use crate::{
    backend::Backend,
    config::{Blocks, ModelSettings, Settings, Store},
    plan::ModelPlan,
    plugin::Facts,
};

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
    let summary = corolla_candle::inspect(&model.path)?;
    corolla_tokenizers::load(&model.path)?;
    let positions = summary.max_positions.map_or("any number of".to_owned(), |n| n.to_string());
    Ok(format!(
        "{} in {}, {} blocks, hidden {}, vocabulary {}, {positions} positions; {} MB of weights, {} MB of KV cache at most",
        summary.family,
        summary.dtype,
        summary.blocks,
        summary.hidden,
        summary.vocab,
        summary.bytes / 1_000_000,
        summary.cache_bytes.saturating_mul(model.cache_tokens) / 1_000_000,
    ))
}

/// What a model needs of this machine.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn demand(model: &ModelSettings, prefill_chunk: usize) -> Result<Demand, PortError> {
    let summary = corolla_candle::inspect(&model.path)?;
    let cache = (summary.cache_bytes / summary.blocks.max(1)) as u64;
    let sizes = Sizes { hidden: summary.hidden as u64, vocab: summary.vocab as u64, cache };
    let (hosted, stored) = (hosted(model, summary.blocks), Stored::named(&summary.dtype));
    Ok(Demand::new(&summary.parts, hosted, stored, sizes, model.cache_tokens as u64, prefill_chunk as u64))
}

/// The blocks that this process runs of a model that has so many.
fn hosted(model: &ModelSettings, blocks: usize) -> Range<usize> {
    match model.blocks {
        Blocks::Local => 0..blocks,
        Blocks::Swarm => 0..0,
    }
}

/// What a backend that was built in finds on this machine.
///
/// # Errors
/// A sentence that says why it cannot be used, and what would help.
pub(crate) fn facts(backend: Backend) -> Result<Facts, String> {
    match backend {
        Backend::CandleCpu => Ok(Facts::default()),
        Backend::CandleCuda => Err("this version does not look for cards yet; use \"candle-cpu\"".to_owned()),
        Backend::Tch => Err("this version has no adapter for libtorch yet; use \"candle-cpu\"".to_owned()),
    }
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
    let (local, engine) = compute(plan).await?;
    let swarm: Arc<dyn RemoteSwarm> = match model.blocks {
        Blocks::Local => {
            let engine = engine.ok_or_else(|| PortError::internal("the model was loaded without blocks"))?;
            Arc::new(InProcessSwarm::new(model.id.clone(), engine))
        }
        Blocks::Swarm => swarm(model).await?.0,
    };
    Ok(ModelEntry { tokenizer: Arc::new(tokenizer), local, swarm })
}

type Computed = (Arc<dyn LocalModel>, Option<Arc<dyn BlockEngine>>);

/// Embeddings and head, and the blocks that this process runs, each on its backend.
async fn compute(plan: &ModelPlan) -> Result<Computed, PortError> {
    let (ends, blocks) = (plan.choice.ends, plan.choice.blocks);
    let hosts = plan.settings.blocks == Blocks::Local;
    if !hosts || ends == blocks {
        return on(ends, plan, hosts).await;
    }
    let (local, _) = on(ends, plan, false).await?;
    let (_, engine) = on(blocks, plan, true).await?;
    Ok((local, engine))
}

/// A model on one backend, with its blocks or without.
async fn on(side: Side, plan: &ModelPlan, with_blocks: bool) -> Result<Computed, PortError> {
    match Backend::named(side.backend) {
        Some(Backend::CandleCpu) => candle_cpu(side, plan, with_blocks).await,
        Some(Backend::CandleCuda) => candle_cuda(side, plan, with_blocks).await,
        Some(Backend::Tch) => tch(side, plan, with_blocks).await,
        None => Err(PortError::internal(format!("{} is no backend", side.backend))),
    }
}

async fn candle_cpu(side: Side, plan: &ModelPlan, with_blocks: bool) -> Result<Computed, PortError> {
    candle(DeviceChoice::Cpu, side, plan, with_blocks).await
}

async fn candle_cuda(side: Side, plan: &ModelPlan, with_blocks: bool) -> Result<Computed, PortError> {
    candle(DeviceChoice::Cuda(side.card.unwrap_or(0)), side, plan, with_blocks).await
}

#[allow(clippy::unused_async, reason = "as its neighbours")]
async fn tch(_: Side, _: &ModelPlan, _: bool) -> Result<Computed, PortError> {
    Err(PortError::new(FaultKind::Unsupported, "this version has no adapter for libtorch yet"))
}

async fn candle(device: DeviceChoice, side: Side, plan: &ModelPlan, with_blocks: bool) -> Result<Computed, PortError> {
    let dtype = match side.dtype {
        Dtype::Stored => DtypeChoice::File,
        Dtype::F32 => DtypeChoice::F32,
        Dtype::Bf16 => DtypeChoice::Bf16,
        other => {
            let text = format!("weights cannot be made {other} yet; use dtype = \"bf16\", or a file that is {other}");
            return Err(PortError::new(FaultKind::Unsupported, text));
        }
    };
    let model = CandleModel::load(CandleConfig {
        id: plan.settings.id.clone(),
        path: plan.settings.path.clone(),
        dtype,
        device,
        blocks: if with_blocks { BlockChoice::All } else { BlockChoice::None },
        cache_tokens: plan.settings.cache_tokens,
        threads: plan.settings.threads,
    })
    .await?;
    Ok((model.local(), model.engine()))
}

/// A client of the swarm that runs a model's blocks, and how many there are.
///
/// # Errors
/// Files that cannot be read, an address that is none, a network that cannot be used.
pub(crate) async fn swarm(model: &ModelSettings) -> Result<(Arc<dyn RemoteSwarm>, usize), PortError> {
    let summary = corolla_candle::inspect(&model.path)?;
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
        dtype: summary.dtype,
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
