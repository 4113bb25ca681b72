//! Which adapter a backend's name stands for, and what each says of itself.

use std::sync::Arc;

use corolla_candle::{Activations, Cpu, Target};
use corolla_compute::{BlockChoice, LoadConfig, Model};
use corolla_domain::{
    fit::Side,
    model::BlockRange,
    ports::{BlockEngine, LocalModel, PortError},
};

use crate::{
    backend::Backend,
    config::{Blocks, ModelSettings},
    plan::ModelPlan,
    plugin::{Device, Facts},
};

/// What a backend that was built in finds on this machine.
///
/// # Errors
/// A sentence that says why it cannot be used, and what would help.
pub(crate) fn facts(backend: Backend) -> Result<Facts, String> {
    match backend {
        Backend::CandleCpu => Ok(Facts::default()),
        Backend::CandleCuda => {
            let devices = corolla_candle::cuda_devices().map_err(|fault| fault.to_string())?;
            let device = |it: corolla_candle::CudaDevice| Device {
                name: it.name,
                total_bytes: it.total_bytes,
                free_bytes: it.free_bytes,
            };
            Ok(Facts { devices: devices.into_iter().map(device).collect(), ..Facts::default() })
        }
        Backend::Tch => {
            let library = corolla_tch::library().map_err(|fault| fault.to_string())?;
            Ok(Facts { library: Some(library), ..Facts::default() })
        }
    }
}

/// Embeddings and head of a model, and the blocks that this process runs where it runs any.
///
/// # Errors
/// What the adapters say.
pub(super) async fn load(plan: &ModelPlan) -> Result<(Arc<dyn LocalModel>, Option<Arc<dyn BlockEngine>>), PortError> {
    let choice = &plan.choice;
    let mut ends = choice.ends;
    if choice.head_on_processor {
        ends = Side { backend: Backend::CandleCpu.name(), card: None, ..ends };
    }
    if plan.settings.compute.screen.is_some() && !Backend::named(ends.backend).is_some_and(Backend::screens) {
        let (model, backend) = (&plan.settings.id, ends.backend);
        tracing::warn!(%model, backend, "this backend screens no head; backend = \"candle-cpu\" or head = \"cpu\" does");
    }
    let blocks = wanted(&plan.settings);
    if blocks == BlockChoice::None || ends == choice.blocks {
        let model = on(ends, plan, true, blocks).await?;
        return Ok((model.local().ok_or_else(|| missing("embeddings"))?, model.engine()));
    }
    let local = on(ends, plan, true, BlockChoice::None).await?.local().ok_or_else(|| missing("embeddings"))?;
    let engine = on(choice.blocks, plan, false, blocks).await?.engine().ok_or_else(|| missing("blocks"))?;
    Ok((local, Some(engine)))
}

/// Blocks of a model, and nothing else of it.
///
/// # Errors
/// What the adapters say.
pub(super) async fn blocks(plan: &ModelPlan, range: BlockRange) -> Result<Arc<dyn BlockEngine>, PortError> {
    let model = on(plan.choice.blocks, plan, false, BlockChoice::Range(range)).await?;
    model.engine().ok_or_else(|| missing("blocks"))
}

fn wanted(model: &ModelSettings) -> BlockChoice {
    match (model.blocks, model.block_range) {
        (Blocks::Swarm, _) => BlockChoice::None,
        (Blocks::Local, Some(range)) => BlockChoice::Range(range),
        (Blocks::Local, None) => BlockChoice::All,
    }
}

fn missing(what: &str) -> PortError {
    PortError::internal(format!("the model was loaded without {what}"))
}

/// A model, or a part of it, on one backend.
async fn on(side: Side, plan: &ModelPlan, ends: bool, blocks: BlockChoice) -> Result<Model, PortError> {
    let ModelSettings { id, path, cache_tokens, threads, .. } = plan.settings.clone();
    let config = LoadConfig { id, path, ends, blocks, cache_tokens };
    match Backend::named(side.backend) {
        Some(Backend::CandleCpu) => {
            let kernels = Some(plan.choice.kernels);
            let compute = &plan.settings.compute;
            let activations = if compute.exact_activations { Activations::F32 } else { Activations::Auto };
            let (dtype, screen, kv_type) = (side.dtype, compute.screen, compute.kv_type);
            let cpu = Cpu { dtype, kernels, activations, screen, kv_type, threads };
            corolla_candle::load(config, Target::Cpu(cpu)).await
        }
        Some(Backend::CandleCuda) => {
            let device = side.card.unwrap_or(0);
            corolla_candle::load(config, Target::Cuda { dtype: side.dtype, device }).await
        }
        Some(Backend::Tch) => corolla_tch::load(config, threads).await,
        None => Err(PortError::internal(format!("{} is no backend", side.backend))),
    }
}
