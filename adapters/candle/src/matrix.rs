//! Weights in memory, in whatever form they are kept, and their two uses: products and rows.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml},
};
use corolla_domain::ports::PortError;
use half::slice::HalfFloatSliceExt;

use crate::{
    config::DtypeChoice,
    cpu::{self, BlockType, Operand},
    fault::{bad_file, library},
    weights::{Stored, View, Weights},
};

/// A weight matrix of shape `[rows, cols]`.
pub(crate) struct Matrix {
    cols: usize,
    rows: usize,
    data: Data,
}

enum Data {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    F16(Vec<u16>),
    Quantised(QTensor),
    /// Blocks that candle has no fast product for.
    Blocks(BlockType, Vec<u8>),
    /// On a GPU; activations travel to it and back.
    Device(Tensor),
}

/// A matrix and what is added to its products.
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

/// Takes tensors out of a checkpoint and checks their shapes.
pub(crate) struct Loader<'a> {
    pub weights: &'a dyn Weights,
    pub dtype: DtypeChoice,
    pub device: Device,
}

impl Loader<'_> {
    /// A tensor of any shape; missing is a fault.
    fn view(&self, name: &str) -> Result<View<'_>, PortError> {
        self.weights.view(name)?.ok_or_else(|| {
            let fault = format!("has no tensor {name}; the file is incomplete or of another model");
            bad_file(self.weights.place(), fault)
        })
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<View<'_>, PortError> {
        let view = self.view(name)?;
        if view.shape != shape {
            let fault = format!("tensor {name} has shape {:?}, the configuration asks for {shape:?}", view.shape);
            return Err(bad_file(view.file, fault));
        }
        if !view.fits() {
            let fault = format!("tensor {name} of shape {shape:?} cannot be {} bytes", view.bytes.len());
            return Err(bad_file(view.file, fault));
        }
        Ok(view)
    }

    /// Whether there is such a tensor.
    pub(crate) fn has(&self, name: &str) -> Result<bool, PortError> {
        Ok(self.weights.view(name)?.is_some())
    }

    /// How many rows the matrix of that name has.
    pub(crate) fn rows(&self, name: &str, most: usize) -> Result<usize, PortError> {
        let view = self.view(name)?;
        match view.shape[..] {
            [rows, _] if (1..=most).contains(&rows) => Ok(rows),
            _ => Err(bad_file(
                view.file,
                format!("tensor {name} has shape {:?}, which is no matrix of a model", view.shape),
            )),
        }
    }

    /// `len` numbers, widened to f32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, PortError> {
        widened(&self.shaped(name, &[len])?)
    }

    /// `len` numbers where the tensor is there.
    pub(crate) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, PortError> {
        self.has(name)?.then(|| self.vector(name, len)).transpose()
    }

    /// A matrix, kept as the dtype chosen says.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, PortError> {
        let view = self.shaped(name, &[rows, cols])?;
        let data = match (self.dtype, view.stored) {
            (DtypeChoice::F32, _) | (_, Stored::F32) if self.dtype != DtypeChoice::Bf16 => Data::F32(widened(&view)?),
            (_, Stored::Bf16) => Data::Bf16(halves(view.bytes)),
            (DtypeChoice::Bf16, _) => Data::Bf16(narrowed(&view)?),
            (_, Stored::F16) => Data::F16(halves(view.bytes)),
            (_, Stored::Quantised(dtype)) => match block_type(dtype).filter(|_| self.device.is_cpu()) {
                Some(kind) => Data::Blocks(kind, view.bytes.to_vec()),
                None => Data::Quantised(quantised(&view, &self.device)?),
            },
            (_, Stored::F32) => Data::F32(widened(&view)?),
        };
        Ok(Matrix { rows, cols, data: self.placed(data, rows, cols)? })
    }

    /// A matrix `{name}.weight` and, where it is there, the vector `{name}.bias`.
    pub(crate) fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear, PortError> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        Ok(Linear { weight, bias: self.optional_vector(&format!("{name}.bias"), rows)? })
    }

    /// `data` on the device chosen.
    fn placed(&self, data: Data, rows: usize, cols: usize) -> Result<Data, PortError> {
        if self.device.is_cpu() {
            return Ok(data);
        }
        let shape = (rows, cols);
        let host = match data {
            Data::F32(numbers) => Tensor::from_vec(numbers, shape, &Device::Cpu),
            Data::Bf16(bits) => {
                Tensor::from_vec(bits.into_iter().map(half::bf16::from_bits).collect::<Vec<_>>(), shape, &Device::Cpu)
            }
            Data::F16(bits) => {
                Tensor::from_vec(bits.into_iter().map(half::f16::from_bits).collect::<Vec<_>>(), shape, &Device::Cpu)
            }
            Data::Quantised(_) | Data::Blocks(..) | Data::Device(_) => return Ok(data),
        };
        host.and_then(|tensor| tensor.to_device(&self.device)).map(Data::Device).map_err(library)
    }
}

