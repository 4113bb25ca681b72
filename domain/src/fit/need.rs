//! What a model needs, in bytes.

use std::{iter::Sum, ops::Add, ops::Range};

use super::{Dtype, Screen, Stored};

/// Rows of the vocabulary's scores that are computed at a time.
const SCORED_ROWS: u64 = 16;
/// Hidden states of a position that a block has at hand beside the products of its matrices.
const HIDDEN_STATES: u64 = 4;

/// Numbers of one part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// Numbers in matrices.
    pub matrices: u64,
    /// Numbers in vectors.
    pub vectors: u64,
    /// Bytes of the matrices as the file has them.
    pub stored: u64,
    /// The greatest number that divides the length of every row; 0 without matrices.
    pub row: u64,
}

impl Part {
    /// A matrix that takes `stored` bytes in its file.
    #[must_use]
    pub fn matrix(rows: u64, cols: u64, stored: u64) -> Self {
        Self { matrices: rows.saturating_mul(cols), vectors: 0, stored, row: cols }
    }

    /// A vector.
    #[must_use]
    pub fn vector(len: u64) -> Self {
        Self { vectors: len, ..Self::default() }
    }

    /// Bytes in memory; `None` where rows cannot be cut into the dtype's blocks.
    #[must_use]
    pub fn bytes(&self, dtype: Dtype) -> Option<u64> {
        let matrices = match dtype.block() {
            None => self.stored,
            Some((numbers, _)) if !self.row.is_multiple_of(numbers) => return None,
            Some((numbers, bytes)) => (self.matrices / numbers).saturating_mul(bytes),
        };
        Some(matrices.saturating_add(self.vectors.saturating_mul(4)))
    }
}

impl Add for Part {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            matrices: self.matrices.saturating_add(other.matrices),
            vectors: self.vectors.saturating_add(other.vectors),
            stored: self.stored.saturating_add(other.stored),
            row: common_divisor(self.row, other.row),
        }
    }
}

impl Sum for Part {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// A model taken apart where a swarm takes it apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// Embeddings, and the norm after them where there is one.
    pub embeddings: Part,
    /// LM head and last norm; without matrices where the embeddings score too.
    pub head: Part,
    /// The transformer blocks.
    pub blocks: Vec<Part>,
}

/// Sizes of a model that say how much room a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Width of the hidden state.
    pub hidden: u64,
    /// Rows of the LM head.
    pub vocab: u64,
    /// Bytes of KV cache that one position takes in one block.
    pub cache: u64,
}

/// What one model, configured, asks of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Embeddings and head.
    pub(super) ends: Part,
    /// What scores the vocabulary: the head, or the embeddings where they do.
    head: Part,
    /// The blocks that are computed here.
    pub(super) blocks: Part,
    pub(super) stored: Stored,
    /// Bytes of KV cache for one position over these blocks.
    pub(super) position: u64,
    /// Positions that the KV cache is to hold.
    pub(super) positions: u64,
    working_ends: u64,
    working_blocks: u64,
}

/// What is needed, by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bytes {
    /// Weights.
    pub weights: u64,
    /// Keys and values of all positions, when the cache is full.
    pub cache: u64,
    /// What a step takes while it runs; an estimate.
    pub working: u64,
}

impl Bytes {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.working)
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            working: self.working.saturating_add(other.working),
        }
    }
}

impl Demand {
    /// The ends of a model and its blocks `hosted`, with a KV cache for `positions`, fed with `chunk` positions at a time.
    #[must_use]
    pub fn new(parts: &Parts, hosted: Range<usize>, stored: Stored, sizes: Sizes, positions: u64, chunk: u64) -> Self {
        let hosted = parts.blocks.get(hosted).unwrap_or_default();
        let floats = |numbers: u64| numbers.saturating_mul(4);
        // Each matrix gives one number a row, so all products of a block together are its numbers over the width.
        let widest = hosted.iter().map(|block| block.matrices / sizes.hidden.max(1)).max();
        let hidden = sizes.hidden.saturating_mul(HIDDEN_STATES);
        Self {
            ends: parts.embeddings + parts.head,
            head: if parts.head.matrices > 0 { parts.head } else { parts.embeddings },
            blocks: hosted.iter().copied().sum(),
            stored,
            position: sizes.cache.saturating_mul(hosted.len() as u64),
            positions,
            working_ends: floats(sizes.vocab.saturating_mul(SCORED_ROWS).saturating_add(chunk.saturating_mul(hidden))),
            working_blocks: widest.map_or(0, |widest| floats(chunk.saturating_mul(widest.saturating_add(hidden)))),
        }
    }

    /// The same for somebody who computes nothing but the blocks.
    #[must_use]
    pub fn without_ends(self) -> Self {
        Self { ends: Part::default(), head: Part::default(), working_ends: 0, ..self }
    }

    /// Embeddings and head; `None` where they cannot be kept so.
    #[must_use]
    pub fn ends(&self, dtype: Dtype) -> Option<Bytes> {
        Some(Bytes { weights: self.ends.bytes(dtype)?, cache: 0, working: self.working_ends })
    }

    /// The same with a screen over the head, if one is given. The head's own numbers stay on disk where they are kept as they
    /// are there. No screen where the head has no 16 bits a number.
    #[must_use]
    pub fn screened_ends(&self, dtype: Dtype, screen: Option<Screen>) -> Option<Bytes> {
        let ends = self.ends(dtype)?;
        let Some(screen) = screen else { return Some(ends) };
        let Part { matrices, row, stored, .. } = self.head;
        if self.head.bytes(dtype)? < matrices.saturating_mul(2) {
            return Some(ends);
        }
        let screen = screen.bytes(matrices.checked_div(row).unwrap_or(0), row);
        // The form is that of the blocks, which the head may differ from: then its size does, too.
        let stays = dtype.keeps(&self.stored) && self.head.bytes(dtype) == self.head.bytes(Dtype::Stored);
        let on_disk = if stays { stored } else { 0 };
        Some(Bytes { weights: ends.weights.saturating_sub(on_disk).saturating_add(screen), ..ends })
    }

    /// The blocks that are computed here; `None` where they cannot be kept so.
    #[must_use]
    pub fn blocks(&self, dtype: Dtype) -> Option<Bytes> {
        let cache = self.position.saturating_mul(self.positions);
        Some(Bytes { weights: self.blocks.bytes(dtype)?, cache, working: self.working_blocks })
    }

    /// Everything that is computed here; `None` where it cannot be kept so.
    #[must_use]
    pub fn all(&self, dtype: Dtype) -> Option<Bytes> {
        Some(self.ends(dtype)? + self.blocks(dtype)?)
    }

    /// How the file has it.
    #[must_use]
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Whether embeddings and head are computed here.
    #[must_use]
    pub fn has_ends(&self) -> bool {
        self.ends != Part::default()
    }

    /// Whether any block is computed here.
    #[must_use]
    pub fn has_blocks(&self) -> bool {
        self.blocks != Part::default()
    }
}
