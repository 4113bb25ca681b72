//! How numbers are stored in files.

use corolla_domain::fit;
use corolla_gguf::{Layout, layout};

/// A quantised type of ggml: blocks of numbers with scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// Scale, 4 bits a number; 8 stands for 0.
    Q4_0,
    /// Scale and offset, 4 bits a number.
    Q4_1,
    /// Scale, 5 bits a number; 16 stands for 0.
    Q5_0,
    /// Scale and offset, 5 bits a number.
    Q5_1,
    /// Scale, 8 bits a number.
    Q8_0,
    /// 4 bits a number, scales and offsets for 32 of 256.
    Q4K,
    /// 5 bits a number, scales and offsets for 32 of 256.
    Q5K,
    /// 6 bits a number, scales for 16 of 256.
    Q6K,
}

impl GgmlType {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// The type of that number in a GGUF file.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    fn number(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
        }
    }

    fn layout(self) -> Layout {
        #[allow(
            clippy::expect_used,
            reason = "the reader of the container knows every type above; a test asks for all"
        )]
        layout(self.number()).expect("a known type")
    }

    /// Numbers of a block.
    #[must_use]
    pub fn block(self) -> usize {
        self.layout().block
    }

    /// Bytes of `numbers` numbers, a multiple of [`GgmlType::block`].
    #[must_use]
    pub fn bytes(self, numbers: usize) -> usize {
        let layout = self.layout();
        numbers / layout.block * layout.bytes
    }

    /// What people call it, e.g. `q4_1`.
    #[must_use]
    pub fn name(self) -> String {
        self.layout().name.to_lowercase()
    }
}

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stored {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of a ggml type.
    Quantised(GgmlType),
}

impl Stored {
    /// Numbers of a block, and its bytes.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Quantised(kind) => (kind.layout().block, kind.layout().bytes),
        }
    }

    /// Bytes of `numbers` numbers, a multiple of its block.
    #[must_use]
    pub fn bytes(self, numbers: usize) -> usize {
        let (block, bytes) = self.block();
        numbers / block * bytes
    }

    /// What people call it, e.g. `bf16` or `q4_1`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::F32 => "f32".to_owned(),
            Self::F16 => "f16".to_owned(),
            Self::Bf16 => "bf16".to_owned(),
            Self::Quantised(kind) => kind.name(),
        }
    }
}

impl From<Stored> for fit::Stored {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => Self::F32,
            Stored::F16 => Self::F16,
            Stored::Bf16 => Self::Bf16,
            Stored::Quantised(kind) => Self::Quantised(kind.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_layout_and_is_found_by_its_number() {
        for kind in GgmlType::ALL {
            assert_eq!(GgmlType::from_number(kind.number()), Some(kind));
            assert!(kind.bytes(kind.block()) < 4 * kind.block(), "{}", kind.name());
        }
        assert_eq!(GgmlType::from_number(0), None);
    }
}
