//! Damaged and hostile files: each ends in a sentence that names the file, never in a panic.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use corolla_candle::Target;
use corolla_checkpoint::inspect;
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{fit, model::BlockRange, ports::FaultKind};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    fixtures,
    tiny::{Dtype, Size, Tiny},
};

use crate::{
    gguf::write_gguf,
    run::{config, cpu, refusal},
};

const SIZE: Size = Size { hidden: 48, inner: 80, heads: 6, kv: 2, blocks: 2 };

async fn says(path: &Path, kind: FaultKind, words: &[&str]) {
    let error = refusal(path).await;
    assert_eq!(error.kind(), kind, "{error}");
    assert!(words.iter().all(|word| error.context().contains(word)), "{words:?} are missing in: {error}");
}

fn llama() -> (TempDir, Tiny) {
    (TempDir::new().unwrap(), Tiny::llama(SIZE))
}

#[tokio::test]
async fn a_missing_model_is_not_found() {
    let folder = TempDir::new().unwrap();
    says(&folder.path().join("nothing"), FaultKind::NotFound, &["nothing", "check the model's path"]).await;
    says(folder.path(), FaultKind::NotFound, &["neither config.json nor a .gguf file"]).await;
    std::fs::write(folder.path().join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    says(folder.path(), FaultKind::NotFound, &["has no weights"]).await;
}

#[tokio::test]
async fn an_unknown_family_is_named_with_those_that_are_known() {
    let (folder, mut tiny) = llama();
    tiny.config["model_type"] = json!("falcon");
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    says(folder.path(), FaultKind::Unsupported, &["falcon", "bloom and llama"]).await;
}

#[tokio::test]
async fn a_gpu_needs_the_feature() {
    let (folder, tiny) = llama();
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    let wish = Target::Cuda { dtype: fit::Dtype::Stored, device: 0 };
    let error = corolla_candle::load(config(folder.path()), wish).await.err().unwrap();
    assert_eq!(error.kind(), FaultKind::Unsupported);
    assert!(error.context().contains("--features cuda"), "{error}");
}

#[tokio::test]
async fn blocks_beyond_the_model_are_refused() {
    let (folder, tiny) = llama();
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    let blocks = BlockChoice::Range(BlockRange::new(1, 3).unwrap());
    let wish = LoadConfig { blocks, ..config(folder.path()) };
    let error = corolla_candle::load(wish, Target::cpu()).await.err().unwrap();
    assert_eq!(error.kind(), FaultKind::InvalidInput);
    let ends = LoadConfig { blocks: BlockChoice::None, ..config(folder.path()) };
    let ends = corolla_candle::load(ends, Target::cpu()).await.unwrap();
    assert!(ends.local().is_some() && ends.engine().is_none());
    let blocks =
        corolla_candle::load(LoadConfig { ends: false, ..config(folder.path()) }, Target::cpu()).await.unwrap();
    assert!(blocks.local().is_none() && blocks.engine().is_some());
}

#[tokio::test]
async fn a_missing_or_misshapen_tensor_is_named() {
    let (folder, mut tiny) = llama();
    let name = "model.layers.1.mlp.up_proj.weight";
    let (shape, numbers) = tiny.tensors.remove(name).unwrap();
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    says(folder.path(), FaultKind::InvalidInput, &[name, "model.safetensors"]).await;
    tiny.tensors.insert(name.to_owned(), (vec![shape[1], shape[0]], numbers));
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    says(folder.path(), FaultKind::InvalidInput, &[name, "[48, 80]", "[80, 48]"]).await;
}

#[tokio::test]
async fn impossible_settings_are_named() {
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-48)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!("48")),
        ("num_hidden_layers", json!(1_000_000)),
        ("num_attention_heads", json!(7)),
        ("num_key_value_heads", json!(5)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(7)),
        ("head_dim", json!(1 << 19)),
        ("intermediate_size", json!(81)),
        ("intermediate_size", Value::Null),
        ("rms_norm_eps", json!(0)),
        ("rope_theta", json!("many")),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        ("tie_word_embeddings", json!("no")),
    ] {
        let (folder, mut tiny) = llama();
        tiny.config[key] = value.clone();
        tiny.write_folder(folder.path(), Dtype::F32, 1);
        let error = refusal(folder.path()).await;
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{key} = {value}: {error}");
        assert!(!error.context().contains("panicked"), "{key} = {value}: {error}");
    }
    let (folder, mut tiny) = llama();
    tiny.config["rope_scaling"] = json!({"type": "yarn", "factor": 2.0});
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    says(folder.path(), FaultKind::Unsupported, &["yarn", "llama3"]).await;
}

