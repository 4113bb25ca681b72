//! Flags become a server of blocks: which adapters compute and carry.

use corolla_candle::Target;
use corolla_checkpoint::{Stored, inspect};
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{
    fit::Dtype,
    model::{BlockRange, ElementType, ModelId},
    ports::{FaultKind, PortError},
};
use corolla_swarm::server::{BlockServer, Bootstrap, ServerConfig, ServerLimits, Speed};
use std::{path::PathBuf, time::Duration};

use crate::{
    Stop,
    commands::host::{HostDtype, Options},
};

/// What is to be loaded and served.
pub(crate) struct Plan {
    pub(crate) server: ServerConfig,
    load: LoadConfig,
    target: Target,
}

/// Starts the first node of a swarm, or one more.
///
/// # Errors
/// Addresses and files that cannot be used, a swarm that does not answer.
pub(crate) async fn bootstrap(
    listen: &[String],
    identity: Option<PathBuf>,
    initial_peers: &[String],
) -> Result<Bootstrap, PortError> {
    Bootstrap::start(listen, identity, initial_peers).await
}

/// Reads the model's headers and decides.
///
/// # Errors
/// Files that cannot be read, blocks that the model does not have.
pub(crate) fn plan(options: &Options) -> Result<Plan, PortError> {
    let summary = inspect(&options.model)?;
    let all = BlockRange::first(summary.blocks);
    let blocks = options.blocks.map_or(all, |span| span.0);
    if !all.contains(blocks) {
        let path = options.model.display();
        return Err(PortError::invalid(format!("--blocks {blocks}: {path} has blocks {all}")));
    }
    let (choice, dtype) = match (options.dtype, summary.stored) {
        (HostDtype::F32, _) => (Dtype::F32, ElementType::F32),
        (HostDtype::Bf16, _) => (Dtype::Bf16, ElementType::Bf16),
        (HostDtype::Auto, Stored::F32) => (Dtype::Stored, ElementType::F32),
        (HostDtype::Auto, _) => (Dtype::Stored, ElementType::Bf16),
    };
    // A model whose heads share keys and values keeps fewer numbers than two hidden states a position.
    let grouped = summary.cache_numbers < 2 * summary.hidden;
    let cache_tokens = options.attn_cache_tokens.unwrap_or(if grouped { 16_384 } else { 4096 });
    if cache_tokens == 0 {
        return Err(PortError::invalid("--attn-cache-tokens must be above 0"));
    }
    let server = ServerConfig {
        dht_prefix: options.dht_prefix.clone(),
        model_blocks: summary.blocks,
        blocks,
        hidden: summary.hidden,
        dtype,
        initial_peers: options.initial_peers.clone(),
        listen: options.listen.clone(),
        identity: options.identity.clone(),
        public_name: options.public_name.clone(),
        update_period: Duration::from_secs(options.update_period),
        limits: ServerLimits::stock(grouped),
    };
    let load = LoadConfig {
        id: ModelId(options.dht_prefix.clone()),
        path: options.model.clone(),
        ends: false,
        blocks: BlockChoice::Range(blocks),
        cache_tokens,
    };
    let target = Target::Cpu { dtype: choice, kernels: None, threads: options.threads };
    Ok(Plan { server, load, target })
}

/// Enters the swarm and announces what is to come.
///
/// # Errors
/// A swarm that does not answer, addresses and files that cannot be used.
pub(crate) async fn join(plan: &Plan) -> Result<BlockServer, PortError> {
    BlockServer::join(plan.server.clone()).await
}

/// Loads the blocks and opens the door.
///
/// # Errors
/// What the adapters say.
pub(crate) async fn serve(server: &mut BlockServer, plan: &Plan) -> Result<Speed, PortError> {
    let model = corolla_candle::load(plan.load.clone(), plan.target).await?;
    let engine = model.engine().ok_or_else(|| PortError::internal("the model was loaded without blocks"))?;
    server.serve(engine).await
}

/// How a fault ends the command.
pub(crate) fn stop(fault: &PortError) -> Stop {
    match fault.kind() {
        FaultKind::InvalidInput | FaultKind::NotFound | FaultKind::Unsupported => Stop::usage(fault),
        _ => Stop::failure(fault),
    }
}

/// A standard output that cannot be written to, as a port's fault.
pub(crate) fn unprinted(stop: &Stop) -> PortError {
    PortError::internal(stop.sentence.clone())
}
