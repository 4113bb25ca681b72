//! Products of bf16 weights with activations that are rounded to bf16, for processors with AVX-512 BF16.
//!
//! For many rows of activations thirty-two weight rows are interleaved, so that a lane of a register holds two neighbouring
//! columns of a row and sums up that row. Twelve rows of activations at a time make 24 sums that stay in registers: two
//! loads and twelve broadcasts feed 24 instructions, each of which adds 32 products to 16 sums. A few rows are multiplied
//! with weights as they lie in memory: a lane sums up every sixteenth pair of columns of one row, and lanes are added at its
//! end.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    Narrow,
    avx512::{AHEAD, add_four},
    bf16,
    narrow::{self, Group, LANES, ROWS, Sums},
    packed::Line,
    several::several,
};

/// The functions, if this processor has what they need.
pub(super) fn kernels() -> Option<Narrow> {
    let able = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    able.then_some(Narrow {
        // SAFETY: the features of the function were found on this processor just above, and this is the only way to
        // get at it.
        round: |x| unsafe { round(x) },
        // SAFETY: as above.
        several: |weights, x, cols, products| unsafe { several(weights, x, cols, products) },
        // SAFETY: as above.
        pack: |rows, cols| unsafe { pack(rows, cols) },
        // SAFETY: as above.
        product: |weight, x, sums| unsafe { product(weight, x, sums) },
    })
}

/// Sums of the products of [`ROWS`] packed rows with each row of a group.
#[target_feature(enable = "avx512f,avx512bf16")]
fn product(weight: &[[Line; 2]], x: &[Group], sums: &mut Sums) {
    let mut lanes = [[_mm512_setzero_ps(); 2]; LANES];
    for ([a, b], x) in weight.iter().zip(x) {
        let (a, b) = (pairs(load(a)), pairs(load(b)));
        for (lanes, x) in lanes.iter_mut().zip(x) {
            let x = pairs(_mm512_castps_si512(_mm512_set1_ps(*x)));
            lanes[0] = _mm512_dpbf16_ps(lanes[0], a, x);
            lanes[1] = _mm512_dpbf16_ps(lanes[1], b, x);
        }
    }
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sums, lanes) in sums.as_chunks_mut::<16>().0.iter_mut().zip(lanes) {
            // SAFETY: there is room for sixteen numbers of four bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), lanes) };
        }
    }
}

several! {
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn several(weights: u16, x: u16) {
        lanes: 32, rows: 1 2 3 4 5 6 7 or 8, zero: _mm512_setzero_ps(), load: load_whole load_whole,
        add: add_products, widen: bf16, bf16
    }
}

/// Adds products of pairs, two to a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_products(a: __m512bh, x: __m512bh, sums: __m512) -> __m512 {
    _mm512_dpbf16_ps(sums, a, x)
}

/// The reference, compiled for this instruction set.
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(x: &[f32]) -> Vec<u16> {
    narrow::round(x)
}

/// Packs up to [`ROWS`] rows of `cols` numbers, an even number of them; rows that are missing are 0.
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack(rows: &[u16], cols: usize) -> Vec<[Line; 2]> {
    let mut packed = vec![[Line([0; 16]); 2]; cols / 2];
    for (half, rows) in rows.chunks(ROWS / 2 * cols).enumerate() {
        for (nth, packed) in packed.chunks_mut(16).enumerate() {
            let mut square = [_mm512_setzero_si512(); 16];
            for (line, row) in square.iter_mut().zip(rows.chunks_exact(cols)) {
                *line = load_pairs(&row[32 * nth..cols.min(32 * nth + 32)]);
            }
            transpose(&mut square);
            for (packed, line) in packed.iter_mut().zip(square) {
                // SAFETY: a line is 64 bytes, aligned to 64.
                unsafe { _mm512_store_si512(packed[half].0.as_mut_ptr().cast(), line) };
            }
        }
    }
    packed
}

/// Lane `i` of register `j` becomes lane `j` of register `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(square: &mut [__m512i; 16]) {
    // Quarter `q` of `fours[4 * i + c]`: rows 4 * i .. 4 * i + 4 of column 4 * q + c.
    let mut fours = *square;
    for rows in fours.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *rows;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        (rows[0], rows[1]) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        (rows[2], rows[3]) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    for c in 0..4 {
        let [a, b, c_, d] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        // Quarters 0 and 2 of both, then 1 and 3 of both.
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c_, d));
        (square[c], square[8 + c]) = (_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xdd>(ab, cd));
        let (ab, cd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c_, d));
        (square[4 + c], square[12 + c]) = (_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xdd>(ab, cd));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) }
}

/// Sixteen pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_whole(numbers: &[u16; 32]) -> __m512bh {
    // SAFETY: the array is 64 bytes; the load needs no alignment.
    pairs(unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) })
}

/// Up to sixteen pairs, 0 where there are none.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_pairs(numbers: &[u16]) -> __m512i {
    let count = (numbers.len() / 2).min(16);
    // SAFETY: lanes whose bit is not set are not read, and the slice has `count` pairs of four bytes; the load needs no
    // alignment.
    unsafe { _mm512_maskz_loadu_epi32(((1u32 << count) - 1) as u16, numbers.as_ptr().cast()) }
}

/// The same bits as pairs of bf16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is a value.
    unsafe { std::mem::transmute(bits) }
}
