//! What a caller decides about one model on this machine.

use corolla_checkpoint::{GgmlType, Stored};
use corolla_domain::fit::{Dtype, Kernels, KvType, Screen};

/// What activations are multiplied as. Sums are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Where weights are quantised, rounded to 8 bits, 32 with a scale of their own. Where weights are bf16 and the
    /// processor multiplies such numbers, rounded to bf16. Else as they are.
    #[default]
    Auto,
    /// As they are, for the same tokens as with weights widened to f32.
    F32,
}

/// How the processor computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// How weights are kept.
    pub dtype: Dtype,
    /// Which kernels to use; `None` takes the fastest that this processor has.
    pub kernels: Option<Kernels>,
    /// What activations are multiplied as.
    pub activations: Activations,
    /// The copy of the head with which the highest scores over the vocabulary are found, where weights are wider than 8
    /// bits: the same scores, with fewer bytes read and more kept.
    pub screen: Option<Screen>,
    /// What keys and values are kept in.
    pub kv_type: KvType,
    /// Threads, the worker's own included; `None` takes as many as affinity and control groups leave the process.
    pub threads: Option<usize>,
}

impl Cpu {
    /// Weights kept as `dtype` says, and everything else left open.
    #[must_use]
    pub fn new(dtype: Dtype) -> Self {
        let (activations, kv_type) = (Activations::Auto, KvType::F32);
        Self { dtype, kernels: None, activations, screen: None, kv_type, threads: None }
    }
}

/// Where and how to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// On the processor.
    Cpu(Cpu),
    /// With candle's tensors, on the processor: what runs on a GPU, without one.
    Tensors {
        /// How weights are kept.
        dtype: Dtype,
    },
    /// On the GPU of that number. Needs cargo feature `cuda`.
    Cuda {
        /// How weights are kept.
        dtype: Dtype,
        /// Which GPU.
        device: usize,
    },
}

impl Target {
    /// On the processor, with everything left open.
    #[must_use]
    pub fn cpu() -> Self {
        Self::Cpu(Cpu::new(Dtype::Stored))
    }
}

/// The form in which a matrix that a file has as `stored` is kept.
pub(crate) fn kept(dtype: Dtype, stored: Stored) -> Stored {
    match dtype {
        Dtype::Stored => stored,
        Dtype::F32 => Stored::F32,
        Dtype::F16 => Stored::F16,
        Dtype::Bf16 => Stored::Bf16,
        Dtype::Q8_0 => Stored::Quantised(GgmlType::Q8_0),
        Dtype::Q5_1 => Stored::Quantised(GgmlType::Q5_1),
        Dtype::Q4_1 => Stored::Quantised(GgmlType::Q4_1),
        Dtype::Q4_0 => Stored::Quantised(GgmlType::Q4_0),
    }
}
