//! What other implementations computed with the same weights.

use corolla_compute::{BlockChoice, LoadConfig};
use testkit::{
    fixtures,
    golden::{GgufGolden, Golden, cases_agree, read},
};

use crate::{config, load_as};

async fn transformers_agree(name: &str) {
    testkit::golden::transformers_agree(name, async |path, range| {
        let blocks = range.map_or(BlockChoice::All, BlockChoice::Range);
        load_as(LoadConfig { blocks, ..config(&path) }).await
    })
    .await;
    testkit::golden::gradients_agree(name, async |path| load_as(config(&path)).await).await;
}

#[tokio::test]
async fn bloom_from_a_pickle_in_f16_with_six_heads() {
    transformers_agree("tiny-bloom").await;
}

#[tokio::test]
async fn llama_from_shards_in_f32() {
    transformers_agree("tiny-llama").await;
}

#[tokio::test]
async fn llama3_in_bf16_with_biases_tied_head_and_scaled_rope() {
    transformers_agree("tiny-llama3").await;
}

#[tokio::test]
async fn gguf_files_of_both_families() {
    let golden: GgufGolden = read("gguf.json");
    assert!(golden.files.len() >= 2);
    for file in golden.files {
        let path = fixtures::path("models").join(&file.file);
        cases_agree(&load_as(config(&path)).await, &path, &file.cases).await;
    }
}

#[tokio::test]
async fn the_small_chat_model_widened_to_f32() {
    let golden: Golden = read("smollm2-f32.json");
    let path = fixtures::smollm2();
    cases_agree(&load_as(config(&path)).await, &path, &golden.cases[..2]).await;
}
