//! NVIDIA GPUs: which there are, and opening one.

use candle_core::Device;
use corolla_domain::ports::{FaultKind, PortError};

/// An NVIDIA GPU of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// What its maker calls it.
    pub name: String,
    /// Bytes of its memory.
    pub total_bytes: u64,
    /// Bytes that nobody uses now.
    pub free_bytes: u64,
}

/// The GPUs of this machine, in the order of their numbers.
///
/// # Errors
/// `Unsupported` where this build has no CUDA, `Unavailable` where there is no driver or no GPU.
#[cfg(not(feature = "cuda"))]
pub fn cuda_devices() -> Result<Vec<CudaDevice>, PortError> {
    Err(PortError::new(FaultKind::Unsupported, "this build has no CUDA: build with `--features cuda`"))
}

#[cfg(not(feature = "cuda"))]
pub(super) fn open(nth: usize) -> Result<Device, PortError> {
    let text = format!("GPU {nth} was asked for, but this build has no CUDA: build with `--features cuda`");
    Err(PortError::new(FaultKind::Unsupported, text))
}