impl Matrix {
    /// How many products it gives.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// `x` of shape `[m, cols]` times the transpose: `[m, rows]`.
    pub(crate) fn product(&self, x: &[f32]) -> Result<Vec<f32>, PortError> {
        match &self.data {
            Data::F32(numbers) => Ok(cpu::matmul(x, Operand::F32(numbers), self.cols)),
            Data::Bf16(bits) => Ok(cpu::matmul(x, Operand::Bf16(bits), self.cols)),
            Data::F16(bits) => Ok(cpu::matmul(x, Operand::F16(bits), self.cols)),
            Data::Blocks(kind, bytes) => Ok(cpu::matmul(x, Operand::Blocks(*kind, bytes), self.cols)),
            Data::Quantised(tensor) => {
                let device = tensor.device();
                self.tensor(x, &device).and_then(|x| flat(&x.apply_op1_no_bwd(tensor)?)).map_err(library)
            }
            Data::Device(weight) => {
                let product = |x: Tensor| flat(&x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?);
                self.tensor(x, weight.device()).and_then(product).map_err(library)
            }
        }
    }

    /// The rows of those numbers, one after the other. The caller has checked that they exist.
    pub(crate) fn select(&self, ids: &[u32]) -> Result<Vec<f32>, PortError> {
        let row = |id: &u32| *id as usize * self.cols..(*id as usize + 1) * self.cols;
        let ids_on = |device: &Device| Tensor::from_slice(ids, ids.len(), device);
        match &self.data {
            Data::F32(numbers) => Ok(ids.iter().flat_map(|id| &numbers[row(id)]).copied().collect()),
            Data::Bf16(bits) => Ok(ids.iter().flat_map(|id| &bits[row(id)]).map(|b| cpu::bf16(*b)).collect()),
            Data::F16(bits) => Ok(ids.iter().flat_map(|id| &bits[row(id)]).map(|b| cpu::f16(*b)).collect()),
            Data::Blocks(kind, bytes) => {
                let row = kind.bytes(self.cols);
                let mut numbers = vec![0f32; ids.len() * self.cols];
                for (id, numbers) in ids.iter().zip(numbers.chunks_exact_mut(self.cols)) {
                    (cpu::kernels().widen)(*kind, &bytes[*id as usize * row..][..row], numbers);
                }
                Ok(numbers)
            }
            Data::Quantised(tensor) => {
                ids_on(&tensor.device()).and_then(|ids| flat(&tensor.embedding(&ids)?)).map_err(library)
            }
            Data::Device(weight) => {
                ids_on(weight.device()).and_then(|ids| flat(&weight.index_select(&ids, 0)?)).map_err(library)
            }
        }
    }

    fn tensor(&self, x: &[f32], device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_slice(x, (x.len() / self.cols, self.cols), device)
    }
}

impl Linear {
    /// `x` of shape `[m, cols]` times the transpose of the weight, plus the bias: `[m, rows]`.
    pub(crate) fn forward(&self, x: &[f32]) -> Result<Vec<f32>, PortError> {
        let mut product = self.weight.product(x)?;
        if let Some(bias) = &self.bias {
            for row in product.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(product)
    }
}

fn flat(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()
}

/// All numbers of `view` in f32.
fn widened(view: &View<'_>) -> Result<Vec<f32>, PortError> {
    let pairs = || view.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match view.stored {
        Stored::F32 => Ok(view.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Stored::F16 => Ok(pairs().map(cpu::f16).collect()),
        Stored::Bf16 => Ok(pairs().map(cpu::bf16).collect()),
        Stored::Quantised(_) => {
            let tensor = quantised(view, &Device::Cpu)?;
            tensor.dequantize(&Device::Cpu).and_then(|t| flat(&t)).map_err(library)
        }
    }
}

/// All numbers of `view` rounded to bf16.
fn narrowed(view: &View<'_>) -> Result<Vec<u16>, PortError> {
    let numbers = widened(view)?;
    let mut narrow = vec![half::bf16::ZERO; numbers.len()];
    narrow.convert_from_f32_slice(&numbers);
    Ok(narrow.into_iter().map(half::bf16::to_bits).collect())
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
}

fn block_type(dtype: GgmlDType) -> Option<BlockType> {
    match dtype {
        GgmlDType::Q4_1 => Some(BlockType::Q4_1),
        GgmlDType::Q5_0 => Some(BlockType::Q5_0),
        GgmlDType::Q5_1 => Some(BlockType::Q5_1),
        _ => None,
    }
}

fn quantised(view: &View<'_>, device: &Device) -> Result<QTensor, PortError> {
    let Stored::Quantised(dtype) = view.stored else {
        return Err(PortError::internal("a tensor that is not quantised was taken for one that is"));
    };
    // candle reads the blocks in place as structures with 16-bit scales.
    if !view.bytes.as_ptr().addr().is_multiple_of(4) {
        return Err(bad_file(view.file, "places its tensors at odd offsets; write it again with an alignment of 32"));
    }
    qtensor_from_ggml(dtype, view.bytes, view.shape.clone(), device).map_err(library)
}
