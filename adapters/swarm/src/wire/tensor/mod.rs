//! Tensors on the wire (§5), in every codec.

mod codec;
mod pack;
mod split;

use bytes::Bytes;
use corolla_domain::{
    model::{ElementType, Hidden},
    ports::PortError,
};
use half::{bf16, f16};

use super::{
    WireError,
    proto::{Compression, Tensor},
};

pub use split::{CHUNK, Joiner, split};

const WHAT: &str = "tensor";

/// What a decoder takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Elements of one tensor. Decoded, one takes up to 8 bytes from as little as one on the wire.
    pub elements: usize,
}

impl Default for Limits {
    /// 32 Mi elements: what a record of 64 MiB holds in half precision.
    fn default() -> Self {
        Self { elements: super::frame::MAX_RECORD / 2 }
    }
}

/// Types of elements, by torch's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// `float32`
    F32,
    /// `float16`
    F16,
    /// `bfloat16`
    Bf16,
    /// `float64`
    F64,
    /// `int64`
    I64,
    /// `int32`
    I32,
    /// `uint8`
    U8,
    /// `bool`
    Bool,
}

impl Dtype {
    /// The type of that name.
    ///
    /// # Errors
    /// For a name this specification does not list.
    pub fn from_name(name: &str) -> Result<Self, WireError> {
        Ok(match name {
            "float32" => Self::F32,
            "float16" => Self::F16,
            "bfloat16" => Self::Bf16,
            "float64" => Self::F64,
            "int64" => Self::I64,
            "int32" => Self::I32,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => return Err(WireError::malformed(WHAT, "unknown dtype")),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F64 => "float64",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        }
    }

    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether it is a floating type; only these are ever compressed.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::F64)
    }
}

impl From<ElementType> for Dtype {
    fn from(element: ElementType) -> Self {
        match element {
            ElementType::F32 => Self::F32,
            ElementType::F16 => Self::F16,
            ElementType::Bf16 => Self::Bf16,
        }
    }
}

/// A tensor without its codec: row-major, little-endian, `data` has exactly the bytes of the shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedTensor {
    /// Sides, outermost first; none for a scalar.
    pub shape: Vec<usize>,
    /// Type of the elements.
    pub dtype: Dtype,
    /// The elements.
    pub data: Bytes,
}

impl DecodedTensor {
    /// All elements as f64, exact but for large i64.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        self.data.chunks_exact(self.dtype.size()).map(|element| widen(self.dtype, element)).collect()
    }

    /// As hidden states.
    ///
    /// # Errors
    /// Where the shape is not three sides of 1 or more, or the type is none a model computes in.
    pub fn to_hidden(&self) -> Result<Hidden, WireError> {
        let dtype = match self.dtype {
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::Bf16 => ElementType::Bf16,
            other => return Err(WireError::malformed(WHAT, format!("hidden states of {}", other.name()))),
        };
        let &[batch, seq, width] = &self.shape[..] else {
            return Err(WireError::malformed(WHAT, format!("hidden states of shape {:?}", self.shape)));
        };
        Hidden::new((batch, seq, width), dtype, self.data.clone())
            .map_err(|e| WireError::malformed(WHAT, e.context().to_owned()))
    }
}

