//! Products of packed tiles with rounded activations, for processors with AVX-512 VNNI: 64 products of bytes in one
//! instruction, summed up in the lane of their row.
//!
//! `vpdpbusd` takes unsigned bytes (weights) and signed ones (activations, the same four for every row), so a symmetric
//! type's zero is taken away afterwards as a multiple of the activations' sum. Integer sums are exact; what may differ
//! from the reference is the order and fusing of the f32 sums over the groups.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    Kernels, avx512,
    nibbles::{self, FOURS, GROUP_LINES, SPAN, SPAN_LINES},
    packed::{COLS, Format, Line, ROWS, Scales, Tiles},
    planes::{self, Planes},
    rounded::{Group, Rounded},
    tiles::{HALVES, Lanes, OFFSET, PLAIN, SUPER, for_format},
};

/// The set, if this processor has what it needs.
pub(super) fn kernels() -> Option<Kernels> {
    let able = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
    let set = avx512::kernels()?;
    able.then_some(Kernels {
        name: "avx512-vnni",
        // SAFETY: the features of the function were found on this processor just above, and this is the only way to
        // get at it.
        tiles: |format, tiles, x, sums| unsafe { product(format, tiles, x, sums) },
        // SAFETY: as above.
        planes: |lines, x| unsafe { planes_product(lines, x) },
        // SAFETY: as above.
        nibbles: |lines, x, groups| unsafe { nibbles_product(lines, x, groups) },
        ..set
    })
}

/// Rows of activations up to which their sums stay in registers; with more, a tile is unpacked once for all of them. A guess.
const FEW: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn product(format: Format, tiles: Tiles<'_>, x: &Rounded, sums: &mut [Lanes]) {
    for_format!(format, of_format(tiles, x, sums));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn of_format<const BITS: usize, const SCALES: u8>(tiles: Tiles<'_>, x: &Rounded, sums: &mut [Lanes]) {
    debug_assert_eq!(sums.len(), x.rows, "a result for each row of activations");
    if sums.len() <= FEW {
        let mut rest = sums;
        while !rest.is_empty() {
            let at = x.rows - rest.len();
            rest = match rest.len() {
                1 => few::<BITS, SCALES, 1>(tiles, x, at, rest),
                2 | 3 => few::<BITS, SCALES, 2>(tiles, x, at, rest),
                4..8 => few::<BITS, SCALES, 4>(tiles, x, at, rest),
                _ => few::<BITS, SCALES, 8>(tiles, x, at, rest),
            };
        }
        return;
    }
    sums.fill([0.0; ROWS]);
    for nth in 0..tiles.count {
        let quads = unpack::<BITS>(&tiles.lines[nth * Format::lines(BITS)..][..Format::lines(BITS)]);
        let scales = scales::<SCALES>(tiles, nth);
        let here = nth * x.rows..(nth + 1) * x.rows;
        let groups = x.numbers[here.clone()].iter().zip(&x.groups[here]);
        for ((numbers, group), sums) in groups.zip(sums.iter_mut()) {
            store(add_group::<BITS, SCALES>(&quads, scales, numbers, group, load_ps(sums)), sums);
        }
    }
}

/// Sets the sums of `N` rows of activations from row `at` on, which stay in registers meanwhile; returns the others. The lines
/// of the first rows come from memory, and are asked for early.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn few<'a, const BITS: usize, const SCALES: u8, const N: usize>(
    tiles: Tiles<'_>,
    x: &Rounded,
    at: usize,
    sums: &'a mut [Lanes],
) -> &'a mut [Lanes] {
    let (own, others) = sums.split_at_mut(N);
    let mut totals = [_mm512_setzero_ps(); N];
    for nth in 0..tiles.count {
        let lines = &tiles.lines[nth * Format::lines(BITS)..][..Format::lines(BITS)];
        if at == 0 {
            lines.iter().for_each(|line| fetch(line));
        }
        let quads = unpack::<BITS>(lines);
        let scales = scales::<SCALES>(tiles, nth);
        let here = nth * x.rows + at..nth * x.rows + at + N;
        let groups = x.numbers[here.clone()].iter().zip(&x.groups[here]);
        for ((numbers, group), total) in groups.zip(&mut totals) {
            *total = add_group::<BITS, SCALES>(&quads, scales, numbers, group, *total);
        }
    }
    for (own, total) in own.iter_mut().zip(totals) {
        store(total, own);
    }
    others
}

/// Lines whose products with a plane fit 32 bits: `4 * 2^14 * 255 * 128 < 2^31`.
const RUN: usize = 1 << 14;

