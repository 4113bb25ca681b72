//! Tokens, texts and prompts equal those of transformers and llama.cpp.

use std::path::Path;

use corolla_domain::{
    model::{self, Message, TokenId},
    ports::{FaultKind, Tokenizer},
};
use corolla_tokenizers::HfTokenizer;
use serde::{Deserialize, de::DeserializeOwned};
use testkit::fixtures;

const SENTENCEPIECE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sentencepiece");

fn read<T: DeserializeOwned>(path: impl AsRef<Path>) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(path: impl AsRef<Path>) -> HfTokenizer {
    corolla_tokenizers::load(path.as_ref()).unwrap()
}

#[derive(Deserialize)]
struct Tokens {
    cases: Vec<TokensOf>,
}

#[derive(Deserialize)]
struct TokensOf {
    text: String,
    ids: Vec<TokenId>,
}

async fn encodes_as_written(tokenizer: &HfTokenizer, golden: Tokens) {
    assert!(golden.cases.len() > 10);
    for case in golden.cases {
        assert_eq!(tokenizer.encode(&case.text, false).await.unwrap(), case.ids, "{:?}", case.text);
    }
}

#[tokio::test]
async fn smollm2_encodes_as_llama_cpp() {
    encodes_as_written(&load(fixtures::smollm2()), read(fixtures::path("golden/smollm2-tokens.json"))).await;
}

#[tokio::test]
async fn sentencepiece_encodes_as_llama_cpp() {
    let golden = read(format!("{SENTENCEPIECE}-tokens.json"));
    encodes_as_written(&load(format!("{SENTENCEPIECE}.gguf")), golden).await;
}

#[derive(Deserialize)]
struct Replies {
    cases: Vec<Reply>,
    #[serde(default)]
    chat: Vec<Chat>,
}

#[derive(Deserialize)]
struct Reply {
    prompt: String,
    prompt_ids: Vec<TokenId>,
    new_ids: Vec<TokenId>,
    text: String,
    messages: Option<Vec<Message>>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: Option<String>,
    ids: Option<Vec<TokenId>>,
    error: Option<String>,
}

async fn speaks_as_transformers(name: &str) -> (HfTokenizer, Replies) {
    let tokenizer = load(fixtures::path(&format!("models/{name}")));
    let golden: Replies = read(fixtures::path(&format!("golden/{name}.json")));
    for case in &golden.cases {
        assert_eq!(tokenizer.encode(&case.prompt, true).await.unwrap(), case.prompt_ids, "{:?}", case.prompt);
        let text = tokenizer.decode(&case.new_ids, false).unwrap();
        assert!(agree(&text, &case.text), "reply to {:?}: {text:?}, not {:?}", case.prompt, case.text);
    }
    (tokenizer, golden)
}

/// Whether `ours` is `theirs`, but for what the port promises: the first space stays, and a broken byte spoils no whole
/// characters beside it (transformers replaces all of a run of byte tokens where one is broken).
fn agree(ours: &str, theirs: &str) -> bool {
    let mut left = ours.strip_prefix(' ').filter(|_| !theirs.starts_with(' ')).unwrap_or(ours).chars();
    let more = ours.matches('\u{fffd}').count() <= theirs.matches('\u{fffd}').count();
    let equal = ours == theirs || ours.contains('\u{fffd}') || ours.strip_prefix(' ') == Some(theirs);
    equal && more && theirs.chars().filter(|c| *c != '\u{fffd}').all(|c| left.any(|ours| ours == c))
}

#[tokio::test]
async fn tiny_bloom_speaks_as_transformers() {
    let (tokenizer, _) = speaks_as_transformers("tiny-bloom").await;
    let refused = tokenizer.chat_prompt(&model::Chat::default()).unwrap_err();
    assert_eq!(refused.kind(), FaultKind::Unsupported);
    assert!(refused.context().contains("has no chat template; send plain text"), "{refused}");
}

#[tokio::test]
async fn tiny_llama3_speaks_as_transformers() {
    speaks_as_transformers("tiny-llama3").await;
}

#[tokio::test]
async fn tiny_llama_speaks_and_chats_as_transformers() {
    let (tokenizer, golden) = speaks_as_transformers("tiny-llama").await;
    assert!(golden.chat.len() > 3);
    for chat in golden.chat.into_iter().filter(|chat| chat.add_generation_prompt) {
        let prompt = tokenizer.chat_prompt(&chat.messages.clone().into());
        if let Some(error) = chat.error {
            let refused = prompt.unwrap_err();
            assert_eq!(refused.kind(), FaultKind::InvalidInput);
            assert!(refused.context().contains(&error), "{refused}");
        } else {
            let prompt = prompt.unwrap();
            assert_eq!(Some(&prompt), chat.text.as_ref());
            assert_eq!(Some(tokenizer.encode(&prompt, false).await.unwrap()), chat.ids, "{prompt:?}");
        }
    }
}

#[tokio::test]
async fn smollm2_speaks_and_chats_as_llama_cpp() {
    let tokenizer = load(fixtures::smollm2());
    let golden: Replies = read(fixtures::path("golden/smollm2.json"));
    for case in golden.cases {
        if let Some(messages) = case.messages {
            assert_eq!(tokenizer.chat_prompt(&messages.into()).unwrap(), case.prompt);
        }
        assert_eq!(tokenizer.encode(&case.prompt, false).await.unwrap(), case.prompt_ids, "{:?}", case.prompt);
        let text = tokenizer.decode(&case.new_ids, false).unwrap();
        assert_eq!(text, case.text, "reply to {:?}", case.prompt);
    }
}
