//! `LocalModel` and `BlockEngine` on candle.
//!
//! Two arithmetics for the families of `corolla-compute`: our own kernels on the processor, and candle's tensors on an
//! NVIDIA GPU. Weights are kept in f32, bf16, f16 or the blocks of a ggml type; activations and sums are f32.

mod config;
mod cpu;
mod device;
mod ggml;

use corolla_compute::{LoadConfig, Model};
use corolla_domain::ports::PortError;

pub use config::{Activations, Cpu, Target};
pub use cpu::kernel_sets;
pub use device::{CudaDevice, cuda_devices};

/// Loads what `config` names, to be computed as `target` says.
///
/// # Errors
/// Those of [`Model::load`]; `Unsupported` for kernels that this processor lacks and a GPU that this build lacks,
/// `Unavailable` for a GPU that is not there.
pub async fn load(config: LoadConfig, target: Target) -> Result<Model, PortError> {
    match target {
        Target::Cpu(cpu) => Model::load(config, move || cpu::CpuArithmetic::new(cpu)).await,
        Target::Tensors { dtype } => {
            Model::load(config, move || Ok(device::TensorArithmetic::new(candle_core::Device::Cpu, dtype))).await
        }
        Target::Cuda { dtype, device } => {
            Model::load(config, move || Ok(device::TensorArithmetic::new(device::cuda(device)?, dtype))).await
        }
    }
}
