//! Where the committed fixtures and the fetched model are.

use std::path::{Path, PathBuf};

/// A file or folder below `tests/fixtures`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// The chat model that `make model` fetches.
///
/// # Panics
/// Where it has not been fetched, with the command that does.
#[must_use]
#[allow(clippy::panic, reason = "a test helper: the sentence is for whoever runs the tests")]
pub fn smollm2() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is not there: run `make model`", path.display());
    path
}
