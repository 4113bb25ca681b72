//! Products of rows of 8-bit numbers with activations of 16 bits, as whole numbers: nothing is rounded on the way.
//!
//! Sixteen rows stand interleaved, as in [`packed`](super::packed): lane `r` byte `t` of line `j` is column `4 * j + t` of
//! row `r`, plus [`ZERO`]. Activations are there twice: as they are, and in two planes of 8 bits (`256 * high + low`) for
//! processors that multiply bytes. A plane for itself has a precision of 8 bits, and that is too little: a bound on a row's
//! score is at least as wide as what rounding took from the activations.
//!
//! Plain Rust whose inner loop runs over the sixteen rows; AVX2 and AVX-512 VNNI have code of their own.

use super::packed::{Line, ROWS};

/// The byte that stands for 0.
pub(crate) const ZERO: u8 = 128;
/// The largest of the 16-bit numbers: its upper plane is 127.
pub(crate) const MOST: i16 = 127 * 256;
/// Lines whose products fit 32 bits: `4 * 64 * 255 * MOST < 2^31`.
pub(super) const RUN: usize = 64;

/// Sums of sixteen rows.
pub(crate) type Sums = [i64; ROWS];

/// Activations as whole numbers, not above [`MOST`] in magnitude.
pub(crate) struct Planes {
    /// Four columns each.
    pub(super) whole: Vec<[i16; 4]>,
    /// The upper planes of four columns, the first in the lowest byte.
    pub(super) high: Vec<u32>,
    /// The lower planes, so too.
    pub(super) low: Vec<u32>,
    /// [`ZERO`] times the sum of all numbers: what is taken away from products with bytes.
    pub(super) excess: i64,
}

impl Planes {
    /// `whole` in planes; columns that are missing in the last line are 0.
    pub(crate) fn new(whole: &[i16]) -> Self {
        let four = |some: &[i16]| std::array::from_fn(|t| some.get(t).copied().unwrap_or(0));
        let whole: Vec<[i16; 4]> = whole.chunks(4).map(four).collect();
        let upper = |number: i16| (i32::from(number) + 128) >> 8;
        let plane = |of: &dyn Fn(i16) -> i32| {
            let quad = |four: &[i16; 4]| u32::from_le_bytes(four.map(|number| of(number) as u8));
            whole.iter().map(quad).collect()
        };
        let (high, low) = (plane(&upper), plane(&|number| i32::from(number) - 256 * upper(number)));
        let excess = i64::from(ZERO) * whole.as_flattened().iter().map(|number| i64::from(*number)).sum::<i64>();
        Self { whole, high, low, excess }
    }
}

/// Sums of the products of sixteen rows, `lines` being as many as `x` has fours of columns.
#[inline(always)]
pub(super) fn product(lines: &[Line], x: &Planes) -> Sums {
    let mut sums = [-x.excess; ROWS];
    for (lines, whole) in lines.chunks(RUN).zip(x.whole.chunks(RUN)) {
        let mut part = [0i32; ROWS];
        for (line, four) in lines.iter().zip(whole) {
            for (t, number) in four.iter().enumerate() {
                for (part, quad) in part.iter_mut().zip(&line.0) {
                    *part += (quad >> (8 * t) & 255) as i32 * i32::from(*number);
                }
            }
        }
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += i64::from(part));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_make_up_the_number() {
        let all: Vec<i16> = (-MOST..=MOST).collect();
        let planes = Planes::new(&all);
        let of = |quad: u32, t: usize| i32::from(quad.to_le_bytes()[t] as i8);
        for (at, number) in all.iter().enumerate() {
            let (high, low) = (of(planes.high[at / 4], at % 4), of(planes.low[at / 4], at % 4));
            assert_eq!(256 * high + low, i32::from(*number));
        }
    }
}
