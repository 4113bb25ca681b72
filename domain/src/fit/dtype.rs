//! How the numbers of weights are kept.

use std::fmt;

/// How matrices are kept in memory. Vectors (norms, biases) are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// As the file has them.
    Stored,
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 8 bits a number and a scale for 32.
    Q8_0,
    /// 5 bits a number, a scale and an offset for 32.
    Q5_1,
    /// 4 bits a number, a scale and an offset for 32.
    Q4_1,
    /// 4 bits a number and a scale for 32.
    Q4_0,
}

impl Dtype {
    /// All of them, the widest first after that of the file.
    pub const ALL: [Self; 8] =
        [Self::Stored, Self::F32, Self::Bf16, Self::F16, Self::Q8_0, Self::Q5_1, Self::Q4_1, Self::Q4_0];
    /// Those that lose what a file in 16 bits has, the widest first.
    pub const QUANTISED: [Self; 4] = [Self::Q8_0, Self::Q5_1, Self::Q4_1, Self::Q4_0];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
        }
    }

    /// What comes of it for numbers that a file has as `stored`. A backend that `widens` computes in f32 with 16 bits as they
    /// are: it widens them on their way from memory.
    #[must_use]
    pub fn kept(self, stored: &Stored, widens: bool) -> Self {
        match (self, stored) {
            (Self::F32, Stored::F16 | Stored::Bf16) if widens => Self::Stored,
            _ => self,
        }
    }

    /// Whether numbers that a file has as `stored` are kept as they are there.
    pub(super) fn keeps(self, stored: &Stored) -> bool {
        self == Self::Stored || self.name() == stored.name()
    }

    /// Numbers of a block and its bytes; `None` where only the file knows.
    pub(super) fn block(self) -> Option<(u64, u64)> {
        match self {
            Self::Stored => None,
            Self::F32 => Some((1, 4)),
            Self::F16 | Self::Bf16 => Some((1, 2)),
            Self::Q8_0 => Some((32, 34)),
            Self::Q5_1 => Some((32, 24)),
            Self::Q4_1 => Some((32, 20)),
            Self::Q4_0 => Some((32, 18)),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a file has the matrices of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Quantised already, under that name.
    Quantised(String),
}

impl Stored {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Quantised(name) => name,
        }
    }
}