/// Sums of the products of sixteen rows with activations in two planes. The lines of a pair have sums of their own, so
/// that an instruction need not wait for the one before.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn planes_product(lines: &[Line], x: &Planes) -> planes::Sums {
    let mut sums = [-x.excess; ROWS];
    let runs = lines.chunks(RUN).zip(x.high.chunks(RUN).zip(x.low.chunks(RUN)));
    for (lines, (high, low)) in runs {
        let mut parts = [[_mm512_setzero_si512(); 2]; 2];
        let ((pairs, last), (highs, last_high), (lows, last_low)) =
            (lines.as_chunks::<2>(), high.as_chunks::<2>(), low.as_chunks::<2>());
        for (pair, planes) in pairs.iter().zip(highs.iter().zip(lows)) {
            for nth in 0..2 {
                fetch(&pair[nth]);
                parts[nth] = add_planes(load(&pair[nth]), (planes.0[nth], planes.1[nth]), parts[nth]);
            }
        }
        for (line, planes) in last.iter().zip(last_high.iter().zip(last_low)) {
            parts[0] = add_planes(load(line), (*planes.0, *planes.1), parts[0]);
        }
        let [high, low] = [0, 1].map(|plane| store_whole(_mm512_add_epi32(parts[0][plane], parts[1][plane])));
        for (sum, (high, low)) in sums.iter_mut().zip(high.into_iter().zip(low)) {
            *sum += 256 * i64::from(high) + i64::from(low);
        }
    }
    sums
}

/// Adds the products of a line with four columns of both planes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_planes(line: __m512i, (high, low): (u32, u32), [highs, lows]: [__m512i; 2]) -> [__m512i; 2] {
    let plane = |four: u32| _mm512_set1_epi32(four.cast_signed());
    [_mm512_dpbusd_epi32(highs, line, plane(high)), _mm512_dpbusd_epi32(lows, line, plane(low))]
}

/// What is known of sixteen rows of 4-bit numbers. Of a line, lower and upper bits have sums of their own, as lines of a pair have
/// above.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn nibbles_product(lines: &[Line], x: &Planes, groups: &[nibbles::Group]) -> nibbles::Sums {
    let (mask, byte) = (_mm512_set1_epi8(15), _mm512_set1_epi32(255));
    let (mut products, mut squares) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    let planes = x.high.chunks(SPAN * FOURS).zip(x.low.chunks(SPAN * FOURS));
    for ((lines, groups), (highs, lows)) in lines.chunks(SPAN_LINES).zip(groups.chunks(SPAN)).zip(planes) {
        let Some((scales, lines)) = lines.split_first() else { break };
        fetch(scales);
        let mut scales = load(scales);
        let planes = highs.as_chunks::<FOURS>().0.iter().zip(lows.as_chunks::<FOURS>().0);
        for ((lines, (high, low)), group) in lines.as_chunks::<GROUP_LINES>().0.iter().zip(planes).zip(groups) {
            let mut parts = [[_mm512_setzero_si512(); 2]; 2];
            let pairs = high.as_chunks::<2>().0.iter().zip(low.as_chunks::<2>().0);
            for (line, (high, low)) in lines.iter().zip(pairs) {
                fetch(line);
                let quads = load(line);
                let halves = [_mm512_and_si512(quads, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(quads), mask)];
                for nth in 0..2 {
                    parts[nth] = add_planes(halves[nth], (high[nth], low[nth]), parts[nth]);
                }
            }
            let [high, low] = [0, 1].map(|plane| _mm512_add_epi32(parts[0][plane], parts[1][plane]));
            let whole = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low));
            let scale = _mm512_cvtepi32_ps(_mm512_and_si512(scales, byte));
            scales = _mm512_srli_epi32::<8>(scales);
            products = _mm512_fmadd_ps(scale, _mm512_sub_ps(whole, _mm512_set1_ps(group.less)), products);
            squares = _mm512_fmadd_ps(_mm512_mul_ps(scale, scale), _mm512_set1_ps(group.square), squares);
        }
    }
    let mut sums = nibbles::Sums::ZERO;
    store(products, &mut sums.products);
    store(squares, &mut sums.squares);
    sums
}

/// Adds the products of a tile with a group of activations to `sum`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_group<const BITS: usize, const SCALES: u8>(
    quads: &[__m512i; 8],
    (first, second): (__m512, __m512),
    numbers: &[u32; COLS / 4],
    group: &Group,
    sum: __m512,
) -> __m512 {
    let [less_a, less_b] = group.negated;
    let start = |negated: i32| _mm512_set1_epi32(negated * Format::zero(BITS) as i32);
    let (mut a, mut b) = match SCALES {
        PLAIN => (start(less_a), start(less_b)),
        HALVES => (start(less_a), start(less_b)),
        _ => (_mm512_setzero_si512(), _mm512_setzero_si512()),
    };
    for j in 0..4 {
        a = _mm512_dpbusd_epi32(a, quads[j], _mm512_set1_epi32(numbers[j].cast_signed()));
        b = _mm512_dpbusd_epi32(b, quads[j + 4], _mm512_set1_epi32(numbers[j + 4].cast_signed()));
    }
    let scale = _mm512_set1_ps(group.scale);
    let together = || _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
    match SCALES {
        PLAIN => _mm512_fmadd_ps(together(), _mm512_mul_ps(first, scale), sum),
        HALVES => {
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), _mm512_mul_ps(first, scale), sum);
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(b), _mm512_mul_ps(second, scale), sum)
        }
        _ => {
            let sum = _mm512_fmadd_ps(second, _mm512_set1_ps(group.sum), sum);
            _mm512_fmadd_ps(together(), _mm512_mul_ps(first, scale), sum)
        }
    }
}

