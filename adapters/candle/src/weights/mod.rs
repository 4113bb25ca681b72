//! Where tensors come from: one view over all file formats.

mod gguf;
mod pickle;
mod safetensors;
mod shards;
mod torch;
mod zip;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use corolla_domain::ports::PortError;

pub(crate) use self::{gguf::GgufWeights, shards::open_folder};

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of a ggml type.
    Quantised(GgmlDType),
}

impl Stored {
    /// Numbers of a block, and its bytes.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Quantised(dtype) => (dtype.block_size(), dtype.type_size()),
        }
    }

    /// What people call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::F32 => "f32".to_owned(),
            Self::F16 => "f16".to_owned(),
            Self::Bf16 => "bf16".to_owned(),
            Self::Quantised(dtype) => match dtype {
                GgmlDType::Q2K => "q2_k".to_owned(),
                GgmlDType::Q3K => "q3_k".to_owned(),
                GgmlDType::Q4K => "q4_k".to_owned(),
                GgmlDType::Q5K => "q5_k".to_owned(),
                GgmlDType::Q6K => "q6_k".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            },
        }
    }
}

/// A tensor as it lies in a file. The number of bytes fits shape and type: makers check that.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    /// Sides, outermost first.
    pub shape: Vec<usize>,
    /// How numbers are stored.
    pub stored: Stored,
    /// The numbers, row-major and little-endian.
    pub bytes: &'a [u8],
    /// The file they lie in.
    pub file: &'a Path,
}

impl View<'_> {
    /// Whether the bytes are what the shape needs.
    pub(crate) fn fits(&self) -> bool {
        let (block, bytes) = self.stored.block();
        let row = self.shape.last().copied().unwrap_or(1);
        let count = self.shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side));
        row.is_multiple_of(block)
            && count.and_then(|n| (n / block).checked_mul(bytes)).is_some_and(|n| n == self.bytes.len())
    }
}

/// The tensors of one checkpoint.
pub(crate) trait Weights: Send + Sync {
    /// The tensor of that name, or `None` where there is none.
    fn view(&self, name: &str) -> Result<Option<View<'_>>, PortError>;

    /// The names of all tensors.
    fn names(&self) -> Vec<String>;

    /// What to blame where a tensor is missing.
    fn place(&self) -> &Path;

    /// Bytes of all files.
    fn bytes(&self) -> u64;
}
