//! Loading a model, in short.

use std::path::Path;

use corolla_candle::{DtypeChoice, KernelChoice, Target};
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::ports::PortError;
use testkit::run::Loaded;

pub(crate) fn config(path: &Path) -> LoadConfig {
    LoadConfig { id: "a-model".into(), path: path.to_owned(), ends: true, blocks: BlockChoice::All, cache_tokens: 4096 }
}

pub(crate) fn cpu(dtype: DtypeChoice) -> Target {
    Target::Cpu { dtype, kernels: KernelChoice::Auto, threads: Some(2) }
}

pub(crate) fn tensors(dtype: DtypeChoice) -> Target {
    Target::Tensors { dtype }
}

/// What `config` says, computed as `target` says.
pub(crate) async fn load_as(config: LoadConfig, target: Target) -> Loaded {
    let model = corolla_candle::load(config, target).await.unwrap();
    Loaded { local: model.local().unwrap(), engine: model.engine().unwrap() }
}

pub(crate) async fn load(path: &Path, dtype: DtypeChoice) -> Loaded {
    load_as(config(path), cpu(dtype)).await
}

/// The error that loading `path` ends with.
pub(crate) async fn refusal(path: &Path) -> PortError {
    corolla_candle::load(config(path), cpu(DtypeChoice::Auto)).await.err().expect("the model is refused")
}
