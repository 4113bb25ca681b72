//! Messages of the block servers (§2.4).

use bytes::Bytes;

use super::bounds::{Bounded, Kind, Rule};
use crate::wire::WireError;

/// Tensors of one message: three in a stock call (§6.6), more only where a model takes more arguments.
const TENSORS: usize = 64;
/// Axes of one tensor: four in deep prompts (§6.4).
const AXES: usize = 8;

/// Which blocks a question is about.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExpertUid {
    /// `prefix.index`, or empty.
    #[prost(string, tag = "1")]
    pub uid: String,
}

/// A server about itself.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExpertInfo {
    /// A msgpack map (§6.2).
    #[prost(bytes = "bytes", tag = "1")]
    pub serialized_info: Bytes,
}

/// Input of a computation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExpertRequest {
    /// `prefix.index`, several joined by one space.
    #[prost(string, tag = "1")]
    pub uid: String,
    /// Its arguments.
    #[prost(message, repeated, tag = "2")]
    pub tensors: Vec<Tensor>,
    /// A msgpack map (§6.1) or empty.
    #[prost(bytes = "bytes", tag = "3")]
    pub metadata: Bytes,
}

/// Output of a computation.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExpertResponse {
    /// Its results.
    #[prost(message, repeated, tag = "2")]
    pub tensors: Vec<Tensor>,
    /// Unused by Petals.
    #[prost(bytes = "bytes", tag = "3")]
    pub metadata: Bytes,
}

/// A tensor on the wire (§5).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tensor {
    /// Elements in the codec's layout.
    #[prost(bytes = "bytes", tag = "1")]
    pub buffer: Bytes,
    /// Shape, outermost first.
    #[prost(uint32, repeated, tag = "2")]
    pub size: Vec<u32>,
    /// Carried, of no use here.
    #[prost(bool, tag = "3")]
    pub requires_grad: bool,
    /// Torch's name, `float32`.
    #[prost(string, tag = "4")]
    pub dtype: String,
    /// A [`Compression`].
    #[prost(int32, tag = "5")]
    pub compression: i32,
    /// Pieces of a split tensor (§5.4), else 0.
    #[prost(int32, tag = "6")]
    pub chunks: i32,
}

/// Codecs of a [`Tensor`] (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Raw elements.
    None,
    /// Half precision, scaled row by row.
    MeanStd16,
    /// Half precision.
    Float16,
    /// A codebook of quantiles.
    Quantile8,
    /// A codebook of equal steps.
    Uniform8,
    /// A codebook and a scale for each 4096 elements.
    Blockwise8,
}

impl Compression {
    /// Its number on the wire.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::None => 0,
            Self::MeanStd16 => 1,
            Self::Float16 => 2,
            Self::Quantile8 => 3,
            Self::Uniform8 => 4,
            Self::Blockwise8 => 5,
        }
    }
}

impl TryFrom<i64> for Compression {
    type Error = WireError;

    fn try_from(code: i64) -> Result<Self, WireError> {
        Ok(match code {
            0 => Self::None,
            1 => Self::MeanStd16,
            2 => Self::Float16,
            3 => Self::Quantile8,
            4 => Self::Uniform8,
            5 => Self::Blockwise8,
            _ => return Err(WireError::malformed("tensor", format!("unknown compression {code}"))),
        })
    }
}

const TENSOR: &[Rule] = &[Rule { field: 2, most: AXES, kind: Kind::Varints }];
const MESSAGE: &[Rule] = &[Rule { field: 2, most: TENSORS, kind: Kind::Message(TENSOR) }];

impl Bounded for ExpertUid {
    const NAME: &'static str = "expert uid";
    const RULES: &'static [Rule] = &[];
}

impl Bounded for ExpertInfo {
    const NAME: &'static str = "expert info";
    const RULES: &'static [Rule] = &[];
}

impl Bounded for ExpertRequest {
    const NAME: &'static str = "expert request";
    const RULES: &'static [Rule] = MESSAGE;
}

impl Bounded for ExpertResponse {
    const NAME: &'static str = "expert response";
    const RULES: &'static [Rule] = MESSAGE;
}

impl Bounded for Tensor {
    const NAME: &'static str = "tensor";
    const RULES: &'static [Rule] = TENSOR;
}
