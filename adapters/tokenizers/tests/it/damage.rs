//! What is missing or damaged is named, with the fix; nothing panics.

use std::{fs, path::Path};

use corolla_domain::{
    model::Chat,
    ports::{FaultKind, PortError, Tokenizer},
};
use tempfile::TempDir;
use testkit::fixtures;

fn refusal(path: &Path) -> PortError {
    match corolla_tokenizers::load(path) {
        Ok(_) => panic!("{} should be refused", path.display()),
        Err(fault) => fault,
    }
}

fn says(fault: &PortError, kind: FaultKind, words: &[&str]) {
    assert_eq!(fault.kind(), kind, "{fault}");
    for word in words {
        assert!(fault.context().contains(word), "`{fault}` should say `{word}`");
    }
}

/// A copy of tiny-llama whose files can be damaged.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixtures::path("models/tiny-llama").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn edit(folder: &TempDir, file: &str, from: &str, to: &str) {
    let path = folder.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn missing_files_are_named() {
    says(
        &refusal(Path::new("/nowhere/model.gguf")),
        FaultKind::InvalidInput,
        &["/nowhere/model.gguf", "GGUF file or a folder"],
    );
    let empty = tempfile::tempdir().unwrap();
    says(&refusal(empty.path()), FaultKind::InvalidInput, &["tokenizer.json is missing", "fetch the model's folder"]);
}

#[test]
fn damaged_files_are_named() {
    let broken = folder();
    let json = fs::read(broken.path().join("tokenizer.json")).unwrap();
    for end in (0..json.len()).step_by(97) {
        fs::write(broken.path().join("tokenizer.json"), &json[..end]).unwrap();
        says(&refusal(broken.path()), FaultKind::InvalidInput, &["tokenizer.json", "fetch it again"]);
    }
    let broken = folder();
    fs::write(broken.path().join("tokenizer_config.json"), "[]").unwrap();
    says(&refusal(broken.path()), FaultKind::InvalidInput, &["tokenizer_config.json", "fetch it again"]);
}

#[test]
fn what_is_not_supported_is_named() {
    let odd = folder();
    edit(&odd, "tokenizer.json", "\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"");
    says(&refusal(odd.path()), FaultKind::Unsupported, &["tokenizer.json", "continuing_subword_prefix"]);
    let odd = folder();
    edit(
        &odd,
        "tokenizer.json",
        "\"type\": \"Fuse\"",
        "\"type\": \"CTC\", \"pad_token\": \"\", \"word_delimiter_token\": \"\", \"cleanup\": false",
    );
    says(&refusal(odd.path()), FaultKind::Unsupported, &["tokenizer.json", "decoder"]);
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_damaged() {
    let odd = folder();
    let json = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,
        "decoder":{"type":"Fuse"},"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}}"#;
    fs::write(odd.path().join("tokenizer.json"), json).unwrap();
    says(&refusal(odd.path()), FaultKind::InvalidInput, &["tokenizer.json", "damaged"]);
    let json = json.replace("\"b\":1", "\"b\":4294967295").replace("\"a b\"", "");
    fs::write(odd.path().join("tokenizer.json"), json).unwrap();
    says(&refusal(odd.path()), FaultKind::InvalidInput, &["tokenizer.json", "4294967295"]);
}

#[test]
fn damaged_gguf_files_are_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece.gguf");
    let whole = fs::read(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    for end in (0..whole.len() - 40).step_by(131) {
        fs::write(&path, &whole[..end]).unwrap();
        says(&refusal(&path), FaultKind::InvalidInput, &["cut.gguf"]);
    }
    for (from, to, kind, words) in [
        ("tokenizer.ggml.tokens", "tokenizer.ggml.nokens", FaultKind::InvalidInput, "tokenizer.ggml.tokens is missing"),
        ("tokenizer.ggml.scores", "tokenizer.ggml.snores", FaultKind::InvalidInput, "tokenizer.ggml.scores"),
        (
            "bos_token_id\u{4}\0\0\0\u{1}\0",
            "bos_token_id\u{4}\0\0\0\u{1}\u{2}",
            FaultKind::InvalidInput,
            "has 512 tokens",
        ),
        (
            "model\u{8}\0\0\0\u{5}\0\0\0\0\0\0\0llama",
            "model\u{8}\0\0\0\u{5}\0\0\0\0\0\0\0gpt-9",
            FaultKind::Unsupported,
            "`gpt-9`",
        ),
    ] {
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, changed).unwrap();
        says(&refusal(&path), kind, &["cut.gguf", words]);
    }
}

#[test]
fn corrupted_gguf_bytes_never_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece.gguf");
    let whole = fs::read(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corrupt.gguf");
    for at in (0..whole.len()).step_by(37) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        fs::write(&path, changed).unwrap();
        let _ = corolla_tokenizers::load(&path);
    }
}

#[tokio::test]
async fn explicit_wishes_of_the_config_are_followed() {
    let plain = folder();
    edit(&plain, "tokenizer_config.json", "\"add_bos_token\": true", "\"add_bos_token\": false");
    edit(&plain, "tokenizer_config.json", "\"add_eos_token\": false", "\"add_eos_token\": true");
    edit(
        &plain,
        "tokenizer_config.json",
        "\"eos_token\": \"</s>\"",
        "\"eos_token\": {\"content\": \"</s>\", \"lstrip\": false}",
    );
    let tokenizer = corolla_tokenizers::load(plain.path()).unwrap();
    let ids: Vec<u32> = tokenizer.encode("", true).await.unwrap().into_iter().map(|token| token.0).collect();
    assert_eq!(ids, [2]);
}

#[test]
fn a_template_of_its_own_file_or_of_a_list_is_found() {
    let listed = folder();
    let config = r#"{"chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]}"#;
    fs::write(listed.path().join("tokenizer_config.json"), config).unwrap();
    assert_eq!(corolla_tokenizers::load(listed.path()).unwrap().chat_prompt(&Chat::default()).unwrap(), "yes");
    fs::write(listed.path().join("chat_template.jinja"), "from the file\n").unwrap();
    assert_eq!(
        corolla_tokenizers::load(listed.path()).unwrap().chat_prompt(&Chat::default()).unwrap(),
        "from the file"
    );
}
