//! Long and uniform texts take time in proportion to their length.

use std::time::{Duration, Instant};

use corolla_domain::ports::Tokenizer;
use corolla_tokenizers::HfTokenizer;
use testkit::fixtures;

const PROSE: &str = "The quick brown fox, it's said, jumps over 13 lazy dogs; then it sleeps.\n";
const UNITS: &[&str] = &[PROSE, "a", " ", "\n", "é", "1", "👍", "Aa", "<|im_end|>", "</s>", "汉"];

fn tokenizers() -> [HfTokenizer; 2] {
    let sentencepiece = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sentencepiece.gguf");
    [&*fixtures::smollm2(), sentencepiece.as_ref()].map(|path| corolla_tokenizers::load(path).unwrap())
}

async fn time(tokenizer: &HfTokenizer, text: &str) -> Duration {
    let start = Instant::now();
    let tokens = tokenizer.encode(text, false).await.unwrap();
    tokenizer.decode(&tokens, false).unwrap();
    start.elapsed()
}

/// The quietest of three moments of a busy machine.
async fn best_time(tokenizer: &HfTokenizer, text: &str) -> Duration {
    let times = [time(tokenizer, text).await, time(tokenizer, text).await, time(tokenizer, text).await];
    times.into_iter().min().unwrap_or_default()
}

#[tokio::test]
async fn uniform_texts_take_linear_time() {
    for tokenizer in tokenizers() {
        for unit in UNITS {
            let (short, long) = (unit.repeat(10_000 / unit.len()), unit.repeat(200_000 / unit.len()));
            time(&tokenizer, &short).await;
            let (short, long) = (best_time(&tokenizer, &short).await, best_time(&tokenizer, &long).await);
            // 20 times the text in 400 times the time would be quadratic; a busy machine is not.
            assert!(
                long < 150 * short + Duration::from_millis(50),
                "{unit:?}: {short:?} for 10 kB, {long:?} for 200 kB"
            );
        }
    }
}

#[tokio::test]
#[ignore = "prints a table: cargo test --release -p corolla-tokenizers --test it -- --ignored --nocapture"]
async fn table_of_times() {
    for (name, tokenizer) in ["smollm2", "sentencepiece"].into_iter().zip(tokenizers()) {
        for unit in UNITS {
            for bytes in [512, 10_000, 100_000, 1_000_000] {
                let text = unit.repeat(bytes / unit.len());
                time(&tokenizer, &text[..text.len().min(500) / unit.len() * unit.len()]).await;
                println!("{name:14} {bytes:8} bytes of {unit:?}: {:?}", time(&tokenizer, &text).await);
            }
        }
    }
}
