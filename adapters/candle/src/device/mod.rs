//! Arithmetic with candle's tensors on one device: what runs on a GPU. On the processor it is slow and right, which lets
//! its tests run anywhere.

mod attention;
mod cuda;
mod matrix;

use candle_core::{DType, Device, Tensor};
use corolla_checkpoint::{Heads, Stored, View};
use corolla_compute::{Arithmetic, Place, Use};
use corolla_domain::{fit::Dtype, ports::PortError};

use self::{
    attention::{Cache, Frame, attend},
    matrix::Matrix,
};
use crate::{config::kept, ggml::library};

pub use cuda::{CudaDevice, cuda_devices};

/// Opens the GPU of that number.
pub(crate) fn cuda(nth: usize) -> Result<Device, PortError> {
    cuda::open(nth)
}

/// Arithmetic on one device.
pub(crate) struct TensorArithmetic {
    device: Device,
    dtype: Dtype,
}

impl TensorArithmetic {
    pub(crate) fn new(device: Device, dtype: Dtype) -> Self {
        Self { device, dtype }
    }

    /// How keys and values are kept: as dense weights are, in f16 beside quantised ones.
    fn cached(&self) -> DType {
        match self.dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::BF16,
            Dtype::Stored if self.device.is_cpu() => DType::F32,
            _ => DType::F16,
        }
    }
}

impl Arithmetic for TensorArithmetic {
    type Rows = Tensor;
    type Matrix = Matrix;
    type Vector = Tensor;
    type Cache = Cache;
    type Frame = Frame;

    fn dtype(&self, stored: Stored) -> String {
        kept(self.dtype, stored).name()
    }

    fn matrix(&self, view: &View<'_>, of_use: Use) -> Result<Matrix, PortError> {
        Matrix::new(view, of_use, kept(self.dtype, view.stored), &self.device)
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Tensor, PortError> {
        let len = numbers.len();
        Tensor::from_vec(numbers, len, &self.device).map_err(library)
    }

    fn rows(&self, numbers: Vec<f32>, width: usize) -> Result<Tensor, PortError> {
        let rows = numbers.len() / width;
        Tensor::from_vec(numbers, (rows, width), &self.device).map_err(library)
    }

    fn numbers(&self, rows: Tensor) -> Result<Vec<f32>, PortError> {
        rows.flatten_all().and_then(|rows| rows.to_vec1()).map_err(library)
    }

    fn select(&self, matrix: &Matrix, ids: &[u32]) -> Result<Tensor, PortError> {
        matrix.select(ids, &self.device).map_err(library)
    }

    fn product(&self, x: &Tensor, matrix: &Matrix, bias: Option<&Tensor>) -> Result<Tensor, PortError> {
        let product = || -> candle_core::Result<Tensor> {
            let product = matrix.product(x)?;
            bias.map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))
        };
        product().map_err(library)
    }

    fn product_gradient(&self, y: &Tensor, matrix: &Matrix) -> Result<Tensor, PortError> {
        matrix.product_gradient(y).map_err(library)
    }

    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor, PortError> {
        (x + y).map_err(library)
    }

    fn columns(&self, x: &Tensor, start: usize, end: usize) -> Result<Tensor, PortError> {
        x.narrow(1, start, end - start).map_err(library)
    }

    fn part(&self, x: &Tensor, start: usize, end: usize) -> Result<Tensor, PortError> {
        x.narrow(0, start, end - start).map_err(library)
    }

    fn join(&self, parts: Vec<Tensor>) -> Result<Tensor, PortError> {
        Tensor::cat(&parts, 0).map_err(library)
    }

    fn layer_norm(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f32) -> Result<Tensor, PortError> {
        candle_nn::ops::layer_norm(x, scale, shift, eps).map_err(library)
    }

    fn rms_norm(&self, x: &Tensor, scale: &Tensor, eps: f32) -> Result<Tensor, PortError> {
        candle_nn::ops::rms_norm(x, scale, eps).map_err(library)
    }

    fn gelu(&self, x: Tensor) -> Result<Tensor, PortError> {
        x.gelu().map_err(library)
    }

    fn gated(&self, gate: Tensor, up: &Tensor) -> Result<Tensor, PortError> {
        gate.silu().and_then(|gate| gate * up).map_err(library)
    }

    fn cache(&self, batch: usize, length: usize, heads: Heads) -> Result<Cache, PortError> {
        Cache::new((batch, heads.kv, length, heads.dim), self.cached(), &self.device).map_err(library)
    }

    fn reorder(&self, cache: &mut Cache, rows: &[usize], _: usize) -> Result<(), PortError> {
        cache.reorder(rows, &self.device).map_err(library)
    }

    fn frame(&self, place: Place, turns: Option<Vec<(f32, f32)>>, slopes: Option<&Tensor>) -> Result<Frame, PortError> {
        Frame::new(place, turns, slopes, &self.device).map_err(library)
    }

    fn attend(&self, qkv: [Tensor; 3], cache: &mut Cache, frame: &Frame, heads: Heads) -> Result<Tensor, PortError> {
        attend(&qkv, cache, frame, heads).map_err(library)
    }
}
