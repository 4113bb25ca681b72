//! What a caller decides about one model on this machine.

use std::path::PathBuf;

use corolla_domain::model::{BlockRange, ModelId};

/// How weights are kept and computed with. Activations are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// As the checkpoint stores them, as long as that loses nothing.
    #[default]
    Auto,
    /// Widened to single precision.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// As the checkpoint stores them, quantised or not.
    File,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// On the processor.
    #[default]
    Cpu,
    /// On the GPU of that number. Needs cargo feature `cuda`.
    Cuda(usize),
}

/// Which transformer blocks to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockChoice {
    /// All of them.
    #[default]
    All,
    /// Only these.
    Range(BlockRange),
    /// Embeddings and LM head only.
    None,
}

/// One model to load.
#[derive(Debug, Clone)]
pub struct CandleConfig {
    /// The name by which clients ask for it.
    pub id: ModelId,
    /// A GGUF file, or a folder with `config.json` and safetensors or `pytorch_model.bin` weights.
    pub path: PathBuf,
    /// How weights are kept.
    pub dtype: DtypeChoice,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Blocks to load.
    pub blocks: BlockChoice,
    /// Positions that all open sessions together may reserve, each over all loaded blocks.
    pub cache_tokens: usize,
    /// Threads for our own kernels; `None` takes one for each core. Quantised products use candle's own pool, which
    /// reads `RAYON_NUM_THREADS`.
    pub threads: Option<usize>,
}
