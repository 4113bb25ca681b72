//! Weights in memory, in whatever form they are kept, and their two uses: products and rows.

use candle_core::{Device, Tensor, quantized::QTensor};
use corolla_checkpoint::{GgmlType, Stored, View};
use corolla_domain::ports::PortError;
use half::slice::HalfFloatSliceExt;

use super::kernels::{self, BlockType, Kernels, Operand};
use crate::ggml::{blocks, library, quantised};

/// A weight matrix of shape `[rows, cols]`.
pub(crate) struct Matrix {
    cols: usize,
    data: Data,
}

enum Data {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    F16(Vec<u16>),
    /// Blocks that candle multiplies.
    Quantised(Box<QTensor>),
    /// Blocks that candle has no fast product for.
    Blocks(BlockType, Vec<u8>),
}

impl Matrix {
    /// Keeps `view` in the form `kept`.
    pub(super) fn new(view: &View<'_>, kept: Stored) -> Result<Self, PortError> {
        let data = match kept {
            Stored::F32 => Data::F32(view.to_f32()),
            Stored::Bf16 if view.stored == kept => Data::Bf16(halves(&view.bytes)),
            Stored::Bf16 => Data::Bf16(narrowed(view, half::bf16::to_bits)?),
            Stored::F16 if view.stored == kept => Data::F16(halves(&view.bytes)),
            Stored::F16 => Data::F16(narrowed(view, half::f16::to_bits)?),
            Stored::Quantised(kind) => match block_type(kind) {
                Some(block) => Data::Blocks(block, blocks(view, kind)?.into_owned()),
                None => Data::Quantised(Box::new(quantised(view, kind, &Device::Cpu)?)),
            },
        };
        Ok(Self { cols: view.shape[1], data })
    }

    /// `x` of shape `[m, cols]` times the transpose: `[m, rows]`.
    pub(super) fn product(&self, kernels: &Kernels, x: &[f32]) -> Result<Vec<f32>, PortError> {
        let operand = match &self.data {
            Data::F32(numbers) => Operand::F32(numbers),
            Data::Bf16(bits) => Operand::Bf16(bits),
            Data::F16(bits) => Operand::F16(bits),
            Data::Blocks(kind, bytes) => Operand::Blocks(*kind, bytes),
            Data::Quantised(tensor) => {
                let x = Tensor::from_slice(x, (x.len() / self.cols, self.cols), &Device::Cpu);
                return x.and_then(|x| flat(&x.apply_op1_no_bwd(tensor.as_ref())?)).map_err(library);
            }
        };
        Ok(kernels::matmul(kernels, x, operand, self.cols))
    }

    /// The rows of those numbers, one after the other. The caller has checked that they exist.
    pub(super) fn select(&self, kernels: &Kernels, ids: &[u32]) -> Result<Vec<f32>, PortError> {
        let row = |id: &u32| *id as usize * self.cols..(*id as usize + 1) * self.cols;
        match &self.data {
            Data::F32(numbers) => Ok(ids.iter().flat_map(|id| &numbers[row(id)]).copied().collect()),
            Data::Bf16(bits) => Ok(ids.iter().flat_map(|id| &bits[row(id)]).map(|b| kernels::bf16(*b)).collect()),
            Data::F16(bits) => Ok(ids.iter().flat_map(|id| &bits[row(id)]).map(|b| kernels::f16(*b)).collect()),
            Data::Blocks(kind, bytes) => {
                let row = kind.bytes(self.cols);
                let mut numbers = vec![0f32; ids.len() * self.cols];
                for (id, numbers) in ids.iter().zip(numbers.chunks_exact_mut(self.cols)) {
                    (kernels.widen)(*kind, &bytes[*id as usize * row..][..row], numbers);
                }
                Ok(numbers)
            }
            Data::Quantised(tensor) => {
                let ids = Tensor::from_slice(ids, ids.len(), &Device::Cpu);
                ids.and_then(|ids| flat(&tensor.embedding(&ids)?)).map_err(library)
            }
        }
    }
}

fn flat(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()
}

/// The numbers of `view` rounded to a half type.
fn narrowed<H: Clone + Default>(view: &View<'_>, bits: fn(H) -> u16) -> Result<Vec<u16>, PortError>
where
    [H]: HalfFloatSliceExt,
{
    let (mut narrow, mut piece) = (Vec::with_capacity(view.shape.iter().product()), Vec::new());
    view.in_pieces(|numbers| {
        piece.resize(numbers.len(), H::default());
        piece.convert_from_f32_slice(numbers);
        narrow.extend(piece.drain(..).map(bits));
        Ok(())
    })?;
    Ok(narrow)
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
}

/// The blocks that candle multiplies number by number on x86; ours are faster.
fn block_type(kind: GgmlType) -> Option<BlockType> {
    match kind {
        GgmlType::Q4_1 => Some(BlockType::Q4_1),
        GgmlType::Q5_0 => Some(BlockType::Q5_0),
        GgmlType::Q5_1 => Some(BlockType::Q5_1),
        _ => None,
    }
}
