//! `corolla generate --json` against what other implementations say.

use serde::Deserialize;
use testkit::fixtures;

use crate::server::{model, run};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    new_ids: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct Report {
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: String,
}

fn golden(name: &str) -> Golden {
    let text = std::fs::read_to_string(fixtures::path(&format!("golden/{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn generate(config: &str, prompt: &str) -> Report {
    let output = run(config, &["generate", "--json", "--ignore-eos", "--max-new-tokens", "64", "--prompt", prompt]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Same ids and text as Hugging Face transformers in f32, for each way a checkpoint comes: `pytorch_model.bin` (BLOOM),
/// sharded safetensors (Llama), one safetensors file with Llama-3 RoPE and biases.
#[test]
fn tiny_models_say_what_transformers_says() {
    for name in ["tiny-bloom", "tiny-llama", "tiny-llama3"] {
        let config = model(name, &fixtures::path(&format!("models/{name}")), "dtype = \"f32\"");
        for case in golden(name).cases.into_iter().filter(|case| !case.prompt.is_empty()) {
            let report = generate(&config, &case.prompt);
            assert_eq!(report.prompt_ids, case.prompt_ids, "{name}: {}", case.prompt);
            assert_eq!(report.ids, case.new_ids, "{name}: {}", case.prompt);
            // Where random weights write bytes that are no text, a stream cannot know what a decoder of the whole makes
            // of their neighbours.
            if !case.text.contains('\u{fffd}') {
                assert_eq!(report.text.trim_start(), case.text.trim_start(), "{name}: {}", case.prompt);
            }
        }
    }
}