/// The eight quads of a tile, a byte a number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn unpack<const BITS: usize>(lines: &[Line]) -> [__m512i; 8] {
    let line = |at: usize| load(&lines[at]);
    if BITS == 8 {
        return [line(0), line(1), line(2), line(3), line(4), line(5), line(6), line(7)];
    }
    let nibbles = _mm512_set1_epi8(15);
    let mut quads = [_mm512_setzero_si512(); 8];
    for j in 0..4 {
        quads[j] = _mm512_and_si512(line(j), nibbles);
        quads[j + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(line(j)), nibbles);
    }
    if BITS == 5 {
        let (high, bit) = (line(4), _mm512_set1_epi8(16));
        quads[0] = select_or(_mm512_slli_epi16::<4>(high), bit, quads[0]);
        quads[1] = select_or(_mm512_slli_epi16::<3>(high), bit, quads[1]);
        quads[2] = select_or(_mm512_slli_epi16::<2>(high), bit, quads[2]);
        quads[3] = select_or(_mm512_slli_epi16::<1>(high), bit, quads[3]);
        quads[4] = select_or(high, bit, quads[4]);
        quads[5] = select_or(_mm512_srli_epi16::<1>(high), bit, quads[5]);
        quads[6] = select_or(_mm512_srli_epi16::<2>(high), bit, quads[6]);
        quads[7] = select_or(_mm512_srli_epi16::<3>(high), bit, quads[7]);
    }
    if BITS == 6 {
        let bits = _mm512_set1_epi8(48);
        for half in 0..2 {
            let high = line(4 + half);
            let quads = &mut quads[4 * half..4 * half + 4];
            quads[0] = select_or(_mm512_slli_epi16::<4>(high), bits, quads[0]);
            quads[1] = select_or(_mm512_slli_epi16::<2>(high), bits, quads[1]);
            quads[2] = select_or(high, bits, quads[2]);
            quads[3] = select_or(_mm512_srli_epi16::<2>(high), bits, quads[3]);
        }
    }
    quads
}

/// `a & b | c`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn select_or(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0b1110_1010>(a, b, c)
}

/// As in the reference.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn scales<const SCALES: u8>(tiles: Tiles<'_>, nth: usize) -> (__m512, __m512) {
    let half = |place: usize| load_f16(&tiles.halves[place]);
    match SCALES {
        PLAIN => (half(nth), _mm512_setzero_ps()),
        OFFSET => (half(2 * nth), half(2 * nth + 1)),
        SUPER => {
            let scale = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes(&tiles.bytes[2 * nth])));
            let offset = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes(&tiles.bytes[2 * nth + 1])));
            let least = _mm512_sub_ps(_mm512_setzero_ps(), half(nth / 8 * 2 + 1));
            (_mm512_mul_ps(half(nth / 8 * 2), scale), _mm512_mul_ps(least, offset))
        }
        _ => {
            let first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes(&tiles.bytes[2 * nth])));
            let second = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes(&tiles.bytes[2 * nth + 1])));
            (_mm512_mul_ps(half(nth / 8), first), _mm512_mul_ps(half(nth / 8), second))
        }
    }
}

/// Lines ahead of the one in use that are asked for: the processor's own guesses end with a page of memory. Itself
/// a guess.
const AHEAD: usize = 96;

/// Asks for the line that is [`AHEAD`] of this one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn fetch(line: &Line) {
    // A prefetch reads nothing, and an address that is not there is ignored; so it may lie beyond the slice.
    _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).wrapping_add(AHEAD).cast());
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_ps(lanes: &Lanes) -> __m512 {
    // SAFETY: there are sixteen numbers of four bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_f16(halves: &[u16; ROWS]) -> __m512 {
    // SAFETY: there are sixteen numbers of two bytes; the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_bytes(bytes: &[u8; ROWS]) -> __m128i {
    // SAFETY: there are sixteen bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn store(sums: __m512, lanes: &mut Lanes) {
    // SAFETY: there is room for sixteen numbers of four bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn store_whole(sums: __m512i) -> [i32; ROWS] {
    let mut lanes = [0; ROWS];
    // SAFETY: there is room for sixteen numbers of four bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums) };
    lanes
}
