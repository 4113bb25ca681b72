//! Every kind of vocabulary keeps the promises of the port.

use std::path::Path;

use corolla_domain::model::TokenId;
use testkit::{
    fixtures,
    tokenizer::{self as suite, Facts},
};

async fn keeps_every_promise(path: &Path, facts: Facts) {
    suite::all(&corolla_tokenizers::load(path).unwrap(), facts).await;
}

#[tokio::test]
async fn smollm2() {
    let facts = Facts { vocab: 49152, special: Some(("<|im_start|>", TokenId(1))), space_first: false };
    keeps_every_promise(&fixtures::smollm2(), facts).await;
}

#[tokio::test]
async fn tiny_bloom() {
    let facts = Facts { vocab: 512, special: Some(("</s>", TokenId(2))), space_first: false };
    keeps_every_promise(&fixtures::path("models/tiny-bloom"), facts).await;
}

#[tokio::test]
async fn tiny_llama() {
    let facts = Facts { vocab: 512, special: Some(("</s>", TokenId(2))), space_first: true };
    keeps_every_promise(&fixtures::path("models/tiny-llama"), facts).await;
}

#[tokio::test]
async fn tiny_llama3() {
    let facts = Facts { vocab: 512, special: Some(("<|eot_id|>", TokenId(2))), space_first: false };
    keeps_every_promise(&fixtures::path("models/tiny-llama3"), facts).await;
}

#[tokio::test]
async fn sentencepiece_in_gguf() {
    let facts = Facts { vocab: 512, special: Some(("</s>", TokenId(2))), space_first: true };
    keeps_every_promise(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sentencepiece.gguf")), facts)
        .await;
}