fn widen(dtype: Dtype, e: &[u8]) -> f64 {
    match (dtype, e) {
        (Dtype::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (Dtype::I64, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f64,
        (Dtype::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
        (Dtype::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
        (Dtype::F16, &[a, b]) => f64::from(f16::from_le_bytes([a, b])),
        (Dtype::Bf16, &[a, b]) => f64::from(half::bf16::from_le_bytes([a, b])),
        (Dtype::U8, &[a]) => f64::from(a),
        (Dtype::Bool, &[a]) => f64::from(u8::from(a != 0)),
        _ => f64::NAN, // not a length that `chunks_exact` gives
    }
}

/// Takes the codec off a tensor. Raw elements keep sharing the message's memory.
///
/// # Errors
/// Where the shape is over the limit, or the buffer is not what shape, type and codec ask for.
pub fn decode(tensor: &Tensor, limits: Limits) -> Result<DecodedTensor, WireError> {
    let dtype = Dtype::from_name(&tensor.dtype)?;
    let shape: Vec<usize> = tensor.size.iter().map(|side| *side as usize).collect();
    let count = shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).unwrap_or(usize::MAX);
    WireError::cap("elements of a tensor", count, limits.elements)?;
    let compression = Compression::try_from(i64::from(tensor.compression))?;
    if compression != Compression::None && !dtype.is_float() {
        return Err(WireError::malformed(WHAT, "whole numbers are never compressed"));
    }
    let data = match compression {
        Compression::None => codec::raw(&tensor.buffer, dtype, count)?,
        Compression::Float16 => codec::float16(&tensor.buffer, dtype, count)?,
        Compression::MeanStd16 => codec::mean_std(&tensor.buffer, dtype, &shape, count)?,
        Compression::Quantile8 | Compression::Uniform8 => codec::codebook(&tensor.buffer, dtype, count)?,
        Compression::Blockwise8 => codec::blockwise(&tensor.buffer, dtype, count)?,
    };
    Ok(DecodedTensor { shape, dtype, data })
}

/// Hidden states as a tensor, in their own type. Raw ones keep sharing memory.
///
/// # Errors
/// For bfloat16 in any codec but raw elements: Python reads it in none.
pub fn encode(hidden: &Hidden, compression: Compression) -> Result<Tensor, WireError> {
    let dtype = Dtype::from(hidden.dtype());
    let buffer = match (compression, hidden.dtype()) {
        (Compression::None, _) => hidden.data().clone(),
        (Compression::Float16, ElementType::F32 | ElementType::F16) => halves(hidden),
        (_, ElementType::Bf16) => {
            return Err(WireError::malformed(WHAT, "bfloat16 does not travel compressed"));
        }
        (Compression::MeanStd16, _) => pack::mean_std(&hidden.to_f32(), hidden.width()),
        (Compression::Quantile8, _) => pack::quantile(&hidden.to_f32()),
        (Compression::Uniform8, _) => pack::uniform(&hidden.to_f32()),
        (Compression::Blockwise8, _) => pack::blockwise(&hidden.to_f32()),
    };
    let sides = [hidden.batch(), hidden.seq(), hidden.width()];
    let size: Result<Vec<u32>, _> = sides.into_iter().map(u32::try_from).collect();
    Ok(Tensor {
        buffer,
        size: size.map_err(|_| WireError::malformed(WHAT, "a side beyond 32 bits"))?,
        dtype: dtype.name().to_owned(),
        compression: compression.code(),
        ..Tensor::default()
    })
}

/// Half-precision elements, clamped to the largest finite one.
fn halves(hidden: &Hidden) -> Bytes {
    let largest = f16::MAX.to_f32();
    let clamped = hidden.to_f32().into_iter().map(|v| f16::from_f32(v.clamp(-largest, largest)));
    clamped.flat_map(f16::to_le_bytes).collect::<Vec<u8>>().into()
}

/// Hidden states in another type; to the nearest number, ties to even.
///
/// # Errors
/// Never for hidden states, which have been checked; the result type is that of [`Hidden::new`].
pub fn cast(hidden: &Hidden, dtype: ElementType) -> Result<Hidden, PortError> {
    if hidden.dtype() == dtype {
        return Ok(hidden.clone());
    }
    let numbers = hidden.to_f32();
    let data: Vec<u8> = match dtype {
        ElementType::F32 => numbers.into_iter().flat_map(f32::to_le_bytes).collect(),
        ElementType::F16 => numbers.into_iter().flat_map(|n| f16::from_f32(n).to_le_bytes()).collect(),
        ElementType::Bf16 => numbers.into_iter().flat_map(|n| bf16::from_f32(n).to_le_bytes()).collect(),
    };
    Hidden::new((hidden.batch(), hidden.seq(), hidden.width()), dtype, Bytes::from(data))
}

/// A tensor that stands for "none": no elements.
#[must_use]
pub fn dummy(dtype: Dtype) -> Tensor {
    Tensor { size: vec![0], dtype: dtype.name().to_owned(), ..Tensor::default() }
}

/// Whole numbers as a tensor of one axis.
#[must_use]
pub fn encode_i64(numbers: &[i64]) -> Tensor {
    let buffer: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    Tensor { buffer: buffer.into(), size: vec![numbers.len() as u32], ..dummy(Dtype::I64) }
}
