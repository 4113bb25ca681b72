//! Compact copies of the LM head, with which the best tokens are found.

use std::fmt;

/// Numbers of a row that share a scale where they have 4 bits.
const GROUP: u64 = 64;

/// How the rows of a copy of the head are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Screen {
    /// 8 bits a number.
    Int8,
    /// 4 bits a number and a scale for 64.
    Int4,
}

impl Screen {
    /// All of them, the largest first.
    pub const ALL: [Self; 2] = [Self::Int8, Self::Int4];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bytes of a copy of that many rows, of which each has three numbers of four bytes besides.
    #[must_use]
    pub fn bytes(self, rows: u64, cols: u64) -> u64 {
        let row = match self {
            Self::Int8 => cols,
            Self::Int4 => cols.div_ceil(GROUP).saturating_mul(GROUP / 2 + 1),
        };
        rows.saturating_mul(row.saturating_add(12))
    }
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
