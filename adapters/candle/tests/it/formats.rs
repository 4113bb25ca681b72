//! The same model in every format and every ggml type.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use corolla_candle::Target;
use corolla_checkpoint::{GgmlType, Stored, widen};
use corolla_domain::fit;
use tempfile::TempDir;
use testkit::{
    fixtures,
    local_model::{assert_near, noise},
    run::{feed, greedy, session},
    tiny::{Dtype, Size, Tiny},
};

use crate::{
    gguf::write_gguf,
    run::{config, cpu, exact, load, load_as},
};

const PROMPT: [u32; 9] = [1, 5, 9, 80, 33, 2, 95, 0, 41];

async fn logits(path: &std::path::Path, dtype: fit::Dtype) -> Vec<f32> {
    logits_as(path, cpu(dtype)).await
}

async fn logits_as(path: &std::path::Path, target: Target) -> Vec<f32> {
    let model = load_as(config(path), target).await;
    let mut session = session(&model, 16).await;
    feed(&model, &mut *session, &PROMPT).await
}

fn models() -> [(&'static str, Tiny); 2] {
    let size = Size { hidden: 48, inner: 80, heads: 6, kv: 2, blocks: 3 };
    [("llama", Tiny::llama(size)), ("bloom", Tiny::bloom(48, 6, 3))]
}

#[tokio::test]
async fn every_format_gives_the_same_logits_in_f32() {
    for (name, tiny) in models() {
        let (single, sharded) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        tiny.write_folder(single.path(), Dtype::F32, 1);
        tiny.write_folder(sharded.path(), Dtype::F32, 4);
        let gguf = sharded.path().join("model.gguf");
        write_gguf(&tiny, &gguf, GgmlDType::F32);
        let wanted = logits(single.path(), fit::Dtype::F32).await;
        assert!(wanted.iter().any(|v| v.abs() > 0.1), "the logits of {name} say something");
        assert_eq!(logits(sharded.path(), fit::Dtype::F32).await, wanted, "shards of {name}");
        assert_near(&logits(&gguf, fit::Dtype::F32).await, &wanted, 1e-5, &format!("GGUF of {name}"));
    }
}

#[tokio::test]
async fn bloom_keys_may_begin_with_transformer() {
    let (bare, long) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut tiny = Tiny::bloom(48, 6, 2);
    tiny.write_folder(bare.path(), Dtype::F32, 1);
    tiny.tensors = tiny.tensors.into_iter().map(|(name, tensor)| (format!("transformer.{name}"), tensor)).collect();
    tiny.write_folder(long.path(), Dtype::F32, 1);
    assert_eq!(logits(bare.path(), fit::Dtype::F32).await, logits(long.path(), fit::Dtype::F32).await);
}

#[tokio::test]
async fn a_pickle_in_shards_is_the_pickle() {
    let source = fixtures::path("models").join("tiny-bloom");
    let folder = TempDir::new().unwrap();
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    for shard in ["a.bin", "b.bin"] {
        std::fs::copy(source.join("pytorch_model.bin"), folder.path().join(shard)).unwrap();
    }
    let tiny = Tiny::bloom(48, 6, 3);
    let map = tiny.tensors.keys().enumerate().map(|(nth, name)| {
        let file = if nth % 2 == 0 { "a.bin" } else { "b.bin" };
        (name.clone(), file.into())
    });
    let map: serde_json::Map<String, serde_json::Value> = map.collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
    assert_eq!(logits(folder.path(), fit::Dtype::Stored).await, logits(&source, fit::Dtype::Stored).await);
}

#[tokio::test]
async fn half_precision_checkpoints_lose_nothing_in_auto() {
    for (name, tiny) in models() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let folder = TempDir::new().unwrap();
            tiny.write_folder(folder.path(), dtype, 1);
            let wanted = logits(folder.path(), fit::Dtype::F32).await;
            assert_near(
                &logits_as(folder.path(), exact(fit::Dtype::Stored)).await,
                &wanted,
                1e-5,
                &format!("{name} in {dtype:?}"),
            );
        }
    }
}

