//! The contract suites, over every family and way of keeping weights.

use std::{path::Path, sync::Arc};

use candle_core::quantized::GgmlDType;
use corolla_candle::DtypeChoice;
use corolla_domain::{model::PeerId, routing::InProcessSwarm};
use safetensors::Dtype;
use tempfile::TempDir;
use testkit::{block_engine, fixtures, local_model, remote_swarm};

use crate::{
    run::load,
    tiny::{Size, Tiny},
};

const SIZE: Size = Size { hidden: 48, inner: 80, heads: 6, kv: 2, blocks: 3 };

async fn both_contracts(path: &Path, dtype: DtypeChoice, tolerance: f32) {
    local_model::all(|| async { local_model::Subject { model: load(path, dtype).await.local(), tolerance } }).await;
    block_engine::all(|| async {
        let model = load(path, dtype).await;
        let width = model.local().spec().hidden;
        block_engine::Subject { engine: model.engine().unwrap(), width, tolerance }
    })
    .await;
}

#[tokio::test]
async fn llama_in_f32() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    both_contracts(folder.path(), DtypeChoice::Auto, 1e-5).await;
}

#[tokio::test]
async fn llama_in_bf16() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    both_contracts(folder.path(), DtypeChoice::Bf16, 1e-5).await;
}

#[tokio::test]
async fn llama_in_f16() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F16, 1);
    both_contracts(folder.path(), DtypeChoice::Auto, 1e-5).await;
}

#[tokio::test]
async fn bloom_in_f32() {
    let folder = TempDir::new().unwrap();
    Tiny::bloom(48, 6, 3).write_folder(folder.path(), Dtype::F32, 1);
    both_contracts(folder.path(), DtypeChoice::Auto, 1e-5).await;
}

#[tokio::test]
async fn bloom_in_bf16() {
    let folder = TempDir::new().unwrap();
    Tiny::bloom(48, 6, 3).write_folder(folder.path(), Dtype::BF16, 1);
    both_contracts(folder.path(), DtypeChoice::Auto, 1e-5).await;
}

/// Activations are rounded to 8 bits before each product, so a difference in the last bit of an f32 may become one of a
/// step of that rounding.
#[tokio::test]
async fn llama_in_the_blocks_of_a_gguf_file() {
    let folder = TempDir::new().unwrap();
    let size = Size { hidden: 256, inner: 512, heads: 4, kv: 2, blocks: 2 };
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q4K, GgmlDType::Q6K] {
        let path = folder.path().join(format!("{dtype:?}.gguf"));
        Tiny::llama(size).write_gguf(&path, dtype);
        both_contracts(&path, DtypeChoice::Auto, 0.02).await;
    }
}

#[tokio::test]
async fn bloom_in_the_blocks_of_a_gguf_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bloom.gguf");
    Tiny::bloom(64, 4, 2).write_gguf(&path, GgmlDType::Q8_0);
    both_contracts(&path, DtypeChoice::Auto, 0.02).await;
}

#[tokio::test]
async fn the_small_chat_model() {
    let path = fixtures::smollm2();
    let model = load(&path, DtypeChoice::Bf16).await;
    let width = model.local().spec().hidden;
    let subject = block_engine::Subject { engine: model.engine().unwrap(), width, tolerance: 1e-4 };
    block_engine::any_chunking_gives_the_same(&subject).await;
    block_engine::a_dropped_step_was_never_called(&subject).await;
    let subject = local_model::Subject { model: model.local(), tolerance: 1e-4 };
    local_model::top_carries_the_best_and_the_named(&subject).await;
}

/// The swarm of one, over a real engine, keeps the promises of a swarm of many.
#[tokio::test]
async fn the_swarm_of_one() {
    let folder = TempDir::new().unwrap();
    Tiny::llama(SIZE).write_folder(folder.path(), Dtype::F32, 1);
    let model = load(folder.path(), DtypeChoice::Auto).await;
    let (spec, engine) = (model.local().spec(), model.engine().unwrap());
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
