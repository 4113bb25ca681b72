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
    narrow::{self, Group, LANES, Pairs, ROWS, Sums},
    packed::Line,
    several::several,
};

/// Numbers of a cache line.
const LINE: usize = 32;

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
        group: |x, cols, groups| unsafe { group(x, cols, groups) },
        // SAFETY: as above.
        pack: |rows, cols, packed| unsafe { pack(rows, cols, packed) },
        // SAFETY: as above.
        product: |weight, x, rows, sums, next| unsafe { product(weight, x, rows, sums, next) },
    })
}

/// Sums of the products of [`ROWS`] packed rows with the first `rows` rows of a group.
#[target_feature(enable = "avx512f,avx512bf16")]
fn product(weight: &[Pairs], x: &[Group], rows: usize, sums: &mut Sums, next: &[u16]) {
    // The last group of many is seldom full, and four rows keep the processor as busy as twelve.
    match rows {
        0..=4 => product_of::<4>(weight, x, sums, next),
        5..=8 => product_of::<8>(weight, x, sums, next),
        _ => product_of::<LANES>(weight, x, sums, next),
    }
}

/// The same for the first `N` rows of the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn product_of<const N: usize>(weight: &[Pairs], x: &[Group], sums: &mut Sums, next: &[u16]) {
    /// Pairs of columns between which lines are asked for.
    const STEP: usize = 4;
    let mut lanes = [[_mm512_setzero_ps(); 2]; N];
    let mut next = next.chunks(LINE);
    let lines = next.len().div_ceil(weight.len().div_ceil(STEP).max(1));
    for (weight, x) in weight.chunks(STEP).zip(x.chunks(STEP)) {
        for line in next.by_ref().take(lines) {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        }
        for ([a, b], x) in weight.iter().zip(x) {
            let (a, b) = (pairs(load(a)), pairs(load(b)));
            for (lanes, x) in lanes.iter_mut().zip(x) {
                let x = pairs(_mm512_castps_si512(_mm512_set1_ps(*x)));
                lanes[0] = _mm512_dpbf16_ps(lanes[0], a, x);
                lanes[1] = _mm512_dpbf16_ps(lanes[1], b, x);
            }
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

/// Rounds up to [`LANES`] rows of `cols` activations, an even number of them, and puts pairs of columns side by side.
#[target_feature(enable = "avx512f,avx512bf16")]
fn group(x: &[f32], cols: usize, groups: &mut [Group]) {
    for (nth, groups) in groups.chunks_mut(16).enumerate() {
        let mut square = [_mm512_setzero_si512(); 16];
        for (line, row) in square.iter_mut().zip(x.chunks_exact(cols)) {
            *line = round_pairs(&row[32 * nth..cols.min(32 * nth + 32)]);
        }
        transpose(&mut square);
        for (group, line) in groups.iter_mut().zip(square) {
            // SAFETY: lanes whose bit is not set are not written, and a group has twelve numbers of four bytes; the store
            // needs no alignment.
            unsafe { _mm512_mask_storeu_epi32(group.as_mut_ptr().cast(), (1 << LANES) - 1, line) };
        }
    }
}

/// Up to sixteen pairs of activations, rounded; 0 where there are none.
#[inline]
#[target_feature(enable = "avx512f")]
fn round_pairs(x: &[f32]) -> __m512i {
    let (first, second) = x.split_at(x.len().min(16));
    let (a, b) = (load_some(first), load_some(second));
    let evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    let odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    let (first, second) = (_mm512_permutex2var_ps(a, evens, b), _mm512_permutex2var_ps(a, odds, b));
    let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    _mm512_or_si512(_mm512_srli_epi32::<16>(rounded_up(first)), _mm512_and_si512(rounded_up(second), high))
}

/// The bits of numbers, of which the upper sixteen are the nearest bf16, of two the even one.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded_up(x: __m512) -> __m512i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    // What is no number stays none, whichever of its bits are cut off.
    let none = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_or_epi32(rounded, none, bits, _mm512_set1_epi32(0x40_0000))
}

/// Up to sixteen numbers, 0 where there are none.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_some(x: &[f32]) -> __m512 {
    let count = x.len().min(16);
    // SAFETY: lanes whose bit is not set are not read, and the slice has `count` numbers of four bytes; the load needs no
    // alignment.
    unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, x.as_ptr()) }
}

/// Packs up to [`ROWS`] rows of `cols` numbers, an even number of them; rows that are missing are 0.
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack(rows: &[u16], cols: usize, packed: &mut [Pairs]) {
    let (first, second) = rows.split_at(rows.len().min(ROWS / 2 * cols));
    for (half, rows) in [first, second].into_iter().enumerate() {
        let (whole, rest) = packed.as_chunks_mut::<16>();
        // Rows and columns that there are sixteen of: loops of known length stay in registers.
        let known = if rows.len() == ROWS / 2 * cols { whole.len() } else { 0 };
        for (nth, packed) in whole[..known].iter_mut().enumerate() {
            let mut square = [_mm512_setzero_si512(); 16];
            for r in 0..16 {
                square[r] = load_line(&rows[r * cols + 32 * nth..]);
            }
            transpose(&mut square);
            for r in 0..16 {
                store(&mut packed[r][half], square[r]);
            }
        }
        let others = whole[known..].iter_mut().map(<[Pairs; 16]>::as_mut_slice).chain([rest]);
        for (packed, first) in others.zip((32 * known..cols).step_by(32)) {
            let mut square = [_mm512_setzero_si512(); 16];
            for (line, row) in square.iter_mut().zip(rows.chunks_exact(cols)) {
                *line = load_pairs(&row[first..cols.min(first + 32)]);
            }
            transpose(&mut square);
            packed.iter_mut().zip(square).for_each(|(packed, line)| store(&mut packed[half], line));
        }
    }
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
fn store(line: &mut Line, numbers: __m512i) {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(std::ptr::from_mut(line).cast(), numbers) };
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
    pairs(load_line(numbers))
}

/// The bits of the first sixteen pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_line(numbers: &[u16]) -> __m512i {
    let numbers = &numbers[..32];
    // SAFETY: the slice is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
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
