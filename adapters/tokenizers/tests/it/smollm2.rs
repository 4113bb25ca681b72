//! The vocabulary of a real model, from its GGUF file.

use corolla_domain::{model::TokenId, ports::Tokenizer};
use corolla_tokenizers::HfTokenizer;
use testkit::tokenizer::{self as suite, Facts};

fn smollm2() -> HfTokenizer {
    corolla_tokenizers::load(&testkit::fixtures::smollm2()).unwrap()
}

#[tokio::test]
async fn keeps_every_promise() {
    let facts = Facts { vocab: 49152, special: Some(("<|im_start|>", TokenId(1))), space_first: false };
    suite::all(&smollm2(), facts).await;
}

#[tokio::test]
#[ignore = "a measurement: cargo nextest run -p corolla-tokenizers --run-ignored only --no-capture"]
async fn long_texts_take_linear_time() {
    let t0 = std::time::Instant::now();
    let tokenizer = smollm2();
    println!("load {:?}", t0.elapsed());
    let prose = "The quick brown fox, it's said, jumps over 13 lazy dogs; then it sleeps.\n";
    for unit in [prose, "a", " ", "\n", "é", "1", "👍", "ab", "Aa", "<|im_end|>", "汉"] {
        for bytes in [1000, 2_000, 8_000, 100_000, 1_000_000] {
            let text = unit.repeat(bytes / unit.len());
            let start = std::time::Instant::now();
            let tokens = tokenizer.encode(&text, false).await.unwrap();
            let encoded = start.elapsed();
            let start = std::time::Instant::now();
            assert!(tokenizer.decode(&tokens, false).unwrap() == text);
            println!("{unit:?} x {bytes}: {} tokens, encode {encoded:?} decode {:?}", tokens.len(), start.elapsed());
        }
    }
}
