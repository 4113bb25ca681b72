//! Kernels for processors with AVX-512: sixteen numbers at a time.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    Kernels, avx512bf16, bf16, curves, f16, nibbles,
    packed::{Format, Line, Tiles},
    planes::{self, Planes},
    rounded::{self, Rounded},
    several::several,
    tiles::{self, Lanes},
};

/// Numbers of one register.
const LANES: usize = 16;

/// Bytes ahead of those in use that are asked for: a guess. With products of one row, 1 to 12 KiB made little difference
/// on a Xeon.
pub(super) const AHEAD: usize = 6 << 10;

/// The set, if this processor has what it needs.
pub(super) fn kernels() -> Option<Kernels> {
    let able = is_x86_feature_detected!("avx512f");
    able.then_some(Kernels {
        name: "avx512",
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
        narrow: avx512bf16::kernels(),
    })
}

several! {
    #[target_feature(enable = "avx512f")]
    fn several_f32 and dot(weights: f32, x: f32) {
        lanes: LANES, rows: 1 2 3 4 5 6 7 or 8, zero: _mm512_setzero_ps(), load: load load,
        add: _mm512_fmadd_ps, widen: std::convert::identity, std::convert::identity
    }
}

several! {
    #[target_feature(enable = "avx512f")]
    fn several_bf16 and dot_bf16(weights: u16, x: f32) {
        lanes: LANES, rows: 1 2 3 4 5 6 7 or 8, zero: _mm512_setzero_ps(), load: load_bf16 load,
        add: _mm512_fmadd_ps, widen: bf16, std::convert::identity
    }
}

several! {
    #[target_feature(enable = "avx512f")]
    fn several_f16 and dot_f16(weights: u16, x: f32) {
        lanes: LANES, rows: 1 2 3 4 5 6 7 or 8, zero: _mm512_setzero_ps(), load: load_f16 load,
        add: _mm512_fmadd_ps, widen: f16, std::convert::identity
    }
}

several! {
    #[target_feature(enable = "avx512f")]
    fn several_i8(weights: i8, x: f32) {
        lanes: LANES, rows: 1 2 3 4 5 6 7 or 8, zero: _mm512_setzero_ps(), load: load_i8 load,
        add: _mm512_fmadd_ps, widen: f32::from, std::convert::identity
    }
}

/// Makes a function for the products of a query with keys of a type: of how they are loaded, how one number is widened, and
/// who computes the last few.
macro_rules! scores {
    (fn $name:ident(keys: $key:ty), load: $load:ident, widen: $widen:expr, rest: $several:ident) => {
        /// Four keys at a time: their lanes are added up together.
        #[target_feature(enable = "avx512f")]
        fn $name(query: &[f32], keys: &[$key], scores: &mut [f32]) {
            let width = query.len();
            let (many, rest) = scores.as_chunks_mut::<4>();
            let (whole, end) = query.as_chunks::<LANES>();
            for (scores, keys) in many.iter_mut().zip(keys.chunks_exact(4 * width)) {
                let mut sums = [_mm512_setzero_ps(); 4];
                for (nth, query) in whole.iter().enumerate() {
                    let query = load(query);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let key = &keys[i * width + nth * LANES..];
                        // See `several`.
                        _mm_prefetch::<_MM_HINT_T0>(key.as_ptr().cast::<i8>().wrapping_add(AHEAD));
                        *sum = _mm512_fmadd_ps($load(key), query, *sum);
                    }
                }
                *scores = add_lanes_of_four(sums);
                if !end.is_empty() {
                    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(width)) {
                        let key = &key[width - end.len()..];
                        *score += key.iter().zip(end).map(|(k, q)| $widen(*k) * q).sum::<f32>();
                    }
                }
            }
            $several(&keys[many.len() * 4 * width..][..rest.len() * width], query, width, rest);
        }
    };
}

scores!(fn scores(keys: f32), load: load, widen: std::convert::identity, rest: several_f32);
scores!(fn scores_bf16(keys: u16), load: load_bf16, widen: bf16, rest: several_bf16);
scores!(fn scores_i8(keys: i8), load: load_i8, widen: f32::from, rest: several_i8);

/// The sum of all lanes of each.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_lanes_of_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // Neighbouring lanes are added, until each quarter has a sum of its own lanes for each of the four; then the quarters.
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let quarters = [_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd)].map(|both| _mm512_castpd_ps(both));
    let quarters = _mm512_add_ps(quarters[0], quarters[1]);
    let low = _mm_add_ps(_mm512_castps512_ps128(quarters), _mm512_extractf32x4_ps::<1>(quarters));
    let high = _mm_add_ps(_mm512_extractf32x4_ps::<2>(quarters), _mm512_extractf32x4_ps::<3>(quarters));
    let mut sums = [0.0; 4];
    // SAFETY: there is room for four numbers of four bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr(), _mm_add_ps(low, high)) };
    sums
}

/// The sums of all lanes of two pairs.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_four([[a, b], [c, d]]: [[__m512; 2]; 2]) -> [[f32; 2]; 2] {
    let [a, b, c, d] = add_lanes_of_four([a, b, c, d]);
    [[a, b], [c, d]]
}

/// Compiles functions of the reference for this instruction set.
macro_rules! compiled {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? = $function:path;)*) => {
        $(
            #[target_feature(enable = "avx512f")]
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
    fn planes_product(lines: &[Line], x: &Planes) -> planes::Sums = planes::product;
    fn nibbles_product(lines: &[Line], x: &Planes, groups: &[nibbles::Group]) -> nibbles::Sums = nibbles::product;
}

/// The first LANES numbers of `x`.
#[target_feature(enable = "avx512f")]
fn load(x: &[f32]) -> __m512 {
    let x = &x[..LANES];
    // SAFETY: the slice has LANES numbers; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The first LANES numbers of `a`, widened: a bf16 is the upper half of an f32.
#[target_feature(enable = "avx512f")]
fn load_bf16(a: &[u16]) -> __m512 {
    let a = &a[..LANES];
    // SAFETY: the slice has LANES numbers of two bytes; the load needs no alignment.
    let bits = unsafe { _mm256_loadu_si256(a.as_ptr().cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// The first LANES numbers of `a`, widened.
#[target_feature(enable = "avx512f")]
fn load_f16(a: &[u16]) -> __m512 {
    let a = &a[..LANES];
    // SAFETY: the slice has LANES numbers of two bytes; the load needs no alignment.
    let bits = unsafe { _mm256_loadu_si256(a.as_ptr().cast()) };
    _mm512_cvtph_ps(bits)
}

/// The first LANES numbers of `a`, widened.
#[target_feature(enable = "avx512f")]
fn load_i8(a: &[i8]) -> __m512 {
    let a = &a[..LANES];
    // SAFETY: the slice has LANES numbers of a byte; the load needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(a.as_ptr().cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}
