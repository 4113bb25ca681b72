//! Plans become servers of blocks, and nodes through which swarms are entered.

mod files;
mod speed;

use std::{path::Path, sync::Arc, time::Duration};

use corolla_checkpoint::{ModelSummary, inspect};
use corolla_domain::{
    fit::{Dtype, Side, Stored},
    model::{BlockRange, ElementType},
    placement::Share,
    ports::{BlockEngine, FaultKind, PortError},
};
pub(crate) use corolla_swarm::server::{Bootstrap, BootstrapConfig, reachability};
use corolla_swarm::{
    server::{Balance, Loader, Placement, ServerConfig, ServerLimits, Tenant},
    wire::server::check_prefix,
};
use tokio::sync::watch;

use self::files::{Files, InUse};
use super::{cache_tokens, dht_prefix, sizes};
use crate::{backend::Backend, config::HostSettings, machine, plan::ModelPlan};

/// How long after a swarm could not be entered it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// What is to be loaded and served.
pub(crate) struct HostPlan {
    pub(crate) model: ModelPlan,
    settings: HostSettings,
    summary: ModelSummary,
    dht_prefix: String,
    /// These, or as many.
    blocks: BlockRange,
    placement: Placement,
    /// What a block takes.
    share: Share,
    limits: ServerLimits,
    /// Whether speeds that are known are measured again.
    measure: bool,
}

/// Positions of KV cache that a server of this model's blocks has by default: the reference's numbers, for a model whose
/// heads share keys and values and for others.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn usual_cache_tokens(path: &Path) -> Result<usize, PortError> {
    Ok(if shares_heads(&inspect(path)?) { 16_384 } else { 4096 })
}

/// A model whose heads share keys and values keeps fewer numbers than two hidden states a position.
fn shares_heads(summary: &ModelSummary) -> bool {
    summary.cache_numbers < 2 * summary.hidden
}

/// Decides which blocks, or how many.
///
/// # Errors
/// Files that cannot be read, blocks that the model does not have, or that there is no memory for.
pub(crate) fn plan(mut model: ModelPlan, measure: bool) -> Result<HostPlan, PortError> {
    let settings = model.settings.host.clone().ok_or_else(|| PortError::invalid("there is nothing to host"))?;
    let summary = inspect(&model.settings.path)?;
    let dht_prefix = dht_prefix(&model.settings, &summary.family)?;
    check_prefix(&dht_prefix)?;
    let limits = ServerLimits::stock(shares_heads(&summary));
    let (stored, side, kv_type) = (summary.stored.into(), model.choice.blocks, model.settings.compute.kv_type);
    let kept = side.dtype.kept(&stored, Backend::named(side.backend).is_some_and(Backend::widens));
    let with_cache = |tokens: usize| {
        let share = Share::new(
            &summary.parts,
            sizes(&summary, kv_type),
            (&stored, kept),
            tokens as u64,
            limits.max_batch as u64,
        );
        share.ok_or_else(|| PortError::invalid("the blocks cannot be kept in that dtype"))
    };
    let all = BlockRange::first(summary.blocks);
    let blocks = match model.settings.block_range {
        Some(range) => range,
        None if model.settings.ends => all, // those that this process computes with
        None => {
            // A cache of so many bytes is as large however many blocks share it.
            let (share, cache) = match model.settings.cache_bytes {
                Some(bytes) => (with_cache(0)?, bytes),
                None => (with_cache(model.settings.cache_tokens)?, 0),
            };
            BlockRange::first(count(&model, settings.num_blocks, all.len(), (share, cache))?)
        }
    };
    model.settings.cache_tokens = cache_tokens(&model.settings, &summary, blocks.len())?;
    let share = with_cache(model.settings.cache_tokens)?;
    let fixed = model.settings.block_range.is_some() || model.settings.ends || blocks == all;
    let balance = Balance { grace: settings.drain, ..Balance::default() };
    let placement = if fixed { Placement::Fixed } else { Placement::Free(balance) };
    Ok(HostPlan { model, settings, summary, dht_prefix, blocks, placement, share, limits, measure })
}

/// How many of `all` blocks a server takes that chooses them itself: as many as it was told, or as there is memory for
/// beside a cache of that many bytes.
fn count(model: &ModelPlan, told: Option<usize>, all: usize, (share, cache): (Share, u64)) -> Result<usize, PortError> {
    let fault = |fault: String| PortError::invalid(format!("{}: {fault}", model.settings.path.display()));
    let side = model.choice.blocks;
    let free = side.card.map_or(model.room.memory, |nth| model.room.card(side.backend, nth)).saturating_sub(cache);
    match told {
        None => share.most(all, free).map_err(fault),
        Some(count) if count > all => Err(fault(format!("num_blocks = {count} (--num-blocks), but there are {all}"))),
        Some(count) if model.settings.compute.check_memory => {
            share.check(count, free).map(|()| count).map_err(|it| fault(format!("num_blocks (--num-blocks): {it}")))
        }
        Some(count) => Ok(count),
    }
}

