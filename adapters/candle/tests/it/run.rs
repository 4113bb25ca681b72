//! Loading a model, in short.

use std::path::Path;

use corolla_candle::{Activations, Cpu, Target};
use corolla_compute::{BlockChoice, LoadConfig};
use corolla_domain::{fit, ports::PortError};
use testkit::run::Loaded;

pub(crate) fn config(path: &Path) -> LoadConfig {
    LoadConfig { id: "a-model".into(), path: path.to_owned(), ends: true, blocks: BlockChoice::All, cache_tokens: 4096 }
}

pub(crate) fn cpu(dtype: fit::Dtype) -> Target {
    Target::Cpu(Cpu { threads: Some(2), ..Cpu::new(dtype) })
}

/// The same with activations as they are.
pub(crate) fn exact(dtype: fit::Dtype) -> Target {
    Target::Cpu(Cpu { activations: Activations::F32, threads: Some(2), ..Cpu::new(dtype) })
}

/// The same with keys and values kept as `kv_type` says.
pub(crate) fn keeping(kv_type: fit::KvType) -> Target {
    let activations = Activations::F32;
    Target::Cpu(Cpu { activations, kv_type, threads: Some(2), ..Cpu::new(fit::Dtype::Stored) })
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
