//! What a caller decides about one model on this machine.

use corolla_checkpoint::{GgmlType, Stored};

/// How weights are kept and computed with. Activations are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// As the checkpoint stores them, quantised or not.
    #[default]
    Auto,
    /// Widened to single precision.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to f16.
    F16,
    /// Rounded to blocks of that type.
    Quantised(GgmlType),
}

impl DtypeChoice {
    /// What weights are computed with where the file stores them as `stored`.
    pub(crate) fn name(self, stored: Stored) -> String {
        let kept = match self {
            Self::Auto => stored,
            Self::F32 => Stored::F32,
            Self::Bf16 => Stored::Bf16,
            Self::F16 => Stored::F16,
            Self::Quantised(kind) => Stored::Quantised(kind),
        };
        kept.name()
    }
}

/// Which instruction set our kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KernelChoice {
    /// The fastest that this processor has.
    #[default]
    Auto,
    /// AVX-512.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// None in particular.
    Scalar,
}

impl KernelChoice {
    /// What the set is called, as [`crate::kernel_sets`] does; `None` where it is left open.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Avx512 => Some("avx512"),
            Self::Avx2 => Some("avx2"),
            Self::Scalar => Some("scalar"),
        }
    }
}

/// Where and how to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// On the processor.
    Cpu {
        /// How weights are kept.
        dtype: DtypeChoice,
        /// Which kernels to use.
        kernels: KernelChoice,
        /// Threads for our own kernels; `None` takes one for each core. Products with blocks other than Q4_1, Q5_0 and
        /// Q5_1 use candle's own pool, which reads `RAYON_NUM_THREADS`.
        threads: Option<usize>,
    },
    /// With candle's tensors, on the processor: what runs on a GPU, without one.
    Tensors {
        /// How weights are kept.
        dtype: DtypeChoice,
    },
    /// On the GPU of that number. Needs cargo feature `cuda`.
    Cuda {
        /// How weights are kept.
        dtype: DtypeChoice,
        /// Which GPU.
        device: usize,
    },
}

impl Target {
    /// On the processor, with everything left open.
    #[must_use]
    pub fn cpu() -> Self {
        Self::Cpu { dtype: DtypeChoice::Auto, kernels: KernelChoice::Auto, threads: None }
    }
}
