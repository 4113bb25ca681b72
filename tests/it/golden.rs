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
    #[serde(default)]
    top5: Vec<Vec<(u32, f32)>>,
    /// After the prompt.
    #[serde(default)]
    last_logits: Vec<f64>,
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

#[derive(Deserialize)]
struct Scores {
    tokens: Vec<Score>,
    logprob: f64,
}

#[derive(Deserialize)]
struct Score {
    id: u32,
    text: String,
    logprob: Option<f64>,
}

/// `corolla score` gives a word that follows a prompt the probability that transformers' logits give it.
#[test]
fn a_text_scores_as_transformers_says() {
    let mut compared = 0;
    for name in ["tiny-bloom", "tiny-llama"] {
        let config = model(name, &fixtures::path(&format!("models/{name}")), "dtype = \"f32\"");
        for case in golden(name).cases.into_iter().filter(|case| !case.prompt.is_empty()).take(4) {
            let text = format!("{} a", case.prompt);
            let output = run(&config, &["score", "--json", "--prompt", &text]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let scores: Scores = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(scores.tokens[0].logprob, None);
            let sum: f64 = scores.tokens.iter().filter_map(|token| token.logprob).sum();
            assert!((sum - scores.logprob).abs() < 1e-9);
            let said: String = scores.tokens.iter().map(|token| token.text.as_str()).collect();
            assert!(said.ends_with(text.trim_start()), "{said:?} should be {text:?}");
            let at = case.prompt_ids.len();
            if scores.tokens.iter().take(at).map(|token| token.id).ne(case.prompt_ids) {
                continue; // the added word changed how the prompt is cut
            }
            let total: f64 = case.last_logits.iter().map(|logit| logit.exp()).sum();
            let wanted = case.last_logits[scores.tokens[at].id as usize] - total.ln();
            let found = scores.tokens[at].logprob.unwrap();
            assert!((found - wanted).abs() < 1e-3, "{name}: {text:?}: {found} instead of {wanted}");
            compared += 1;
        }
    }
    assert!(compared >= 6, "only {compared} of 8 prompts could be compared");
}

/// The real chat model says what llama.cpp says over the same file, or leaves its path where llama.cpp's own choice was
/// a near tie. Both round activations to 8 bits before they multiply them with 4-bit weights, which moves logits by 0.1
/// in either and not by the same: `adapters/candle/tests/it/golden.rs` measures it step by step, and finds another best
/// token than llama.cpp's at one step in 38. So few replies are equal to their end (3 of 10), and 335 of 640 tokens lie
/// before a parting, 325 to 449 with other sets of kernels. Wrong logits would part at once, and not at near ties.
#[test]
fn the_small_chat_model_says_what_llama_cpp_says_up_to_near_ties() {
    /// See `tests/fixtures/golden/README.md`.
    const NEAR: f32 = 0.3;
    let config = model("smollm2", &fixtures::smollm2(), "");
    let cases = golden("smollm2").cases;
    let mut same = 0;
    for case in &cases {
        let report = generate(&config, &case.prompt);
        assert_eq!(report.prompt_ids, case.prompt_ids, "{}", case.prompt);
        let at = (0..64).find(|i| report.ids[*i] != case.new_ids[*i]);
        same += at.unwrap_or(64);
        let Some(at) = at else { continue };
        let ours = case.top5[at].iter().find(|(id, _)| *id == report.ids[at]);
        let behind = ours.map(|(_, logit)| case.top5[at][0].1 - logit);
        println!("{:?} parts at token {at}, where llama.cpp has our choice {behind:?} behind its own", case.prompt);
        assert!(behind.is_some_and(|gap| gap <= NEAR), "{:?} parts at token {at}: {behind:?}", case.prompt);
    }
    println!("{same} tokens lie before a parting");
    assert!(cases.len() == 10 && same >= 160, "only {same} of 640 tokens lie before a parting");
}