/// Enters the swarm.
///
/// # Errors
/// A swarm that does not answer, addresses and files that cannot be used.
pub(crate) async fn enter(plan: &HostPlan) -> Result<Bootstrap, PortError> {
    let (swarm, host) = (&plan.model.settings.swarm, &plan.settings);
    let settings = BootstrapConfig {
        listen: host.listen.clone(),
        identity: host.identity.clone(),
        initial_peers: swarm.initial_peers.clone().unwrap_or_default(),
        access: swarm.access.clone(),
        reach: host.reach,
    };
    Bootstrap::start(settings).await
}

/// A server that is about to take its place in the swarm, with blocks from the model's files.
///
/// # Errors
/// Blocks that cannot be loaded to measure how fast they are.
pub(crate) async fn tenant(plan: HostPlan, member: Bootstrap) -> Result<Tenant, PortError> {
    let loader = Files { model: plan.model.clone(), share: plan.share };
    serving(plan, member, None, Arc::new(loader)).await
}

/// The same; `engine` has the blocks where they are in use here anyway.
async fn serving(
    plan: HostPlan,
    member: Bootstrap,
    engine: Option<Arc<dyn BlockEngine>>,
    loader: Arc<dyn Loader>,
) -> Result<Tenant, PortError> {
    let speed = speed::speed(&plan, &member, engine).await?;
    let dtype = sent(plan.model.choice.blocks, &plan.summary.stored.into());
    let host = plan.settings;
    let config = ServerConfig {
        dht_prefix: plan.dht_prefix,
        model_blocks: plan.summary.blocks,
        blocks: plan.blocks,
        speed,
        hidden: plan.summary.hidden,
        dtype,
        public_name: host.public_name,
        update_period: host.update_period,
        limits: plan.limits,
    };
    // Only times are left to this chance; where the system has none, all servers keep to the same ones.
    let chance = Arc::new(|| getrandom::u64().unwrap_or(u64::MAX / 2));
    Ok(Tenant::new(member, config, plan.placement, loader, chance))
}

/// The type that hidden states leave in: single precision where the weights have it, else bfloat16.
fn sent(side: Side, stored: &Stored) -> ElementType {
    match (side.dtype, stored) {
        (Dtype::F32, _) | (Dtype::Stored, Stored::F32) => ElementType::F32,
        _ => ElementType::Bf16,
    }
}

fn free_memory() -> Result<u64, PortError> {
    machine::memory().map(|memory| memory.free()).map_err(PortError::internal)
}

/// Serves blocks whose weights are in use here anyway, until it is told to leave. A swarm that cannot be entered is tried
/// again: what else this process does goes on.
pub(crate) async fn stay(model: ModelPlan, engine: Arc<dyn BlockEngine>, mut leaving: watch::Receiver<()>) {
    let id = model.settings.id.clone();
    let tenant = loop {
        match beside(model.clone(), engine.clone(), &mut leaving).await {
            Ok(Some(tenant)) => break tenant,
            Ok(None) => return,
            Err(fault) if fault.kind() == FaultKind::InvalidInput => {
                tracing::error!(model = %id, error = %fault, "blocks are not served");
                return;
            }
            Err(fault) => tracing::warn!(model = %id, error = %fault, again_in = ?AGAIN, "blocks are not served"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = leaving.changed() => return,
        }
    };
    tracing::info!(model = %id, blocks = %tenant.blocks(), "serving the blocks");
    let _ = leaving.changed().await;
    tracing::info!(model = %id, sessions = tenant.open_sessions(), "leaving the swarm");
    let grace = model.settings.host.map_or(Duration::ZERO, |host| host.drain);
    tenant.shut_down(grace).await;
}

/// One attempt; `None` where it was told to leave meanwhile: what was announced by then is taken back.
async fn beside(
    model: ModelPlan,
    engine: Arc<dyn BlockEngine>,
    leaving: &mut watch::Receiver<()>,
) -> Result<Option<Tenant>, PortError> {
    let entering = async {
        let plan = plan(model, false)?;
        let member = enter(&plan).await?;
        serving(plan, member, Some(engine.clone()), Arc::new(InUse(engine))).await
    };
    let mut tenant = tokio::select! {
        entered = entering => entered?,
        _ = leaving.changed() => return Ok(None),
    };
    tokio::select! {
        settled = tenant.settle() => settled.map(|()| Some(tenant)),
        _ = leaving.changed() => {
            tenant.shut_down(Duration::ZERO).await;
            Ok(None)
        }
    }
}
