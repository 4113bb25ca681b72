//! Loading a model, in short.

use std::path::Path;

use corolla_candle::{Activations, Target};
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{fit, ports::PortError};
use testkit::run::Loaded;

pub(crate) fn config(path: &Path) -> LoadConfig {
    LoadConfig { id: "a-model".into(), path: path.to_owned(), ends: true, blocks: BlockChoice::All, cache_tokens: 4096 }
}

pub(crate) fn cpu(dtype: fit::Dtype) -> Target {
    Target::Cpu { dtype, kernels: None, activations: Activations::Auto, screen: None, threads: Some(2) }
}

/// The same with activations as they are.
pub(crate) fn exact(dtype: fit::Dtype) -> Target {
    Target::Cpu { dtype, kernels: None, activations: Activations::F32, screen: None, threads: Some(2) }
}

pub(crate) fn tensors(dtype: fit::Dtype) -> Target {
    Target::Tensors { dtype }
}

/// What `config` says, computed as `target` says.
pub(crate) async fn load_as(config: LoadConfig, target: Target) -> Loaded {
    let model = corolla_candle::load(config, target).await.unwrap();
    Loaded { local: model.local().unwrap(), engine: model.engine().unwrap() }
}

pub(crate) async fn load(path: &Path, dtype: fit::Dtype) -> Loaded {
    load_as(config(path), cpu(dtype)).await
}

/// The error that loading `path` ends with.
pub(crate) async fn refusal(path: &Path) -> PortError {
    corolla_candle::load(config(path), cpu(fit::Dtype::Stored)).await.err().expect("the model is refused")
}
