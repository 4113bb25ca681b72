//! Kernels for processors with AVX2, FMA and F16C: eight numbers at a time.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    Kernels, bf16, curves, f16,
    nibbles::{self, FOURS, GROUP_LINES, SPAN, SPAN_LINES},
    packed::{Format, Line, ROWS, Tiles},
    planes::{self, Planes},
    rounded::{self, Rounded},
    several::several,
    tiles::{self, Lanes},
};

/// Numbers of one register.
const LANES: usize = 8;

/// Bytes ahead of those in use that are asked for: as in `avx512`.
const AHEAD: usize = 6 << 10;

/// The set, if this processor has what it needs.
pub(super) fn kernels() -> Option<Kernels> {
    let able = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    able.then_some(Kernels {
        name: "avx2",
        // SAFETY: the features of the functions were found on this processor just above, and this is the
        // only way to get at them. The same holds for the others.
        dot: |a, x| unsafe { dot(a, x) },
        // SAFETY: as above.
        dot_bf16: |a, x| unsafe { dot_bf16(a, x) },
        // SAFETY: as above.
        dot_f16: |a, x| unsafe { dot_f16(a, x) },
        // SAFETY: as above.
        several_f32: |weights, x, cols, products| unsafe { several_f32(weights, x, cols, products) },
        // SAFETY: as above.
        several_bf16: |weights, x, cols, products| unsafe { several_bf16(weights, x, cols, products) },
        // SAFETY: as above.
        several_f16: |weights, x, cols, products| unsafe { several_f16(weights, x, cols, products) },
        // SAFETY: as above.
        scores: |query, keys, products| unsafe { scores(query, keys, products) },
        // SAFETY: as above.
        scores_bf16: |query, keys, products| unsafe { scores_bf16(query, keys, products) },
        // SAFETY: as above.
        scores_i8: |query, keys, products| unsafe { scores_i8(query, keys, products) },
        // SAFETY: as above.
        mix: |weights, stride, values, width, mixed| unsafe { mix_f32(weights, stride, values, width, mixed) },
        // SAFETY: as above.
        mix_bf16: |weights, stride, values, width, mixed| unsafe { mix_bf16(weights, stride, values, width, mixed) },
        // SAFETY: as above.
        mix_i8: |weights, stride, values, width, mixed| unsafe { mix_i8(weights, stride, values, width, mixed) },
        // SAFETY: as above.
        round: |x, cols| unsafe { round(x, cols) },
        // SAFETY: as above.
        tiles: |format, tiles, x, sums| unsafe { product(format, tiles, x, sums) },
        // SAFETY: as above.
        exact_tiles: |format, tiles, x| unsafe { exact_product(format, tiles, x) },
        // SAFETY: as above.
        soften: |scores, scale, slope| unsafe { soften(scores, scale, slope) },
        // SAFETY: as above.
        gate: |gates, up| unsafe { gate(gates, up) },
        // SAFETY: as above.
        gelu: |x| unsafe { gelu(x) },
        // SAFETY: as above.
        planes: |lines, x| unsafe { planes_product(lines, x) },
        // SAFETY: as above.
        nibbles: |lines, x, groups| unsafe { nibbles_product(lines, x, groups) },
        narrow: None,
    })
}

several! {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn several_f32 and dot(weights: f32, x: f32) {
        lanes: LANES, rows: 1 2 3 or 4, zero: _mm256_setzero_ps(), load: load load,
        add: _mm256_fmadd_ps, widen: std::convert::identity, std::convert::identity
    }
}

several! {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn several_bf16 and dot_bf16(weights: u16, x: f32) {
        lanes: LANES, rows: 1 2 3 or 4, zero: _mm256_setzero_ps(), load: load_bf16 load,
        add: _mm256_fmadd_ps, widen: bf16, std::convert::identity
    }
}

several! {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn several_f16 and dot_f16(weights: u16, x: f32) {
        lanes: LANES, rows: 1 2 3 or 4, zero: _mm256_setzero_ps(), load: load_f16 load,
        add: _mm256_fmadd_ps, widen: f16, std::convert::identity
    }
}

several! {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn several_i8(weights: i8, x: f32) {
        lanes: LANES, rows: 1 2 3 or 4, zero: _mm256_setzero_ps(), load: load_i8 load,
        add: _mm256_fmadd_ps, widen: f32::from, std::convert::identity
    }
}

