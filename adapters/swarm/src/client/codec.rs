//! In which form hidden states travel to a server: its own type, in the compression it asks for (wire protocol §5.3).

use corolla_domain::{
    model::{ElementType, Hidden},
    ports::PortError,
};

use crate::wire::{
    inference::RpcInfo,
    proto::{Compression, Tensor},
    tensor::{self, Dtype},
};

/// What one server wants to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codec {
    /// The type it computes in: anything wider would be narrowed there.
    pub(super) dtype: ElementType,
    compression: Compression,
}

impl Codec {
    /// The codec for a server that says this of itself. It gets uncompressed what would lose more than half
    /// precision does: a server reads any.
    pub(super) fn of(info: &RpcInfo) -> Self {
        let dtype = match info.dtype() {
            Some(Dtype::F16) => ElementType::F16,
            Some(Dtype::Bf16) => ElementType::Bf16,
            _ => ElementType::F32,
        };
        let halves = info.compression() == Compression::Float16 && dtype != ElementType::Bf16;
        Self { dtype, compression: if halves { Compression::Float16 } else { Compression::None } }
    }

    /// Hidden states in this form.
    pub(super) fn encode(self, hidden: &Hidden) -> Result<Tensor, PortError> {
        Ok(tensor::encode(&tensor::cast(hidden, self.dtype)?, self.compression)?)
    }

    /// Hidden states of no positions at all: a step with them computes nothing.
    pub(super) fn nothing(self, batch: u32, width: u32) -> Tensor {
        Tensor { size: vec![batch, 0, width], ..tensor::dummy(self.dtype.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::inference::Descriptor;

    fn info(dtype: Option<Dtype>, compression: Compression) -> RpcInfo {
        RpcInfo { inference_schema: vec![Descriptor { size: vec![], dtype, compression }], ..RpcInfo::default() }
    }

    #[test]
    fn a_server_gets_its_own_type_and_what_we_can_write_of_its_compression() {
        use Compression::{Blockwise8, Float16, None as Raw};
        for (dtype, asked, sent, compression) in [
            (Some(Dtype::F32), Raw, ElementType::F32, Raw),
            (Some(Dtype::F32), Float16, ElementType::F32, Float16),
            (Some(Dtype::Bf16), Float16, ElementType::Bf16, Raw),
            (Some(Dtype::F16), Blockwise8, ElementType::F16, Raw),
            (None, Raw, ElementType::F32, Raw),
        ] {
            assert_eq!(Codec::of(&info(dtype, asked)), Codec { dtype: sent, compression });
        }
        assert_eq!(Codec::of(&RpcInfo::default()).dtype, ElementType::F32);
    }

    #[test]
    fn numbers_are_rounded_to_nearest_even() {
        let hidden = Hidden::from_f32((1, 1, 2), &[1.0 + 1.0 / 256.0, -3.5]).unwrap();
        assert_eq!(tensor::cast(&hidden, ElementType::Bf16).unwrap().to_f32(), [1.0, -3.5]);
        let half = tensor::cast(&hidden, ElementType::F16).unwrap();
        assert_eq!(tensor::cast(&half, ElementType::F32).unwrap(), hidden);
    }

    #[test]
    fn a_step_of_nothing_has_a_shape_and_no_elements() {
        let tensor = Codec::of(&RpcInfo::default()).nothing(2, 64);
        assert_eq!((tensor.size, tensor.buffer.len(), tensor.dtype.as_str()), (vec![2, 0, 64], 0, "float32"));
    }
}
