//! One page of a KV cache: keys and values of all heads at [`PAGE`] positions of a row, in one block.

use std::ops::Range;

use corolla_compute::PAGE;
use corolla_domain::{
    fit::KvType,
    ports::{FaultKind, PortError},
};
use half::slice::HalfFloatSliceExt;
use memmap2::MmapMut;

use crate::cpu::kernels::Vectors;

/// The largest 8-bit number.
const MOST: f32 = 127.0;

/// What a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Heads of keys and values.
    pub heads: usize,
    /// Numbers of a head.
    pub dim: usize,
    /// What the numbers are kept in.
    pub kv_type: KvType,
}

/// Keys or values.
#[derive(Clone, Copy)]
enum Side {
    Keys,
    Values,
}

/// A mapping of its own: memory comes from the system when positions are written (4 KiB hold 16 positions of a head of 64
/// numbers in f32), and goes back as soon as nobody has the page any more. An allocator in between would hold on to it.
pub(super) struct Page {
    /// A shelf for each head's keys, then one for each head's values: scales where there are any, then the numbers of one
    /// position after the other, as kernels want them.
    memory: MmapMut,
    layout: Layout,
}

impl Page {
    /// A page of zeros, which takes no memory yet.
    pub(super) fn new(layout: Layout) -> Result<Self, PortError> {
        let sides = [2, layout.heads, PAGE, layout.kv_type.vector_bytes(layout.dim)];
        let bytes = sides.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).unwrap_or(usize::MAX);
        let memory = MmapMut::map_anon(bytes).and_then(|memory| {
            // A huge page would take in whole what is to be taken as it is needed.
            #[cfg(target_os = "linux")]
            memory.advise(memmap2::Advice::NoHugePage).or_else(ignore_unknown)?;
            Ok(memory)
        });
        let memory = memory.map_err(|e| {
            let text = format!(
                "the system has no room for {bytes} bytes of KV cache; make cache_tokens or cache_bytes of the model smaller"
            );
            PortError::new(FaultKind::Capacity, text).with_source(e)
        })?;
        Ok(Self { memory, layout })
    }

    /// A page with the first `used` positions of this one.
    pub(super) fn copy(&self, used: usize) -> Result<Self, PortError> {
        let mut copy = Self::new(self.layout)?;
        for side in [Side::Keys, Side::Values] {
            for head in 0..self.layout.heads {
                let shelf = self.shelf(side, head);
                let (scales, numbers) = self.parts(used);
                for part in [scales, numbers] {
                    let place = shelf.start + part.start..shelf.start + part.end;
                    copy.memory[place.clone()].copy_from_slice(&self.memory[place]);
                }
            }
        }
        Ok(copy)
    }

    /// Writes keys and values of one position, heads one after the other.
    pub(super) fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let dim = self.layout.dim;
        for (side, vectors) in [(Side::Keys, keys), (Side::Values, values)] {
            for (head, vector) in vectors.chunks_exact(dim).enumerate() {
                let shelf = self.shelf(side, head);
                let shelf = &mut self.memory[shelf];
                match self.layout.kv_type {
                    KvType::F32 => {
                        bytemuck::cast_slice_mut(shelf)[position * dim..][..dim].copy_from_slice(vector);
                    }
                    KvType::Bf16 => {
                        let numbers: &mut [half::bf16] = bytemuck::cast_slice_mut(shelf);
                        numbers[position * dim..][..dim].convert_from_f32_slice(vector);
                    }
                    KvType::Q8 => {
                        let (scales, numbers) = shelf.split_at_mut(PAGE * size_of::<f32>());
                        let numbers: &mut [i8] = bytemuck::cast_slice_mut(numbers);
                        let scales: &mut [f32] = bytemuck::cast_slice_mut(scales);
                        scales[position] = round(vector, &mut numbers[position * dim..][..dim]);
                    }
                }
            }
        }
    }

    /// Keys of a head at the first `used` positions.
    pub(super) fn keys(&self, head: usize, used: usize) -> Vectors<'_> {
        self.read(Side::Keys, head, used)
    }

    /// Values of a head at the first `used` positions.
    pub(super) fn values(&self, head: usize, used: usize) -> Vectors<'_> {
        self.read(Side::Values, head, used)
    }

    fn read(&self, side: Side, head: usize, used: usize) -> Vectors<'_> {
        let shelf = &self.memory[self.shelf(side, head)];
        let (scales, numbers) = self.parts(used);
        let numbers = &shelf[numbers];
        match self.layout.kv_type {
            KvType::F32 => Vectors::F32(bytemuck::cast_slice(numbers)),
            KvType::Bf16 => Vectors::Bf16(bytemuck::cast_slice(numbers)),
            KvType::Q8 => Vectors::Q8(bytemuck::cast_slice(numbers), bytemuck::cast_slice(&shelf[scales])),
        }
    }

    /// Where a head's keys or values are.
    fn shelf(&self, side: Side, head: usize) -> Range<usize> {
        let bytes = PAGE * self.layout.kv_type.vector_bytes(self.layout.dim);
        let nth = match side {
            Side::Keys => head,
            Side::Values => self.layout.heads + head,
        };
        nth * bytes..(nth + 1) * bytes
    }

    /// Where on a shelf scales and numbers of the first `used` positions are.
    fn parts(&self, used: usize) -> (Range<usize>, Range<usize>) {
        let dim = self.layout.dim;
        match self.layout.kv_type {
            KvType::F32 | KvType::Bf16 => (0..0, 0..used * self.layout.kv_type.vector_bytes(dim)),
            KvType::Q8 => {
                let first = PAGE * size_of::<f32>();
                (0..used * size_of::<f32>(), first..first + used * dim)
            }
        }
    }
}

/// Rounds a vector to 8-bit numbers and returns their scale: NaN where a number is not finite, so that it is seen.
fn round(vector: &[f32], numbers: &mut [i8]) -> f32 {
    if !vector.iter().all(|number| number.is_finite()) {
        return f32::NAN;
    }
    let scale = vector.iter().fold(0f32, |most, number| most.max(number.abs())) / MOST;
    let by = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    // Of numbers so small that the quotient is infinite, all become 0.
    let by = if by.is_finite() { by } else { 0.0 };
    for (number, exact) in numbers.iter_mut().zip(vector) {
        *number = (exact * by).round_ties_even().clamp(-MOST, MOST) as i8;
    }
    scale
}

/// Kernels without huge pages do not know the advice, and need none.
#[cfg(target_os = "linux")]
fn ignore_unknown(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}
