//! Gradients, where the contract does not look: large batches, weights in every form, a full cache.

use candle_core::quantized::GgmlDType;
use corolla_compute::LoadConfig;
use corolla_domain::{
    fit,
    model::Hidden,
    ports::{BackwardInput, FaultKind, Gradients, SessionNeed},
};
use tempfile::TempDir;
use testkit::{
    block_engine,
    local_model::{assert_near, noise},
    run::Loaded,
    tiny::{Dtype, Size, Tiny},
};

use crate::{
    contract::SIZE,
    gguf::write_gguf,
    run::{config, cpu, exact, load, load_as, tensors},
};

fn states(shape: (usize, usize, usize), seed: u64) -> Hidden {
    Hidden::from_f32(shape, &noise(shape.0 * shape.1 * shape.2, seed)).unwrap()
}

fn pass(shape: (usize, usize, usize)) -> BackwardInput {
    BackwardInput { hidden: states(shape, 1), gradient: states(shape, 2), prompts: Vec::new() }
}

async fn gradients(model: &Loaded, input: BackwardInput) -> Gradients {
    model.engine.backward(model.engine.hosted(), input).await.unwrap()
}

/// More positions than are computed at a time: rows go in groups, the last of them smaller.
#[tokio::test]
async fn rows_of_a_large_batch_equal_lone_passes() {
    for tiny in [Tiny::llama(SIZE), Tiny::bloom(48, 6, 3)] {
        let folder = TempDir::new().unwrap();
        tiny.write_folder(folder.path(), Dtype::F32, 1);
        let roomy = LoadConfig { cache_tokens: 8192, ..config(folder.path()) };
        let model = load_as(roomy, cpu(fit::Dtype::Stored)).await;
        let (batch, seq) = (37, 41);
        let prompts = (0..3).map(|nth| states((batch, 2, 48), 10 + nth)).collect();
        let input = BackwardInput { prompts, ..pass((batch, seq, 48)) };
        let found = gradients(&model, input.clone()).await;
        for row in [0, 11, 12, 36] {
            let of = |hidden: &Hidden| hidden.rows(row, row + 1).unwrap();
            let alone = BackwardInput {
                hidden: of(&input.hidden),
                gradient: of(&input.gradient),
                prompts: input.prompts.iter().map(of).collect(),
            };
            let alone = gradients(&model, alone).await;
            assert_near(&of(&found.hidden).to_f32(), &alone.hidden.to_f32(), 1e-5, "a row of a batch");
            for (found, alone) in found.prompts.iter().zip(&alone.prompts) {
                assert_near(&of(found).to_f32(), &alone.to_f32(), 1e-5, "the prompt of a row");
            }
        }
    }
}

/// BLOOM has a variant in which what is carried around a layer is taken after its norm.
#[tokio::test]
async fn bloom_that_carries_what_was_normed() {
    let mut tiny = Tiny::bloom(48, 6, 3);
    tiny.config["apply_residual_connection_post_layernorm"] = true.into();
    let folder = TempDir::new().unwrap();
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    let engine = load(folder.path(), fit::Dtype::Stored).await.engine;
    let subject = block_engine::Subject { engine, width: 48, tolerance: 1e-5 };
    block_engine::gradients_equal_numerical_differences(&subject).await;
}

/// The same numbers in another form give the same gradients, up to what the forward pass rounds.
#[tokio::test]
async fn weights_in_every_form_give_the_gradients_of_their_numbers() {
    let folder = TempDir::new().unwrap();
    let size = Size { hidden: 256, inner: 512, heads: 4, kv: 2, blocks: 2 };
    let input = pass((2, 9, 256));
    let forms = [GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_1, GgmlDType::Q6K];
    for dtype in forms {
        let path = folder.path().join(format!("{dtype:?}.gguf"));
        write_gguf(&Tiny::llama(size), &path, dtype);
        let wanted = gradients(&load(&path, fit::Dtype::F32).await, input.clone()).await.hidden.to_f32();
        for target in [cpu(fit::Dtype::Stored), tensors(fit::Dtype::Stored)] {
            let found = gradients(&load_as(config(&path), target).await, input.clone()).await;
            assert_near(&found.hidden.to_f32(), &wanted, 0.03, &format!("{dtype:?} as {target:?}"));
        }
    }
    let path = folder.path().join("bf16");
    std::fs::create_dir(&path).unwrap();
    Tiny::llama(size).write_folder(&path, Dtype::BF16, 1);
    let wanted = gradients(&load(&path, fit::Dtype::F32).await, input.clone()).await.hidden.to_f32();
    let found = gradients(&load_as(config(&path), exact(fit::Dtype::Stored)).await, input.clone()).await;
    assert_near(&found.hidden.to_f32(), &wanted, 1e-5, "bf16 on the processor, activations as they are");
    let found = gradients(&load(&path, fit::Dtype::Stored).await, input.clone()).await;
    assert_near(&found.hidden.to_f32(), &wanted, 0.03, "bf16 on the processor");
    let found = gradients(&load_as(config(&path), tensors(fit::Dtype::Stored)).await, input).await;
    assert_near(&found.hidden.to_f32(), &wanted, 0.03, "bf16 on tensors");
}

/// What a pass keeps counts against the cache. What would not fit into an empty one never will.
#[tokio::test]
async fn a_pass_that_does_not_fit_is_refused() {
    let folder = TempDir::new().unwrap();
    Tiny::bloom(48, 6, 3).write_folder(folder.path(), Dtype::F32, 1);
    let small = LoadConfig { cache_tokens: 128, ..config(folder.path()) };
    let engine = load_as(small, cpu(fit::Dtype::Stored)).await.engine;
    let all = engine.hosted();
    // Inputs of three blocks and two more such arrays, in halves of a position of keys and values; and a block's cache.
    let most = 3 * 128 * 2 / 7;
    engine.backward(all, pass((1, most, 48))).await.unwrap();
    for (batch, seq) in [(1, most + 1), (most + 1, 1), (100_000, 2)] {
        let error = engine.backward(all, pass((batch, seq, 48))).await.unwrap_err();
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
    let session = engine.open(all, SessionNeed { max_length: 128, batch: 1 }).await.unwrap();
    let error = engine.backward(all, pass((1, 1, 48))).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::Capacity, "{error}");
    drop(session);
    engine.backward(all, pass((1, most, 48))).await.unwrap();
}
