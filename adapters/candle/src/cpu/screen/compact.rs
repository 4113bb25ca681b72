//! Rows of the head in 8 bits, with what rounding took from each.

use corolla_domain::fit;

use super::bounds::{Facts, up};
use crate::cpu::kernels::{Line, ROWS, ZERO, nibble_lines};

/// Rows and columns of a head, and how its screen keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cpu) struct Shape {
    pub rows: usize,
    pub cols: usize,
    pub form: fit::Screen,
}

impl Shape {
    /// Sixteen rows each.
    pub(super) fn blocks(self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Lines that sixteen rows have.
    pub(super) fn lines(self) -> usize {
        match self.form {
            fit::Screen::Int8 => self.cols.div_ceil(4),
            fit::Screen::Int4 => nibble_lines(self.cols),
        }
    }
}

/// A line of zeros.
pub(super) const EMPTY: Line = Line([u32::from_le_bytes([ZERO; 4]); ROWS]);

/// The largest magnitude in 8 bits.
const MOST: f32 = 127.0;
/// Added to a number between -2^22 and 2^22, makes its nearest integer the lowest bits of the sum.
const SHIFT: f32 = 12_582_912.0;
/// Sums side by side, so that no addition waits for the one before.
const LANES: usize = 8;

/// Writes `row` as row `lane` of sixteen. `false` where it has something else than finite numbers.
///
/// The scale is the one with which the largest number is kept. Any would do: the error is measured, not assumed.
pub(super) fn write(row: &[f32], lane: usize, lines: &mut [Line], facts: &mut Facts) -> bool {
    let most = row.iter().fold(0f32, |most, w| most.max(w.abs()));
    let (scale, inverse) = (most / MOST, MOST / most);
    // Numbers so small that their inverse is infinite become 0.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let (mut errors, mut norms) = ([0f64; LANES], [0f64; LANES]);
    for (lines, row) in lines.chunks_mut(LANES / 4).zip(row.chunks(LANES)) {
        let mut bytes = [ZERO; LANES];
        for (at, w) in row.iter().enumerate() {
            let whole = ((w * inverse + SHIFT) - SHIFT).clamp(-MOST, MOST);
            bytes[at] = (whole as i32 + i32::from(ZERO)) as u8;
            let (w, lost) = (f64::from(*w), f64::from(*w) - f64::from(scale) * f64::from(whole));
            errors[at] += lost * lost;
            norms[at] += w * w;
        }
        for (line, four) in lines.iter_mut().zip(bytes.as_chunks::<4>().0) {
            line.0[lane] = u32::from_le_bytes(*four);
        }
    }
    let length = |squares: [f64; LANES]| squares.iter().sum::<f64>().sqrt();
    (facts.scale[lane], facts.error[lane], facts.norm[lane]) = (scale, up(length(errors)), up(length(norms)));
    // `max` passes NaN over; the sum of squares does not.
    norms.iter().all(|norm| norm.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of `row`: its numbers, `|w - v|` and `|w|`.
    fn kept(row: &[f32]) -> Option<(Vec<f64>, f32, f32)> {
        let (mut all, mut facts) = (vec![EMPTY; row.len().div_ceil(4)], Facts::default());
        let fine = write(row, 5, &mut all, &mut facts);
        let number = |at: usize| i32::from(all[at / 4].0[5].to_le_bytes()[at % 4]) - i32::from(ZERO);
        let numbers = (0..row.len()).map(|at| f64::from(number(at)) * f64::from(facts.scale[5])).collect();
        assert!(all.iter().all(|line| line.0[4] == EMPTY.0[4]), "other rows are left alone");
        fine.then_some((numbers, facts.error[5], facts.norm[5]))
    }

    #[test]
    fn errors_are_measured_whatever_the_numbers_are() {
        let wave = |factor: f32| (0..37).map(|i| (i as f32 * 0.7).sin() * factor).collect::<Vec<f32>>();
        let outlier = [wave(0.01), vec![50.0]].concat();
        for row in [wave(1.0), wave(1e-44), wave(1e38), outlier, vec![0.0; 9], vec![-1.0], Vec::new()] {
            let (numbers, error, norm) = kept(&row).unwrap();
            let square = |lost: f64| lost * lost;
            let lost: f64 = row.iter().zip(&numbers).map(|(w, v)| square(f64::from(*w) - v)).sum();
            let length: f64 = row.iter().map(|w| square(f64::from(*w))).sum();
            assert!(f64::from(error) >= lost.sqrt() && f64::from(norm) >= length.sqrt(), "{row:?}");
            let most = row.iter().fold(0f64, |most, w| most.max(f64::from(w.abs())));
            let expected = (0.51 * most / 127.0 * (row.len() as f64).sqrt()).max(length.sqrt().min(1e-42));
            assert!(f64::from(error) <= expected + 1e-44, "{error} {expected}");
        }
    }

    #[test]
    fn what_is_not_finite_is_told() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(kept(&[1.0, odd, 2.0]).is_none());
        }
    }
}
