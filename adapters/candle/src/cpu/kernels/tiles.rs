//! Products with packed tiles: the reference that the instruction sets' own code must agree with.
//!
//! Plain Rust whose inner loops run over the sixteen rows of a tile, which compilers turn into vector code; each
//! instruction set's file compiles it once more for itself.

use super::{
    f16,
    packed::{COLS, Format, Line, ROWS, Scales, Tiles},
    rounded::{Rounded, number},
};

/// Sums of sixteen rows.
pub(crate) type Lanes = [f32; ROWS];

/// Calls a function with the bits and scales of a format as its generic arguments: they are settled once, outside loops.
macro_rules! for_format {
    ($format:expr, $function:ident($($argument:expr),*)) => {
        match ($format.scales, $format.bits) {
            (Scales::Plain, 4) => $function::<4, { PLAIN }>($($argument),*),
            (Scales::Plain, 5) => $function::<5, { PLAIN }>($($argument),*),
            (Scales::Plain, _) => $function::<8, { PLAIN }>($($argument),*),
            (Scales::Offset, 4) => $function::<4, { OFFSET }>($($argument),*),
            (Scales::Offset, _) => $function::<5, { OFFSET }>($($argument),*),
            (Scales::Super, 4) => $function::<4, { SUPER }>($($argument),*),
            (Scales::Super, _) => $function::<5, { SUPER }>($($argument),*),
            (Scales::Halves, _) => $function::<6, { HALVES }>($($argument),*),
        }
    };
}
pub(super) use for_format;

/// [`Scales::Plain`] as a generic argument; so the others.
pub(super) const PLAIN: u8 = 0;
pub(super) const OFFSET: u8 = 1;
pub(super) const SUPER: u8 = 2;
pub(super) const HALVES: u8 = 3;

/// Sums of the products of sixteen rows with each row of `x`: `sums[i]` is set to those of row `i`.
#[inline(always)]
pub(super) fn product(format: Format, tiles: Tiles<'_>, x: &Rounded, sums: &mut [Lanes]) {
    for_format!(format, rounded(tiles, x, sums));
}

/// Sums of the products of sixteen rows with one row of activations that are not rounded.
#[inline(always)]
pub(super) fn exact_product(format: Format, tiles: Tiles<'_>, x: &[f32]) -> Lanes {
    for_format!(format, exact(tiles, x))
}

/// Row `lane` of the sixteen, widened.
pub(super) fn widen(format: Format, tiles: Tiles<'_>, lane: usize, numbers: &mut [f32]) {
    for_format!(format, widen_row(tiles, lane, numbers));
}

#[inline(always)]
fn rounded<const BITS: usize, const SCALES: u8>(tiles: Tiles<'_>, x: &Rounded, sums: &mut [Lanes]) {
    sums.fill([0.0; ROWS]);
    for nth in 0..tiles.count {
        let quads = unpack::<BITS>(tiles, nth);
        let (first, second) = scales::<SCALES>(tiles, nth);
        let numbers = x.numbers[nth * x.rows..].iter().zip(&x.groups[nth * x.rows..]);
        for ((numbers, group), sums) in numbers.zip(sums.iter_mut()) {
            let mut dots = [[0i32; ROWS]; 2];
            for (j, quad) in quads.iter().enumerate() {
                for t in 0..4 {
                    let number = i32::from(number(numbers, 4 * j + t));
                    for (dot, bytes) in dots[j / 4].iter_mut().zip(quad) {
                        *dot += (bytes >> (8 * t) & 255) as i32 * number;
                    }
                }
            }
            let zero = Format::zero(BITS) as i32;
            for r in 0..ROWS {
                let (a, b) = (dots[0][r], dots[1][r]);
                let (less_a, less_b) = (group.negated[0] * zero, group.negated[1] * zero);
                sums[r] += match SCALES {
                    PLAIN => (a + b + less_a + less_b) as f32 * (first[r] * group.scale),
                    HALVES => {
                        (a + less_a) as f32 * (first[r] * group.scale) + (b + less_b) as f32 * (second[r] * group.scale)
                    }
                    _ => (a + b) as f32 * (first[r] * group.scale) + second[r] * group.sum,
                };
            }
        }
    }
}

