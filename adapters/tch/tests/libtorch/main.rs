//! The adapter as callers see it: its contracts, and what other implementations say.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::Path;

use corolla_compute::{BlockChoice, LoadConfig};

#[cfg(feature = "libtorch")]
mod contract;
#[cfg(feature = "libtorch")]
mod golden;

fn config(path: &Path) -> LoadConfig {
    LoadConfig { id: "a-model".into(), path: path.to_owned(), ends: true, blocks: BlockChoice::All, cache_tokens: 4096 }
}

#[cfg(feature = "libtorch")]
async fn load_as(config: LoadConfig) -> testkit::run::Loaded {
    let model = corolla_tch::load(config, Some(1)).await.unwrap();
    testkit::run::Loaded { local: model.local().unwrap(), engine: model.engine().unwrap() }
}

#[cfg(not(feature = "libtorch"))]
#[tokio::test]
async fn without_libtorch_loading_says_how_to_get_it() {
    let error = corolla_tch::load(config(Path::new("any")), None).await.err().unwrap();
    assert_eq!(error.kind(), corolla_domain::ports::FaultKind::Unsupported);
    assert!(error.context().contains("make libtorch"), "{error}");
}

#[cfg(feature = "libtorch")]
#[test]
fn the_running_libtorch_is_the_one_that_was_linked() {
    assert!(corolla_tch::library().unwrap().starts_with("libtorch 2.13."));
}
