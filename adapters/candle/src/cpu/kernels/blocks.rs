//! Widening the ggml types that candle multiplies number by number on x86: Q4_1, Q5_0 and Q5_1. A row is widened just
//! before its products, so activations stay f32 and the results are those of weights widened beforehand.
//!
//! The functions are plain Rust without sums, which compilers turn into vector code; each instruction set's file
//! compiles them once more for itself.
//!
//! Source: `ggml-common.h` and `dequantize_row_*` of `ggml-org/ggml` for the layout.

use super::f16;

/// Numbers of a block.
const NUMBERS: usize = 32;
const HALF: usize = NUMBERS / 2;

/// A way of storing 32 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockType {
    /// Scale and offset in f16, 4 bits a number.
    Q4_1,
    /// Scale in f16, 5 bits a number; 16 stands for 0.
    Q5_0,
    /// Scale and offset in f16, 5 bits a number.
    Q5_1,
}

impl BlockType {
    /// Bytes of `numbers` numbers, a multiple of 32.
    pub(crate) fn bytes(self, numbers: usize) -> usize {
        numbers / NUMBERS
            * match self {
                Self::Q4_1 => 20,
                Self::Q5_0 => 22,
                Self::Q5_1 => 24,
            }
    }
}

/// Widens the blocks of `bytes` to `numbers`.
#[inline(always)]
pub(super) fn widen(kind: BlockType, bytes: &[u8], numbers: &mut [f32]) {
    match kind {
        BlockType::Q4_1 => each::<20>(bytes, numbers, |block, at| {
            let [d0, d1, m0, m1, low @ ..] = block;
            let (scale, offset) = (f16(u16::from_le_bytes([*d0, *d1])), f16(u16::from_le_bytes([*m0, *m1])));
            // Keeps the compiler from working on several blocks at once, which takes it twice as long as one after the
            // other (measured for AVX-512).
            let scale = std::hint::black_box(scale);
            halves(low, at, 0, |bits| f32::from(bits) * scale + offset);
        }),
        BlockType::Q5_0 => each::<22>(bytes, numbers, |block, at| {
            let [d0, d1, h0, h1, h2, h3, low @ ..] = block;
            let scale = f16(u16::from_le_bytes([*d0, *d1]));
            let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
            halves(low, at, high, |bits| (f32::from(bits) - 16.0) * scale);
        }),
        BlockType::Q5_1 => each::<24>(bytes, numbers, |block, at| {
            let [d0, d1, m0, m1, h0, h1, h2, h3, low @ ..] = block;
            let (scale, offset) = (f16(u16::from_le_bytes([*d0, *d1])), f16(u16::from_le_bytes([*m0, *m1])));
            let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
            halves(low, at, high, |bits| f32::from(bits) * scale + offset);
        }),
    }
}

#[inline(always)]
fn each<const BYTES: usize>(bytes: &[u8], numbers: &mut [f32], one: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS])) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (places, _) = numbers.as_chunks_mut::<NUMBERS>();
    blocks.iter().zip(places).for_each(|(block, place)| one(block, place));
}

/// The first 16 numbers have the lower four bits of each byte, the others the upper four. The fifth bits of all are
/// those of `high`, from the lowest on.
#[inline(always)]
fn halves(low: &[u8; HALF], place: &mut [f32; NUMBERS], high: u32, number: impl Fn(u8) -> f32) {
    for i in 0..HALF {
        place[i] = number((low[i] & 15) | ((high >> i & 1) as u8) << 4);
        place[i + HALF] = number((low[i] >> 4) | ((high >> (i + HALF) & 1) as u8) << 4);
    }
}