#[inline(always)]
fn exact<const BITS: usize, const SCALES: u8>(tiles: Tiles<'_>, x: &[f32]) -> Lanes {
    let mut sums = [0f32; ROWS];
    for (nth, x) in x.as_chunks::<COLS>().0.iter().take(tiles.count).enumerate() {
        let quads = unpack::<BITS>(tiles, nth);
        let (first, second) = scales::<SCALES>(tiles, nth);
        let mut dots = [[0f32; ROWS]; 2];
        let zero = if SCALES == PLAIN || SCALES == HALVES { Format::zero(BITS) as i32 } else { 0 };
        for (j, quad) in quads.iter().enumerate() {
            for t in 0..4 {
                for (dot, bytes) in dots[j / 4].iter_mut().zip(quad) {
                    *dot += ((bytes >> (8 * t) & 255) as i32 - zero) as f32 * x[4 * j + t];
                }
            }
        }
        let sum: f32 = x.iter().sum();
        for r in 0..ROWS {
            sums[r] += match SCALES {
                PLAIN => (dots[0][r] + dots[1][r]) * first[r],
                HALVES => dots[0][r] * first[r] + dots[1][r] * second[r],
                _ => (dots[0][r] + dots[1][r]) * first[r] + second[r] * sum,
            };
        }
    }
    sums
}

fn widen_row<const BITS: usize, const SCALES: u8>(tiles: Tiles<'_>, lane: usize, numbers: &mut [f32]) {
    for (nth, numbers) in numbers.as_chunks_mut::<COLS>().0.iter_mut().take(tiles.count).enumerate() {
        let quads = unpack::<BITS>(tiles, nth);
        let (first, second) = scales::<SCALES>(tiles, nth);
        let zero = Format::zero(BITS) as f32;
        for (k, number) in numbers.iter_mut().enumerate() {
            let stored = (quads[k / 4][lane] >> (k % 4 * 8) & 255) as f32;
            *number = match SCALES {
                PLAIN => (stored - zero) * first[lane],
                HALVES => (stored - zero) * (if k < COLS / 2 { first } else { second })[lane],
                _ => stored * first[lane] + second[lane],
            };
        }
    }
}

/// The eight quads of a tile, a byte a number.
#[inline(always)]
fn unpack<const BITS: usize>(tiles: Tiles<'_>, nth: usize) -> [[u32; ROWS]; 8] {
    let lines: &[Line] = &tiles.lines[nth * Format::lines(BITS)..][..Format::lines(BITS)];
    let mut quads = [[0; ROWS]; 8];
    for (j, quad) in quads.iter_mut().enumerate() {
        for (r, quad) in quad.iter_mut().enumerate() {
            *quad = if BITS == 8 { lines[j].0[r] } else { lines[j % 4].0[r] >> (j / 4 * 4) & 0x0f0f_0f0f };
            if BITS == 5 {
                *quad |= (lines[4].0[r] >> j & 0x0101_0101) << 4;
            }
            if BITS == 6 {
                *quad |= (lines[4 + j / 4].0[r] >> (j % 4 * 2) & 0x0303_0303) << 4;
            }
        }
    }
    quads
}

/// What the numbers of a tile are multiplied with, and what is then added to each; or the factors of both halves.
#[inline(always)]
fn scales<const SCALES: u8>(tiles: Tiles<'_>, nth: usize) -> (Lanes, Lanes) {
    let mut scales = ([0.0; ROWS], [0.0; ROWS]);
    for r in 0..ROWS {
        let half = |place: usize| f16(tiles.halves[place][r]);
        let byte = |place: usize| tiles.bytes[place][r];
        (scales.0[r], scales.1[r]) = match SCALES {
            PLAIN => (half(nth), 0.0),
            OFFSET => (half(2 * nth), half(2 * nth + 1)),
            SUPER => {
                let (unit, least) = (half(nth / 8 * 2), half(nth / 8 * 2 + 1));
                (unit * f32::from(byte(2 * nth)), -least * f32::from(byte(2 * nth + 1)))
            }
            _ => {
                let signed = |place: usize| f32::from(byte(place).cast_signed());
                (half(nth / 8) * signed(2 * nth), half(nth / 8) * signed(2 * nth + 1))
            }
        };
    }
    scales
}
