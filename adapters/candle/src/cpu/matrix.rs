//! Weights in memory, in whatever form they are kept, and their two uses: products and rows.

mod gradient;
mod scores;

use std::ops::Deref;

use bytemuck::Pod;
use corolla_checkpoint::{Piece, Stored, View};
use corolla_domain::ports::PortError;
use half::slice::HalfFloatSliceExt;

use super::{
    kernels::{self, Kernels, Operand, Packed, RoundedRows},
    pool::Pool,
    screen::Screen,
};
use crate::{config::Activations, ggml::blocks};

/// Bytes of a file that one task brings into memory: a guess.
const POPULATED: usize = 4 << 20;

/// A weight matrix of shape `[rows, cols]`.
pub(crate) struct Matrix {
    cols: usize,
    data: Data,
    /// What finds the highest products, where it is wanted.
    screen: Option<Screen>,
}

enum Data {
    F32(Numbers<f32>),
    Bf16(Numbers<u16>),
    F16(Numbers<u16>),
    Quantised(Packed),
}

/// Numbers in memory, or as they lie in a file.
enum Numbers<T> {
    Own(Vec<T>),
    File(Piece),
}

impl<T: Pod> Numbers<T> {
    /// Those of a file; `None` where they begin in the middle of one.
    fn of(piece: Piece) -> Option<Self> {
        bytemuck::try_cast_slice::<u8, T>(&piece).is_ok().then_some(Self::File(piece))
    }

    fn piece(&self) -> Option<&Piece> {
        match self {
            Self::Own(_) => None,
            Self::File(piece) => Some(piece),
        }
    }
}

impl<T: Pod> Deref for Numbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Own(numbers) => numbers,
            Self::File(piece) => bytemuck::cast_slice(piece),
        }
    }
}

impl Matrix {
    /// Keeps `view` in the form `kept`.
    pub(super) fn new(view: &View<'_>, kept: Stored, pool: &Pool) -> Result<Self, PortError> {
        let cols = view.shape[1];
        let data = match kept {
            Stored::F32 => Data::F32(Numbers::Own(view.to_f32())),
            Stored::Bf16 if view.stored == kept => Data::Bf16(Numbers::Own(halves(&view.bytes))),
            Stored::Bf16 => Data::Bf16(Numbers::Own(narrowed(view, half::bf16::to_bits)?)),
            Stored::F16 if view.stored == kept => Data::F16(Numbers::Own(halves(&view.bytes))),
            Stored::F16 => Data::F16(Numbers::Own(narrowed(view, half::f16::to_bits)?)),
            Stored::Quantised(kind) => Data::Quantised(Packed::new(kind, &blocks(view, kind)?, cols, pool)),
        };
        Ok(Self { cols, data, screen: None })
    }

    /// Leaves the numbers where they are in the file, which must stay as it is from then on; `None` where they are
    /// quantised, or cannot be used there.
    pub(super) fn in_place(view: &View<'_>) -> Option<Self> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let piece = view.lasting()?;
        let data = match view.stored {
            Stored::F32 => Data::F32(Numbers::of(piece)?),
            Stored::Bf16 => Data::Bf16(Numbers::of(piece)?),
            Stored::F16 => Data::F16(Numbers::of(piece)?),
            Stored::Quantised(_) => return None,
        };
        Some(Self { cols: view.shape[1], data, screen: None })
    }

    /// Whether the numbers are used where they lie in a file.
    pub(super) fn is_in_file(&self) -> bool {
        self.piece().is_some()
    }

    /// Brings numbers that are used where they lie in a file into memory, so that the first prompt does not wait for them.
    pub(super) fn populate(&self, pool: &Pool) {
        let Some(piece) = self.piece() else { return };
        let places = (0..piece.len()).step_by(POPULATED);
        pool.each(places, |_, start| piece.populate(start..start + POPULATED));
    }

    fn piece(&self) -> Option<&Piece> {
        match &self.data {
            Data::F32(numbers) => numbers.piece(),
            Data::Bf16(numbers) | Data::F16(numbers) => numbers.piece(),
            Data::Quantised(_) => None,
        }
    }

    /// `x` of shape `[m, cols]` times the transpose: `[m, rows]`. `rounded` belongs to `x`.
    pub(super) fn product(
        &self,
        with: (&Kernels, &Pool),
        x: &[f32],
        rounded: &RoundedRows,
        activations: Activations,
    ) -> Vec<f32> {
        match &self.data {
            Data::F32(numbers) => kernels::matmul(with, x, Operand::F32(numbers), self.cols),
            Data::Bf16(bits) if activations == Activations::F32 => {
                kernels::matmul(with, x, Operand::Bf16(bits), self.cols)
            }
            Data::Bf16(bits) => kernels::narrow_product(with, x, rounded, bits, self.cols),
            Data::F16(bits) => kernels::matmul(with, x, Operand::F16(bits), self.cols),
            Data::Quantised(packed) if activations == Activations::F32 => {
                kernels::matmul(with, x, Operand::Packed(packed), self.cols)
            }
            Data::Quantised(packed) => kernels::rounded_product(with, x, rounded, packed),
        }
    }

    /// The rows of those numbers, one after the other. The caller has checked that they exist.
    pub(super) fn select(&self, ids: &[u32]) -> Vec<f32> {
        let mut numbers = vec![0f32; ids.len() * self.cols];
        let rows = numbers.chunks_exact_mut(self.cols);
        ids.iter().zip(rows).for_each(|(id, numbers)| self.widen(*id as usize, numbers));
        numbers
    }

    /// Row `row` in f32; `numbers` has a place for each column.
    fn widen(&self, row: usize, numbers: &mut [f32]) {
        let here = row * self.cols..(row + 1) * self.cols;
        let widened = |bits: &[u16], numbers: &mut [f32], widen: fn(u16) -> f32| {
            numbers.iter_mut().zip(bits).for_each(|(number, bits)| *number = widen(*bits));
        };
        match &self.data {
            Data::F32(all) => numbers.copy_from_slice(&all[here]),
            Data::Bf16(bits) => widened(&bits[here], numbers, kernels::bf16),
            Data::F16(bits) => widened(&bits[here], numbers, kernels::f16),
            Data::Quantised(packed) => packed.widen(row, numbers),
        }
    }
}

/// The numbers of `view` rounded to a half type.
fn narrowed<H: Clone + Default>(view: &View<'_>, bits: fn(H) -> u16) -> Result<Vec<u16>, PortError>
where
    [H]: HalfFloatSliceExt,
{
    let (mut narrow, mut piece) = (Vec::with_capacity(view.shape.iter().product()), Vec::new());
    view.in_pieces(|numbers| {
        piece.resize(numbers.len(), H::default());
        piece.convert_from_f32_slice(numbers);
        narrow.extend(piece.drain(..).map(bits));
        Ok(())
    })?;
    Ok(narrow)
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
}
