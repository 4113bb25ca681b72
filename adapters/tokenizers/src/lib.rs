//! [`Tokenizer`](corolla_domain::ports::Tokenizer) on Hugging Face `tokenizers`: vocabularies from GGUF files and from
//! folders in Hugging Face layout, chat templates on `minijinja`.

mod byte_level;
mod calls;
mod chat;
mod folder;
mod gguf;
mod grammar;
mod pieces;
mod python_json;
mod sentencepiece;
mod tokenizer;
mod tools;

use std::path::Path;

use corolla_domain::ports::PortError;

pub use tokenizer::HfTokenizer;

/// Loads the tokenizer of a model: from a GGUF file, or from a folder with `tokenizer.json`. Reads files and takes up
/// to a second for large vocabularies: not for the executor.
///
/// # Errors
/// `InvalidInput` where a file is missing or damaged, `Unsupported` where its kind of tokenizer is not known here. The
/// sentence names the file and what to do.
pub fn load(path: &Path) -> Result<HfTokenizer, PortError> {
    if path.is_dir() { folder::load(path) } else { gguf::load(path) }
}
