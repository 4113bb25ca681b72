//! Where tensors come from: one view over all file formats.

mod gguf;
mod pickle;
mod safetensors;
mod shards;
mod torch;
mod zip;

use std::{borrow::Cow, ops::Range, path::Path};

use corolla_domain::ports::PortError;

use crate::{
    mmap::{Mapped, Piece},
    stored::Stored,
    widen::widen,
};

pub(crate) use self::{gguf::GgufWeights, shards::open_folder};

/// Numbers widened at a time: 4 MB of f32.
const PIECE: usize = 1 << 20;

/// A tensor in its stored form. The number of bytes fits shape and type: [`crate::Tensors`] checks that.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// Sides, outermost first.
    pub shape: Vec<usize>,
    /// How numbers are stored.
    pub stored: Stored,
    /// The numbers, row-major and little-endian.
    pub bytes: Cow<'a, [u8]>,
    /// The file they lie in.
    pub file: &'a Path,
    /// The same, where the numbers are used as they lie in it.
    map: &'a Mapped,
}

impl<'a> View<'a> {
    /// The numbers at `place` in a file that has them there.
    fn new(map: &'a Mapped, shape: Vec<usize>, stored: Stored, place: Range<usize>) -> Option<Self> {
        let bytes = Cow::Borrowed(map.bytes().get(place)?);
        Some(Self { shape, stored, bytes, file: map.path(), map })
    }

    /// The bytes as they lie in the file, to be kept; `None` where they are in another order there.
    #[must_use]
    pub fn lasting(&self) -> Option<Piece> {
        let Cow::Borrowed(bytes) = &self.bytes else { return None };
        let start = bytes.as_ptr().addr().checked_sub(self.map.bytes().as_ptr().addr())?;
        self.map.piece(start..start.checked_add(bytes.len())?)
    }

    /// All numbers in f32.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let mut numbers = vec![0f32; self.shape.iter().product()];
        widen(self.stored, &self.bytes, &mut numbers);
        numbers
    }

    /// Gives `each` the numbers in f32, some rows at a time, so that a large tensor is never there twice.
    ///
    /// # Errors
    /// The first one of `each`.
    pub fn in_pieces<E>(&self, mut each: impl FnMut(&[f32]) -> Result<(), E>) -> Result<(), E> {
        let row = self.shape.last().copied().unwrap_or(1).max(1);
        let piece = (PIECE / row).max(1) * row;
        let mut numbers = vec![0f32; piece.min(self.shape.iter().product())];
        for bytes in self.bytes.chunks(self.stored.bytes(piece).max(1)) {
            let (block, size) = self.stored.block();
            let numbers = &mut numbers[..bytes.len() / size * block];
            widen(self.stored, bytes, numbers);
            each(numbers)?;
        }
        Ok(())
    }

    /// Whether the bytes are what the shape needs.
    pub(crate) fn fits(&self) -> bool {
        let (block, bytes) = self.stored.block();
        let row = self.shape.last().copied().unwrap_or(1);
        let count = self.shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side));
        row.is_multiple_of(block)
            && count.and_then(|n| (n / block).checked_mul(bytes)).is_some_and(|n| n == self.bytes.len())
    }
}

/// The tensors of one checkpoint.
pub(crate) trait Weights: Send + Sync {
    /// The tensor of that name, or `None` where there is none.
    fn view(&self, name: &str) -> Result<Option<View<'_>>, PortError>;

    /// The names of all tensors.
    fn names(&self) -> Vec<String>;

    /// What to blame where a tensor is missing.
    fn place(&self) -> &Path;

    /// Bytes of all files.
    fn bytes(&self) -> u64;
}
