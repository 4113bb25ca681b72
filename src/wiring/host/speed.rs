//! How fast blocks and network are: as measured before, or measured now.

use std::sync::Arc;

use corolla_domain::{
    fit::KvType,
    model::BlockRange,
    placement::{Trial, measure},
    ports::{BlockEngine, PortError},
};
use corolla_swarm::server::{Bootstrap, NETWORK_BITS, Speed};

use super::HostPlan;
use crate::{
    machine,
    plan::ModelPlan,
    throughput::{Measured, folder},
    wiring::backends,
};

/// Weights that are loaded to measure: more than a processor keeps beside itself, since what is served will not fit there.
const SAMPLE: u64 = 256 << 20;

/// How fast this machine is with that model in that swarm. `engine` has the blocks where they are loaded already.
pub(super) async fn speed(
    plan: &HostPlan,
    member: &Bootstrap,
    engine: Option<Arc<dyn BlockEngine>>,
) -> Result<Speed, PortError> {
    let mut measured = Measured::open(folder(), plan.measure).await;
    let key = plan.model.settings.swarm.initial_peers.as_deref().unwrap_or_default().join(",");
    let bits = match measured.bits(&key) {
        Some(bits) => bits,
        None => match member.upload().await {
            Ok(bits) => {
                tracing::info!(mbit_per_s = (bits / 1e6).round(), "measured the way into the swarm");
                measured.note_bits(&key, bits);
                bits
            }
            Err(error) => {
                tracing::warn!(%error, mbit_per_s = NETWORK_BITS / 1e6, "the way into the swarm was not measured; assuming");
                NETWORK_BITS
            }
        },
    };
    let sample = if engine.is_some() { plan.blocks } else { sample(plan) };
    let key = key_of(plan, sample);
    let pace = match measured.pace(&key) {
        Some(pace) => pace,
        None => {
            let engine = match engine {
                Some(engine) => engine,
                None => load(&plan.model, sample).await?,
            };
            let begun = std::time::Instant::now();
            let pace = measure(&*engine, plan.summary.hidden, Trial::default(), &move || begun.elapsed()).await?;
            tracing::info!(
                blocks = %sample, steps_per_s = pace.inference.round(), positions_per_s = pace.forward.round(),
                "measured how fast a block is"
            );
            measured.note_pace(&key, pace);
            pace
        }
    };
    Ok(Speed::new(pace, bits, plan.summary.hidden))
}

/// The blocks to measure with.
fn sample(plan: &HostPlan) -> BlockRange {
    let wanted = usize::try_from(SAMPLE.div_ceil(plan.share.weights.max(1))).unwrap_or(usize::MAX);
    let (start, count) = (plan.blocks.start(), wanted.clamp(1, plan.blocks.len()));
    BlockRange::new(start, start + count).unwrap_or(plan.blocks)
}

/// Everything that the result depends on.
fn key_of(plan: &HostPlan, sample: BlockRange) -> String {
    let (settings, choice, summary) = (&plan.model.settings, &plan.model.choice, &plan.summary);
    let threads = machine::threads(settings.threads);
    format!(
        "{} ({} {}, {} bytes), {} blocks of {} bytes, {}{}{}, {} {}{}, {threads} threads, corolla {}, {}",
        settings
            .path
            .file_name()
            .map_or(settings.path.display().to_string(), |name| name.to_string_lossy().into_owned()),
        summary.family,
        summary.hidden,
        summary.bytes,
        sample.len(),
        plan.share.weights,
        choice.blocks.dtype,
        if settings.compute.exact_activations { " beside f32" } else { "" },
        match settings.compute.kv_type {
            KvType::F32 => String::new(),
            kv_type => format!(" with keys and values in {kv_type}"),
        },
        choice.blocks.backend,
        choice.kernels,
        choice.blocks.card.map_or(String::new(), |nth| format!(" on card {nth}")),
        env!("CARGO_PKG_VERSION"),
        machine::name(),
    )
}

async fn load(model: &ModelPlan, blocks: BlockRange) -> Result<Arc<dyn BlockEngine>, PortError> {
    let (mut model, trial) = (model.clone(), Trial::default());
    model.settings.cache_tokens = model.settings.cache_tokens.min(trial.positions.max(trial.steps));
    backends::blocks(&model, blocks).await
}
