//! What keys and values are kept in.

use std::fmt;

/// How the KV cache keeps its numbers. They are widened to f32 where attention reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to bf16, to the nearest and of two to the even one.
    Bf16,
    /// Rounded to 8 bits, with an f32 scale for the key, and for the value, of each head at each position.
    Q8,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Q8];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
        }
    }

    /// Bytes of the key, or of the value, of one head at one position: a vector of `dim` numbers.
    #[must_use]
    pub fn vector_bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 => dim.saturating_mul(4),
            Self::Bf16 => dim.saturating_mul(2),
            Self::Q8 => dim.saturating_add(4),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
