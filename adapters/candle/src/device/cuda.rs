//! NVIDIA GPUs: which there are, and opening one.

use candle_core::Device;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
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

/// The GPUs of this machine, in the order of their numbers.
///
/// # Errors
/// `Unsupported` where this build has no CUDA, `Unavailable` where there is no driver or no GPU.
#[cfg(feature = "cuda")]
pub fn cuda_devices() -> Result<Vec<CudaDevice>, PortError> {
    let count = CudaContext::device_count().map_err(|e| driver("GPUs cannot be counted", &e))?;
    let count = usize::try_from(count).unwrap_or_default();
    if count == 0 {
        let text = "the NVIDIA driver sees no GPU; see that CUDA_VISIBLE_DEVICES does not hide it";
        return Err(PortError::new(FaultKind::Unavailable, text));
    }
    let device = |nth: usize| {
        let about = || {
            let context = CudaContext::new(nth)?;
            let (free, total) = context.mem_get_info()?;
            Ok(CudaDevice { name: context.name()?, total_bytes: total as u64, free_bytes: free as u64 })
        };
        about().map_err(|e: DriverError| driver(&format!("GPU {nth} cannot be used"), &e))
    };
    (0..count).map(device).collect()
}

#[cfg(feature = "cuda")]
pub(super) fn open(nth: usize) -> Result<Device, PortError> {
    let devices = cuda_devices()?;
    if nth >= devices.len() {
        let text = format!("there is no GPU {nth}: the driver sees {}, numbered from 0", devices.len());
        return Err(PortError::new(FaultKind::Unavailable, text));
    }
    Device::new_cuda(nth).map_err(|e| {
        let text = format!("GPU {nth} ({}) cannot be used: {e}", devices[nth].name);
        PortError::new(FaultKind::Unavailable, text).with_source(e)
    })
}

/// What the driver says.
#[cfg(feature = "cuda")]
fn driver(what: &str, fault: &DriverError) -> PortError {
    let said = fault.error_string().map_or_else(|_| format!("{fault:?}"), |text| text.to_string_lossy().into_owned());
    PortError::new(FaultKind::Unavailable, format!("{what}: {said}; see that `nvidia-smi` works"))
}