/// Keys are weight rows to a query.
#[target_feature(enable = "avx2,fma,f16c")]
fn scores(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    several_f32(&keys[..scores.len() * query.len()], query, query.len(), scores);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores_bf16(query: &[f32], keys: &[u16], scores: &mut [f32]) {
    several_bf16(&keys[..scores.len() * query.len()], query, query.len(), scores);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores_i8(query: &[f32], keys: &[i8], scores: &mut [f32]) {
    several_i8(&keys[..scores.len() * query.len()], query, query.len(), scores);
}

/// Sums of the products of sixteen rows with activations of 16 bits. A register has four columns of four rows, and the
/// products of two columns are added at once.
#[target_feature(enable = "avx2,fma,f16c")]
fn planes_product(lines: &[Line], x: &Planes) -> planes::Sums {
    let mut sums = [-x.excess; ROWS];
    for (lines, whole) in lines.chunks(planes::RUN).zip(x.whole.chunks(planes::RUN)) {
        let mut parts = [_mm256_setzero_si256(); 4];
        for (line, four) in lines.iter().zip(whole) {
            // See `several`.
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast::<i8>().wrapping_add(AHEAD));
            let [a, b, c, d] = four.map(|number| u64::from(number.cast_unsigned()));
            let four = _mm256_set1_epi64x((a | b << 16 | c << 32 | d << 48).cast_signed());
            for (part, rows) in parts.iter_mut().zip(line.0.as_chunks::<4>().0) {
                *part = _mm256_add_epi32(*part, _mm256_madd_epi16(widen_bytes(rows), four));
            }
        }
        for (sums, part) in sums.as_chunks_mut::<4>().0.iter_mut().zip(parts) {
            for (sum, [even, odd]) in sums.iter_mut().zip(store_pairs(part)) {
                *sum += i64::from(even) + i64::from(odd);
            }
        }
    }
    sums
}

/// What is known of sixteen rows of 4-bit numbers. A register has four columns of eight rows, and a plane's products of eight
/// fours of columns fit 16 bits: `8 * 2 * 15 * 128 < 2^15`.
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles_product(lines: &[Line], x: &Planes, groups: &[nibbles::Group]) -> nibbles::Sums {
    let (mut products, mut squares) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
    let planes = x.high.chunks(SPAN * FOURS).zip(x.low.chunks(SPAN * FOURS));
    for ((lines, groups), (highs, lows)) in lines.chunks(SPAN_LINES).zip(groups.chunks(SPAN)).zip(planes) {
        let Some((scales, lines)) = lines.split_first() else { break };
        let planes = highs.as_chunks::<FOURS>().0.iter().zip(lows.as_chunks::<FOURS>().0);
        let of_group = lines.as_chunks::<GROUP_LINES>().0.iter().zip(planes).zip(groups);
        for (nth, ((lines, (high, low)), group)) in of_group.enumerate() {
            for half in 0..2 {
                let [highs, lows] = [high, low].map(|plane| add_nibbles(lines, plane, half));
                let whole = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32::<8>(highs), lows));
                let bytes = _mm256_srl_epi32(load_half(scales, half), _mm_cvtsi32_si128(8 * nth as i32));
                let scale = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(255)));
                let product = _mm256_sub_ps(whole, _mm256_set1_ps(group.less));
                products[half] = _mm256_fmadd_ps(scale, product, products[half]);
                let square = _mm256_set1_ps(group.square);
                squares[half] = _mm256_fmadd_ps(_mm256_mul_ps(scale, scale), square, squares[half]);
            }
        }
    }
    nibbles::Sums { products: store(products), squares: store(squares) }
}

/// Sums of the products of a group of eight rows with a plane of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_nibbles(lines: &[Line; GROUP_LINES], plane: &[u32; FOURS], half: usize) -> __m256i {
    let (mask, ones, mut sums) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1), _mm256_setzero_si256());
    for (lines, plane) in lines.as_chunks::<4>().0.iter().zip(plane.as_chunks::<8>().0) {
        let mut part = _mm256_setzero_si256();
        for (line, [first, second]) in lines.iter().zip(plane.as_chunks::<2>().0) {
            // See `several`.
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast::<i8>().wrapping_add(AHEAD));
            let quads = load_half(line, half);
            let (lower, upper) = (_mm256_and_si256(quads, mask), _mm256_srli_epi16::<4>(quads));
            let four = |four: &u32| _mm256_set1_epi32(four.cast_signed());
            part = _mm256_add_epi16(part, _mm256_maddubs_epi16(lower, four(first)));
            part = _mm256_add_epi16(part, _mm256_maddubs_epi16(_mm256_and_si256(upper, mask), four(second)));
        }
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(part, ones));
    }
    sums
}

