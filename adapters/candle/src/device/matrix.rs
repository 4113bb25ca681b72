//! Weights on a device.

mod gradient;

use candle_core::{
    DType, Device, Module, Result, Tensor,
    quantized::{QMatMul, QTensor},
};
use corolla_checkpoint::{Stored, View, widen};
use corolla_compute::Use;
use corolla_domain::ports::PortError;

use crate::ggml::{library, quantised};

/// A weight matrix of shape `[rows, cols]`.
pub(crate) struct Matrix {
    cols: usize,
    data: Data,
}

enum Data {
    /// In one of the types the device multiplies.
    Dense(Tensor),
    /// In blocks. Rows that are asked for by number are widened on the host: they are few.
    Blocks { product: Option<QMatMul>, rows: Option<HostRows> },
}

struct HostRows {
    stored: Stored,
    bytes: Vec<u8>,
}

impl Matrix {
    /// Keeps `view` on `device` in the form `kept`.
    pub(super) fn new(
        view: &View<'_>,
        of_use: Use,
        kept: Stored,
        device: &Device,
    ) -> std::result::Result<Self, PortError> {
        let cols = view.shape[1];
        let dtype = match kept {
            Stored::F32 => DType::F32,
            Stored::F16 => DType::F16,
            Stored::Bf16 => DType::BF16,
            Stored::Quantised(kind) => {
                let data = blocks(quantised(view, kind, device)?, kept, of_use).map_err(library)?;
                return Ok(Self { cols, data });
            }
        };
        let numbers = if view.stored == kept {
            Tensor::from_raw_buffer(&view.bytes, dtype, &view.shape, device)
        } else {
            // Rounded on the host, so that the device never holds the wide form.
            let numbers = Tensor::from_vec(view.to_f32(), view.shape.clone(), &Device::Cpu);
            numbers.and_then(|numbers| numbers.to_dtype(dtype)?.to_device(device))
        };
        Ok(Self { cols, data: Data::Dense(numbers.map_err(library)?) })
    }

    /// `x` of shape `[m, cols]` times the transpose: `[m, rows]`.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        match &self.data {
            Data::Dense(weight) => x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32),
            Data::Blocks { product: Some(product), .. } => product.forward(&x.contiguous()?),
            Data::Blocks { product: None, .. } => {
                candle_core::bail!("a matrix that was taken for its rows has no products")
            }
        }
    }

    /// The rows of those numbers.
    pub(super) fn select(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        match &self.data {
            Data::Dense(weight) => {
                let ids = Tensor::from_slice(ids, ids.len(), weight.device())?;
                weight.index_select(&ids, 0)?.to_dtype(DType::F32)
            }
            Data::Blocks { rows: Some(rows), .. } => {
                let row = rows.stored.bytes(self.cols);
                let mut numbers = vec![0f32; ids.len() * self.cols];
                for (id, numbers) in ids.iter().zip(numbers.chunks_exact_mut(self.cols)) {
                    widen(rows.stored, &rows.bytes[*id as usize * row..][..row], numbers);
                }
                Tensor::from_vec(numbers, (ids.len(), self.cols), device)
            }
            Data::Blocks { rows: None, .. } => candle_core::bail!("a matrix that was taken for products gives no rows"),
        }
    }
}

fn blocks(tensor: QTensor, stored: Stored, of_use: Use) -> Result<Data> {
    let rows = match of_use {
        Use::Product => None,
        Use::Rows | Use::Both => Some(HostRows { stored, bytes: tensor.data()?.into_owned() }),
    };
    let product = match of_use {
        Use::Rows => None,
        Use::Product | Use::Both => Some(QMatMul::from_qtensor(tensor)?),
    };
    Ok(Data::Blocks { product, rows })
}