/// In f32, what a file has in 16 bits is kept so, and widened exactly: many rows, a few, and one.
#[tokio::test]
async fn numbers_of_16_bits_are_in_f32_what_they_are_in_files_of_32() {
    for (dtype, round) in [(Dtype::F16, through_f16 as fn(f32) -> f32), (Dtype::BF16, through_bf16)] {
        for (name, mut tiny) in models() {
            let (narrow, wide) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            tiny.write_folder(narrow.path(), dtype, 1);
            tiny.tensors.values_mut().flat_map(|(_, numbers)| numbers).for_each(|number| *number = round(*number));
            tiny.write_folder(wide.path(), Dtype::F32, 1);
            let mut found = Vec::new();
            for folder in [&narrow, &wide] {
                let model = load(folder.path(), fit::Dtype::F32).await;
                assert_eq!(model.local.spec().dtype, "f32");
                let mut session = session(&model, 64).await;
                let mut logits = Vec::new();
                for tokens in [&PROMPT.repeat(4)[..], &PROMPT, &PROMPT[..1]] {
                    logits.extend(feed(&model, &mut *session, tokens).await);
                }
                found.push(logits);
            }
            assert_eq!(found[0], found[1], "{name} in {dtype:?}");
        }
    }
}

fn through_f16(number: f32) -> f32 {
    half::f16::from_f32(number).to_f32()
}

fn through_bf16(number: f32) -> f32 {
    half::bf16::from_f32(number).to_f32()
}

#[tokio::test]
async fn every_ggml_type_stays_close_to_f32() {
    let folder = TempDir::new().unwrap();
    let tiny = Tiny::llama(Size { hidden: 256, inner: 512, heads: 4, kv: 2, blocks: 2 });
    let file = folder.path().join("f32.gguf");
    write_gguf(&tiny, &file, GgmlDType::F32);
    let wanted = logits(&file, fit::Dtype::F32).await;
    // How far rounding the weights may move a logit, as a part of the largest one.
    for (dtype, name, rounding) in [
        (GgmlDType::F16, "f16", 0.002),
        (GgmlDType::BF16, "bf16", 0.01),
        (GgmlDType::Q8_0, "q8_0", 0.03),
        (GgmlDType::Q6K, "q6_k", 0.08),
        (GgmlDType::Q5_0, "q5_0", 0.15),
        (GgmlDType::Q5_1, "q5_1", 0.15),
        (GgmlDType::Q5K, "q5_k", 0.15),
        (GgmlDType::Q4_0, "q4_0", 0.3),
        (GgmlDType::Q4_1, "q4_1", 0.3),
        (GgmlDType::Q4K, "q4_k", 0.3),
    ] {
        let file = folder.path().join(format!("{name}.gguf"));
        write_gguf(&tiny, &file, dtype);
        assert_eq!(load(&file, fit::Dtype::Stored).await.local.spec().dtype, name);
        let widened = logits(&file, fit::Dtype::F32).await;
        assert_near(&widened, &wanted, rounding, &format!("{name} widened to f32"));
        assert_near(&logits(&file, fit::Dtype::Stored).await, &widened, 0.08, &format!("products in {name}"));
        assert_near(&logits(&file, fit::Dtype::Bf16).await, &widened, 0.02, &format!("{name} rounded to bf16"));
    }
}

#[tokio::test]
async fn a_folder_with_one_gguf_file_is_that_file() {
    let folder = TempDir::new().unwrap();
    write_gguf(&models()[0].1, &folder.path().join("some.gguf"), GgmlDType::F16);
    let model = load(folder.path(), fit::Dtype::Stored).await;
    assert_eq!(greedy(&model, &PROMPT, 4).await.1.len(), 4);
}

/// Our plain widening gives, bit for bit, what candle's does.
#[test]
fn widening_agrees_with_candle_for_every_type() {
    let numbers = noise(16 * 512, 3);
    let tensor = Tensor::from_vec(numbers, (16, 512), &Device::Cpu).unwrap();
    for (kind, theirs) in [
        (GgmlType::Q4_0, GgmlDType::Q4_0),
        (GgmlType::Q4_1, GgmlDType::Q4_1),
        (GgmlType::Q5_0, GgmlDType::Q5_0),
        (GgmlType::Q5_1, GgmlDType::Q5_1),
        (GgmlType::Q8_0, GgmlDType::Q8_0),
        (GgmlType::Q4K, GgmlDType::Q4K),
        (GgmlType::Q5K, GgmlDType::Q5K),
        (GgmlType::Q6K, GgmlDType::Q6K),
    ] {
        let quantised = QTensor::quantize(&tensor, theirs).unwrap();
        let bytes = quantised.data().unwrap();
        assert_eq!(bytes.len(), kind.bytes(16 * 512), "{}", kind.name());
        let mut ours = vec![0f32; 16 * 512];
        widen(Stored::Quantised(kind), &bytes, &mut ours);
        let theirs = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ours, theirs, "{}", kind.name());
    }
}
