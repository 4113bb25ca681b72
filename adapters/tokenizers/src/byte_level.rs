//! Byte-level BPE (GPT-2 and its descendants) from the metadata of a GGUF file: model `gpt2`.
//!
//! The patterns that cut a text into words before merging are part of each model's format; GGUF files name them in
//! `tokenizer.ggml.pre`.

use corolla_domain::ports::{FaultKind, PortError};
use corolla_gguf::{Gguf, Strings};
use tokenizers::{
    SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// Words of GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Words of Llama 3: digits in groups of three.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words of Qwen 2: as Llama 3, each digit alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words of BLOOM: whatever stands between spaces and punctuation.
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
/// Each digit alone.
const DIGIT: &str = r"\p{N}";

/// How one family cuts texts into words and merges them.
struct Family {
    /// Applied one after the other, each to the pieces of the one before.
    patterns: &'static [&'static str],
    /// Whether a word of the vocabulary is taken whole, whatever the merges say.
    whole_words: bool,
    /// Whether texts begin with BOS where the file does not say.
    bos: bool,
}

impl Family {
    fn named(pre: &str) -> Option<Self> {
        let cut = |patterns| Family { patterns, whole_words: false, bos: false };
        Some(match pre {
            "default" | "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "jais" => cut(&[GPT2]),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                cut(&[DIGIT, GPT2])
            }
            "llama-bpe" | "llama3" | "llama-v3" => Family { patterns: &[LLAMA3], whole_words: true, bos: true },
            "dbrx" | "smaug-bpe" => cut(&[LLAMA3]),
            "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => cut(&[QWEN2]),
            "bloom" | "gpt3-finnish" | "poro-chat" => cut(&[BLOOM]),
            "falcon" => cut(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
            _ => return None,
        })
    }
}

/// The encoder, and whether texts begin with BOS where the file does not say.
pub(crate) fn encoder(gguf: &Gguf, tokens: &Strings, vocab: Vocab) -> Result<(Tokenizer, bool), PortError> {
    let pre = gguf.str("tokenizer.ggml.pre").unwrap_or("default");
    let Some(family) = Family::named(pre) else {
        let said =
            format!("pre-tokenizer `{pre}` is not supported; use the model's folder with tokenizer.json instead");
        return Err(PortError::new(FaultKind::Unsupported, said));
    };
    let Some(merges) = gguf.strings("tokenizer.ggml.merges") else {
        return Err(PortError::invalid("tokenizer.ggml.merges is missing; fetch another conversion of the model"));
    };
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges.iter() {
        let halves = merge.split_once(' ').filter(|(left, right)| {
            vocab.contains_key(*left) && vocab.contains_key(*right) && vocab.contains_key(&format!("{left}{right}"))
        });
        let Some((left, right)) = halves else {
            return Err(PortError::invalid(format!(
                "tokenizer.ggml.merges joins `{}`, which is not in the vocabulary of {} tokens",
                merge.chars().take(40).collect::<String>(),
                tokens.len()
            )));
        };
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let built = BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(family.whole_words).build();
    let model = built.map_err(|e| PortError::invalid(format!("the vocabulary contradicts itself: {e}")))?;
    let mut encoder = Tokenizer::new(model);
    encoder.with_pre_tokenizer(Some(words(family.patterns)?));
    Ok((encoder, family.bos))
}

fn words(patterns: &[&str]) -> Result<Sequence, PortError> {
    let mut steps = Vec::with_capacity(patterns.len() + 1);
    for pattern in patterns {
        let split = Split::new(SplitPattern::Regex((*pattern).to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map_err(|e| PortError::internal(format!("pattern {pattern}: {e}")))?;
        steps.push(PreTokenizerWrapper::from(split));
    }
    steps.push(ByteLevel::new(false, false, false).into());
    Ok(Sequence::new(steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        for pre in ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "bloom", "falcon"] {
            assert!(words(Family::named(pre).unwrap().patterns).is_ok(), "{pre}");
        }
        assert!(Family::named("nobody").is_none());
    }
}
