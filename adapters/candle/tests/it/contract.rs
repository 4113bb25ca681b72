//! The contract suites, over every family and way of keeping weights.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use candle_core::quantized::GgmlDType;
use corolla_candle::Target;
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{
    fit,
    model::{BlockRange, Hidden, Hop, ModelId, PeerId, SwarmMap},
    ports::{BlockEngine, BlockSession, PortError, RemoteSwarm, SessionNeed},
    routing::{InProcessSwarm, JoinedSwarm},
};
use tempfile::TempDir;
use testkit::{
    block_engine, fixtures, local_model, remote_swarm,
    tiny::{Dtype, Size, Tiny},
};

use crate::{
    gguf::write_gguf,
    run::{config, cpu, exact, load, load_as, tensors},
};

pub(crate) const SIZE: Size = Size { hidden: 48, inner: 80, heads: 6, kv: 2, blocks: 3 };

async fn both_contracts(path: &Path, target: Target, tolerance: f32) {
    let load = || load_as(config(path), target);
    local_model::all(|| async { local_model::Subject { model: load().await.local, tolerance } }).await;
    block_engine::all(|| async {
        let model = load().await;
        block_engine::Subject { engine: model.engine, width: model.local.spec().hidden, tolerance }
    })
    .await;
}

pub(crate) async fn in_folder(tiny: &Tiny, dtype: Dtype, target: Target, tolerance: f32) {
    let folder = TempDir::new().unwrap();
    tiny.write_folder(folder.path(), dtype, 1);
    both_contracts(folder.path(), target, tolerance).await;
}

/// With weights in bf16 activations may be rounded to bf16, and a difference in the last bit of an f32 may become one of a
/// step of that rounding.
#[tokio::test]
async fn llama_on_the_processor() {
    let tiny = Tiny::llama(SIZE);
    in_folder(&tiny, Dtype::F32, cpu(fit::Dtype::Stored), 1e-5).await;
    in_folder(&tiny, Dtype::F32, exact(fit::Dtype::Bf16), 1e-5).await;
    in_folder(&tiny, Dtype::F32, cpu(fit::Dtype::Bf16), 0.02).await;
    in_folder(&tiny, Dtype::F16, cpu(fit::Dtype::Stored), 1e-5).await;
    in_folder(&tiny, Dtype::BF16, cpu(fit::Dtype::F16), 1e-5).await;
}

#[tokio::test]
async fn bloom_on_the_processor() {
    let tiny = Tiny::bloom(48, 6, 3);
    in_folder(&tiny, Dtype::F32, cpu(fit::Dtype::Stored), 1e-5).await;
    in_folder(&tiny, Dtype::BF16, exact(fit::Dtype::Stored), 1e-5).await;
    in_folder(&tiny, Dtype::BF16, cpu(fit::Dtype::Stored), 0.02).await;
}

/// Where activations are rounded to 16 bits before a product, a difference in the last bit of an f32 may become one of a
/// step of that rounding.
#[tokio::test]
async fn llama_on_tensors() {
    let tiny = Tiny::llama(SIZE);
    in_folder(&tiny, Dtype::F32, tensors(fit::Dtype::F32), 1e-5).await;
    in_folder(&tiny, Dtype::F32, tensors(fit::Dtype::F16), 0.01).await;
    in_folder(&tiny, Dtype::BF16, tensors(fit::Dtype::Bf16), 0.05).await;
}

#[tokio::test]
async fn bloom_on_tensors() {
    let tiny = Tiny::bloom(48, 6, 3);
    in_folder(&tiny, Dtype::F32, tensors(fit::Dtype::F32), 1e-5).await;
    in_folder(&tiny, Dtype::F16, tensors(fit::Dtype::F16), 0.01).await;
}

/// Weights that the file has in f32, rounded to blocks while they are read.
#[tokio::test]
async fn llama_quantised_while_it_is_loaded() {
    let tiny = Tiny::llama(Size { hidden: 64, inner: 128, heads: 4, kv: 2, blocks: 2 });
    for kind in [fit::Dtype::Q8_0, fit::Dtype::Q5_1, fit::Dtype::Q4_1, fit::Dtype::Q4_0] {
        in_folder(&tiny, Dtype::F32, cpu(kind), 0.02).await;
    }
    in_folder(&tiny, Dtype::F32, tensors(fit::Dtype::Q8_0), 0.02).await;
}

