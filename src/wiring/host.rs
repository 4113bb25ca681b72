//! Plans become servers of blocks, and nodes through which swarms are entered.

use std::{path::Path, sync::Arc, time::Duration};

use corolla_checkpoint::inspect;
use corolla_domain::{
    fit::{Dtype, Side, Stored},
    model::ElementType,
    ports::{BlockEngine, PortError},
};
pub(crate) use corolla_swarm::server::{BlockServer, Bootstrap, BootstrapConfig};
use corolla_swarm::server::{ServerConfig, ServerLimits};

use tokio::sync::watch;

use super::{backends, dht_prefix};
use crate::{config::HostSettings, plan::ModelPlan};

/// How long after a swarm could not be entered it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Positions of KV cache that a server of this model's blocks has by default: the reference's numbers, for a model whose
/// heads share keys and values and for others.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn usual_cache_tokens(path: &Path) -> Result<usize, PortError> {
    Ok(if shares_heads(&inspect(path)?) { 16_384 } else { 4096 })
}

/// A model whose heads share keys and values keeps fewer numbers than two hidden states a position.
fn shares_heads(summary: &corolla_checkpoint::ModelSummary) -> bool {
    summary.cache_numbers < 2 * summary.hidden
}

/// Enters the swarm and announces that the plan's blocks are about to be served.
///
/// # Errors
/// Files that cannot be read, a swarm that does not answer, addresses that cannot be used.
pub(crate) async fn join(plan: &ModelPlan, host: &HostSettings) -> Result<BlockServer, PortError> {
    let model = &plan.settings;
    let summary = inspect(&model.path)?;
    let blocks = model.here(summary.blocks).ok_or_else(|| PortError::invalid("no block of this model runs here"))?;
    let config = ServerConfig {
        dht_prefix: dht_prefix(model, &summary.family)?,
        model_blocks: summary.blocks,
        blocks,
        hidden: summary.hidden,
        dtype: sent(plan.choice.blocks, &summary.stored.into()),
        initial_peers: model.swarm.initial_peers.clone().unwrap_or_default(),
        listen: host.listen.clone(),
        identity: host.identity.clone(),
        access: model.swarm.access.clone(),
        public_name: host.public_name.clone(),
        update_period: host.update_period,
        limits: ServerLimits::stock(shares_heads(&summary)),
    };
    BlockServer::join(config).await
}

/// The type that hidden states leave in: single precision where the weights have it, else bfloat16.
fn sent(side: Side, stored: &Stored) -> ElementType {
    match (side.dtype, stored) {
        (Dtype::F32, _) | (Dtype::Stored, Stored::F32) => ElementType::F32,
        _ => ElementType::Bf16,
    }
}

/// Loads the plan's blocks and nothing else of the model.
///
/// # Errors
/// What the adapters say.
pub(crate) async fn blocks(plan: &ModelPlan) -> Result<Arc<dyn BlockEngine>, PortError> {
    backends::blocks(plan).await
}

/// Serves blocks whose weights are in use here anyway, until it is told to leave. A swarm that cannot be entered is tried
/// again: what else this process does goes on.
pub(crate) async fn stay(plan: ModelPlan, engine: Arc<dyn BlockEngine>, mut leaving: watch::Receiver<()>) {
    let Some(settings) = plan.settings.host.clone() else { return };
    let model = &plan.settings.id;
    let serving = async {
        loop {
            match enter(&plan, &settings, engine.clone()).await {
                Ok(server) => break server,
                Err(fault) => tracing::warn!(%model, error = %fault, again_in = ?AGAIN, "blocks are not served"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let server = tokio::select! {
        server = serving => server,
        _ = leaving.changed() => return,
    };
    tracing::info!(%model, blocks = %server.blocks(), peer = %server.peer_id(), "serving the blocks");
    let _ = leaving.changed().await;
    tracing::info!(%model, sessions = server.open_sessions(), "leaving the swarm");
    server.shut_down(settings.drain).await;
}

async fn enter(
    plan: &ModelPlan,
    settings: &HostSettings,
    engine: Arc<dyn BlockEngine>,
) -> Result<BlockServer, PortError> {
    let mut server = join(plan, settings).await?;
    server.serve(engine).await?;
    Ok(server)
}