#[tokio::test]
async fn a_shard_outside_the_folder_is_refused() {
    for name in ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "./model-0.safetensors"] {
        let (folder, tiny) = llama();
        tiny.write_folder(folder.path(), Dtype::F32, 2);
        let index = json!({ "weight_map": { "model.embed_tokens.weight": name } }).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        says(folder.path(), FaultKind::InvalidInput, &["model.safetensors.index.json", "plain file names"]).await;
    }
}

#[tokio::test]
async fn a_missing_shard_and_a_lying_index_are_named() {
    let (folder, tiny) = llama();
    tiny.write_folder(folder.path(), Dtype::F32, 2);
    std::fs::remove_file(folder.path().join("model-1.safetensors")).unwrap();
    says(folder.path(), FaultKind::NotFound, &["model-1.safetensors"]).await;
    std::fs::copy(folder.path().join("model-0.safetensors"), folder.path().join("model-1.safetensors")).unwrap();
    says(folder.path(), FaultKind::InvalidInput, &["model-1.safetensors", "has no tensor", "index.json"]).await;
}

/// Cuts a file at every length near its headers and at some beyond, and flips bytes all over its first part.
fn damages(whole: &[u8]) -> Vec<Vec<u8>> {
    let cuts = (0..whole.len()).filter(|n| *n < 200 || n % 997 == 0 || *n > whole.len() - 60);
    let mut all: Vec<Vec<u8>> = cuts.map(|n| whole[..n].to_vec()).collect();
    let places = (0..whole.len()).filter(|n| *n < 400 || n % 499 == 0 || *n > whole.len() - 100);
    for place in places {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.to_vec();
            bytes[place] ^= flip;
            all.push(bytes);
        }
    }
    all
}

/// Whatever happens to a file, looking at it and loading it end, and not in a panic.
async fn survives(folder: &Path, file: &Path, every: usize) {
    let whole = std::fs::read(file).unwrap();
    let mut refused = 0;
    for (nth, bytes) in damages(&whole).into_iter().enumerate() {
        std::fs::write(file, bytes).unwrap();
        let mut errors: Vec<_> = inspect(folder).err().into_iter().collect();
        if nth % every == 0 {
            errors.extend(corolla_candle::load(config(folder), cpu(fit::Dtype::Stored)).await.err());
        }
        refused += usize::from(!errors.is_empty());
        for error in errors {
            assert!(
                matches!(error.kind(), FaultKind::InvalidInput | FaultKind::Unsupported | FaultKind::NotFound),
                "damage {nth}: {error}"
            );
        }
    }
    assert!(refused > 100, "only {refused} damages were noticed");
}

#[tokio::test]
async fn damaged_safetensors_are_refused() {
    let (folder, tiny) = llama();
    tiny.write_folder(folder.path(), Dtype::BF16, 1);
    survives(folder.path(), &folder.path().join("model.safetensors"), 7).await;
}

#[tokio::test]
async fn damaged_gguf_files_are_refused() {
    let (folder, tiny) = llama();
    let file = folder.path().join("model.gguf");
    write_gguf(&tiny, &file, GgmlDType::F16);
    survives(&file, &file, 7).await;
}

#[tokio::test]
async fn damaged_pickles_are_refused() {
    let source = fixtures::path("models").join("tiny-bloom");
    let folder = TempDir::new().unwrap();
    for file in ["config.json", "pytorch_model.bin"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    survives(folder.path(), &folder.path().join("pytorch_model.bin"), 7).await;
}

#[tokio::test]
async fn damaged_configurations_are_refused() {
    let (folder, tiny) = llama();
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    let file = folder.path().join("config.json");
    let whole = std::fs::read(&file).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&file, &whole[..len]).unwrap();
        says(folder.path(), FaultKind::InvalidInput, &["config.json"]).await;
    }
    std::fs::write(&file, "[".repeat(100_000)).unwrap();
    says(folder.path(), FaultKind::InvalidInput, &["config.json"]).await;
}