/// Activations are rounded to 8 bits before each product, so a difference in the last bit of an f32 may become one of a
/// step of that rounding.
#[tokio::test]
async fn llama_in_the_blocks_of_a_gguf_file() {
    let folder = TempDir::new().unwrap();
    let size = Size { hidden: 256, inner: 512, heads: 4, kv: 2, blocks: 2 };
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q4K, GgmlDType::Q6K] {
        let path = folder.path().join(format!("{dtype:?}.gguf"));
        write_gguf(&Tiny::llama(size), &path, dtype);
        both_contracts(&path, cpu(fit::Dtype::Stored), 0.02).await;
        both_contracts(&path, tensors(fit::Dtype::Stored), 0.02).await;
    }
}

#[tokio::test]
async fn bloom_in_the_blocks_of_a_gguf_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bloom.gguf");
    write_gguf(&Tiny::bloom(64, 4, 2), &path, GgmlDType::Q8_0);
    both_contracts(&path, cpu(fit::Dtype::Stored), 0.02).await;
}

#[tokio::test]
async fn the_small_chat_model() {
    let path = fixtures::smollm2();
    let model = load_as(config(&path), exact(fit::Dtype::Bf16)).await;
    let width = model.local.spec().hidden;
    let subject = block_engine::Subject { engine: model.engine.clone(), width, tolerance: 1e-4 };
    block_engine::any_chunking_gives_the_same(&subject).await;
    block_engine::a_dropped_step_was_never_called(&subject).await;
    let subject = local_model::Subject { model: model.local, tolerance: 1e-4 };
    local_model::top_carries_the_best_and_the_named(&subject).await;
    local_model::a_draw_is_that_of_all_scores(&subject).await;
}

/// The swarm of one, over a real engine, keeps the promises of a swarm of many.
#[tokio::test]
async fn the_swarm_of_one() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    let model = load(folder.path(), fit::Dtype::Stored).await;
    let (spec, engine) = (model.local.spec(), model.engine.clone());
    let untouched = engine.free_tokens();
    let swarm = InProcessSwarm::new(spec.id.clone(), engine.clone());
    remote_swarm::all(&remote_swarm::Subject {
        swarm: Arc::new(swarm),
        model: spec.id.clone(),
        blocks: spec.all_blocks(),
        width: spec.hidden,
        tolerance: 1e-5,
        nobody: PeerId("nobody".into()),
        open_sessions: Box::new(move || {
            let taken = untouched - engine.free_tokens();
            Box::pin(async move { taken / remote_swarm::LONGEST })
        }),
    })
    .await;
}

/// A swarm of one under another name.
struct Elsewhere(InProcessSwarm);

impl Elsewhere {
    fn here(hop: &Hop) -> Hop {
        let peer = if hop.peer == "elsewhere".into() { InProcessSwarm::peer() } else { "nowhere".into() };
        Hop { peer, blocks: hop.blocks }
    }
}

#[async_trait]
impl RemoteSwarm for Elsewhere {
    async fn map(&self, model: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        let mut map = SwarmMap::clone(&*self.0.map(model).await?);
        map.servers.iter_mut().for_each(|server| server.peer = "elsewhere".into());
        Ok(Arc::new(map))
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        self.0.dial(Self::here(&hop), need).await
    }

    async fn forward(&self, hop: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        self.0.forward(Self::here(&hop), hidden).await
    }
}

/// Some blocks of a real engine here and the others elsewhere, as one swarm.
#[tokio::test]
async fn blocks_here_joined_with_those_of_a_swarm() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    let part = async |start, end| {
        let blocks = BlockChoice::Range(BlockRange::new(start, end).unwrap());
        load_as(LoadConfig { blocks, ..config(folder.path()) }, cpu(fit::Dtype::Stored)).await
    };
    for ((start, end), (far_start, far_end)) in [((0, 2), (2, 3)), ((1, 3), (0, 1)), ((2, 3), (0, 2))] {
        let (here, far) = (part(start, end).await, part(far_start, far_end).await);
        let spec = here.local.spec();
        let engines = [here.engine, far.engine];
        let swarm = |engine: &Arc<dyn BlockEngine>| InProcessSwarm::new(spec.id.clone(), engine.clone());
        let joined = JoinedSwarm::new(swarm(&engines[0]), Arc::new(Elsewhere(swarm(&engines[1]))));
        let untouched: usize = engines.iter().map(|engine| engine.free_tokens()).sum();
        remote_swarm::all(&remote_swarm::Subject {
            swarm: Arc::new(joined),
            model: spec.id.clone(),
            blocks: spec.all_blocks(),
            width: spec.hidden,
            tolerance: 1e-5,
            nobody: PeerId("nobody".into()),
            open_sessions: Box::new(move || {
                let taken = untouched - engines.iter().map(|engine| engine.free_tokens()).sum::<usize>();
                Box::pin(async move { taken / remote_swarm::LONGEST })
            }),
        })
        .await;
    }
}