/// Compiles functions of the reference for this instruction set.
macro_rules! compiled {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? = $function:path;)*) => {
        $(
            #[target_feature(enable = "avx2,fma,f16c")]
            fn $name($($argument: $kind),*) $(-> $result)? {
                $function($($argument),*)
            }
        )*
    };
}

compiled! {
    fn round(x: &[f32], cols: usize) -> Rounded = rounded::round;
    fn product(format: Format, tiles: Tiles<'_>, x: &Rounded, sums: &mut [Lanes]) = tiles::product;
    fn exact_product(format: Format, tiles: Tiles<'_>, x: &[f32]) -> Lanes = tiles::exact_product;
    fn mix_f32(weights: &[f32], stride: usize, values: &[f32], width: usize, mixed: &mut [f32]) = curves::mix_f32;
    fn mix_bf16(weights: &[f32], stride: usize, values: &[u16], width: usize, mixed: &mut [f32]) = curves::mix_bf16;
    fn mix_i8(weights: &[f32], stride: usize, values: &[i8], width: usize, mixed: &mut [f32]) = curves::mix_i8;
    fn soften(scores: &mut [f32], scale: f32, slope: f32) = curves::soften;
    fn gate(gates: &mut [f32], up: &[f32]) = curves::gate;
    fn gelu(x: &mut [f32]) = curves::gelu;
}

/// The first LANES numbers of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[f32]) -> __m256 {
    let x = &x[..LANES];
    // SAFETY: the slice has LANES numbers; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// The first LANES numbers of `a`, widened: a bf16 is the upper half of an f32.
#[target_feature(enable = "avx2,fma,f16c")]
fn load_bf16(a: &[u16]) -> __m256 {
    let a = &a[..LANES];
    // SAFETY: the slice has LANES numbers of two bytes; the load needs no alignment.
    let bits = unsafe { _mm_loadu_si128(a.as_ptr().cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
}

/// The first LANES numbers of `a`, widened.
#[target_feature(enable = "avx2,fma,f16c")]
fn load_f16(a: &[u16]) -> __m256 {
    let a = &a[..LANES];
    // SAFETY: the slice has LANES numbers of two bytes; the load needs no alignment.
    let bits = unsafe { _mm_loadu_si128(a.as_ptr().cast()) };
    _mm256_cvtph_ps(bits)
}

/// The first LANES numbers of `a`, widened.
#[target_feature(enable = "avx2,fma,f16c")]
fn load_i8(a: &[i8]) -> __m256 {
    let a = &a[..LANES];
    // SAFETY: the slice has LANES numbers of a byte; the load reads eight bytes and needs no alignment.
    let bytes = unsafe { _mm_loadl_epi64(a.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// The sums of all lanes of two pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_four([[a, b], [c, d]]: [[__m256; 2]; 2]) -> [[f32; 2]; 2] {
    // Neighbouring lanes are added, until each half has a sum of its own lanes for each of the four; then the halves.
    let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let mut sums = [[0.0; 2]; 2];
    let both = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
    // SAFETY: there is room for four numbers of four bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr().cast(), both) };
    sums
}

/// Sixteen bytes as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_bytes(quads: &[u32; 4]) -> __m256i {
    // SAFETY: there are sixteen bytes; the load needs no alignment.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(quads.as_ptr().cast()) })
}

/// Eight rows of a line.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_half(line: &Line, half: usize) -> __m256i {
    let quads = &line.0.as_chunks::<8>().0[half];
    // SAFETY: there are eight numbers of four bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(quads.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(halves: [__m256; 2]) -> Lanes {
    let mut lanes = [0.0; ROWS];
    for (lanes, half) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
        // SAFETY: there is room for eight numbers of four bytes; the store needs no alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), half) };
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_pairs(sums: __m256i) -> [[i32; 2]; 4] {
    let mut pairs = [[0; 2]; 4];
    // SAFETY: there is room for eight numbers of four bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), sums) };
    pairs
}
