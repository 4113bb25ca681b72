//! Between which numbers the exact score of a row lies, by what rounding took from the row and from the activations.
//!
//! Let `w` be a row of the head and `x` the activations, both as the exact head multiplies them; `v = scale * q` the row in
//! 8 bits and `y = step * p` the activations in 16, `p` and `q` being whole numbers. By Cauchy and Schwarz
//!
//! ```text
//! |w.x - v.y| = |(w - v).y + w.(x - y)| <= |w - v| |y| + |w| |x - y|
//! ```
//!
//! The exact head adds `n` products in f32. Whatever the order, and fused or not, no term is rounded more than `n` times,
//! and a product that is too small for a normal f32 loses at most half of 2^-149. So its score `s` keeps
//!
//! ```text
//! |s - w.x| <= g |w| |x| + n 2^-149,    g = n u / (1 - n u),    u = 2^-24
//! ```
//!
//! (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1, and again Cauchy and Schwarz), as long as no
//! sum overflows, which none can while `|w| |x|` is far below the largest f32. `q.p` is known exactly. What is computed here
//! in f64 is off by a few units of 2^-53 for each operation, and lengths by at most `n` of them: all of it is made up for
//! with factors that are larger by orders of magnitude, and still make no difference.

use std::f64::consts::LN_2;

use corolla_domain::fit;

use super::{
    compact::Shape,
    dithered::{Dither, STEPS},
};
use crate::cpu::kernels::{self, GROUP, NibbleGroup, NibbleSums, Planes, ROWS};

/// The widest rows for which the factors below are large enough, and `g` is still small.
pub(super) const MOST_COLS: usize = 1 << 20;
/// More than the relative error of lengths over [`MOST_COLS`] numbers, and of a bound.
const SLACK: f64 = 1.0 + 1.0 / (1u64 << 30) as f64;
/// More than the relative error of a few operations.
const CRUMB: f64 = 1.0 / (1u64 << 50) as f64;
/// More than the relative error of an f32.
const NARROW: f64 = 1.0 / (1u64 << 23) as f64;
/// The smallest f32 above 0.
const LEAST: f64 = 1.0 / (1u128 << 100) as f64 / (1u64 << 49) as f64;
/// Lengths `|w| |x|` up to which no f32 sum overflows.
const LARGEST: f64 = f32::MAX as f64 / 4.0;

/// Chances that a bound of some row does not hold for one row of activations: 1 in 2 to the power of this.
const CERTAINTY: f64 = 64.0;

/// What is kept of sixteen rows beside their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Facts {
    /// What 1 stands for.
    pub scale: [f32; ROWS],
    /// At least `|w - v|`.
    pub error: [f32; ROWS],
    /// At least `|w|`.
    pub norm: [f32; ROWS],
}

/// Scores of sixteen rows lie between these.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub lower: [f32; ROWS],
    pub upper: [f32; ROWS],
}

impl Bounds {
    /// Those of rows of which nothing is known.
    pub(super) const OPEN: Self = Self { lower: [f32::NEG_INFINITY; ROWS], upper: [f32::INFINITY; ROWS] };
}

/// One row of activations, and what it adds to all bounds.
pub(super) struct Activations {
    pub planes: Planes,
    /// What 1 stands for.
    step: f64,
    /// At least `|x|`.
    norm: f64,
    /// At least `|y|`.
    per_error: f64,
    /// At least `|x - y| + g |x|`.
    per_norm: f64,
    /// `n 2^-149`.
    least: f64,
    /// What they add to rows of 4 bits; none to others.
    pub groups: Vec<NibbleGroup>,
    /// How far from 0 chance may bring the product with what 4 bits have lost, and f32 sums, as multiples of the root of
    /// [`NibbleSums::squares`].
    chance: f64,
    crumbs: f64,
}

impl Activations {
    /// `x` in 16 bits; `None` where it has something else than finite numbers. At most [`MOST_COLS`] of them. `dither` is that of
    /// a screen of that shape.
    pub(super) fn new(x: &[f32], shape: Shape, dither: &Dither) -> Option<Self> {
        if !x.iter().all(|x| x.is_finite()) {
            return None;
        }
        let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let step = f64::from(most) / f64::from(kernels::MOST);
        let whole = |x: &f32| if step > 0.0 { (f64::from(*x) / step).round() as i16 } else { 0 };
        let mut whole: Vec<i16> = x.iter().map(|x| whole(x).clamp(-kernels::MOST, kernels::MOST)).collect();
        let norm = at_least(x.iter().map(|x| f64::from(*x)));
        let lost = x.iter().zip(&whole).map(|(x, whole)| f64::from(*x) - step * f64::from(*whole));
        let lost = at_least(lost) + norm * CRUMB;
        let products = x.len() as f64;
        let roundings = products / (1u64 << 24) as f64;
        let sums = roundings / (1.0 - roundings);
        let groups = match shape.form {
            fit::Screen::Int8 => Vec::new(),
            fit::Screen::Int4 => dither.groups(&whole),
        };
        // Rows of 4 bits have whole groups of columns.
        whole.resize(x.len().next_multiple_of(if groups.is_empty() { 1 } else { GROUP }), 0);
        let many = groups.len();
        Some(Self {
            planes: Planes::new(&whole),
            step,
            norm,
            per_error: norm + lost,
            per_norm: lost + sums * norm,
            least: products * LEAST,
            groups,
            chance: chance(shape.rows, many),
            crumbs: kernels::crumbs(many),
        })
    }

    /// Bounds of sixteen rows, for the products of their whole numbers with those of the activations.
    pub(super) fn bounds(&self, products: &[i64; ROWS], facts: &Facts) -> Bounds {
        self.around(facts, |r, unit, error| (products[r] as f64 * unit, error))
    }

    /// Bounds of sixteen rows of 4 bits. They hold for all rows of a screen at once with all but a chance of one in 2^64.
    pub(super) fn chance_bounds(&self, sums: &NibbleSums, facts: &Facts) -> Bounds {
        let lost = 1.0 + (self.groups.len() + 2) as f64 * NARROW;
        self.around(facts, |r, unit, error| {
            let root = unit * (f64::from(sums.squares[r]) * lost).sqrt();
            (f64::from(sums.products[r]) * unit, error.min(self.chance * root) + self.crumbs * root)
        })
    }

    /// Bounds of sixteen rows: `known(row, unit, error)` tells where the product of the rounded row is, and how far from it what
    /// rounding took from the row brings that of the row itself; `unit` is what 1 stands for in a product, and `error` how far it
    /// is in any case.
    fn around(&self, facts: &Facts, known: impl Fn(usize, f64, f64) -> (f64, f64)) -> Bounds {
        let mut bounds = Bounds::OPEN;
        for r in 0..ROWS {
            let [scale, error, norm] = [facts.scale[r], facts.error[r], facts.norm[r]].map(f64::from);
            let (middle, error) = known(r, scale * self.step, error * self.per_error);
            let off = SLACK * (error + norm * self.per_norm + self.least) + middle.abs() * CRUMB;
            let (low, high) = (middle - off, middle + off);
            // Not so where the norm is infinite, and its product with 0 no number.
            if norm * self.norm <= LARGEST {
                bounds.lower[r] = (low - low.abs() * NARROW - LEAST) as f32;
                bounds.upper[r] = (high + high.abs() * NARROW + LEAST) as f32;
            }
        }
        bounds
    }
}

/// How far from 0, but with a chance of one in 2 to the power of [`CERTAINTY`] for any of `rows` rows, the product of activations with
/// what dither has lost of a row, as a multiple of the root of [`NibbleSums::squares`].
///
/// What is lost of a number is uniform over a unit of its scale, and independent of that of others: with `s` for such a unit,
/// `E e^(a loss) <= e^(a^2 s^2 / 24)`. So the product exceeds `t` times the root of a twelfth of the squares with a chance of at
/// most `2 e^(-t^2 / 2)` (Chernoff). That random numbers have steps moves each loss by one of them at most, and the sum of
/// activations of a group is at most 8 times their length. Of the two bits to spare, one is for both sides, the other for
/// roundings of numbers that are a hair's breadth from the middle between two of 4 bits.
fn chance(rows: usize, groups: usize) -> f64 {
    let bits = CERTAINTY + 2.0 + (rows as f64).log2();
    (2.0 * LN_2 * bits / 12.0).sqrt() + 8.0 * (groups as f64).sqrt() / f64::from(STEPS)
}

/// The length of a vector or a little more.
fn at_least(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|number| number * number).sum::<f64>().sqrt() * SLACK
}

/// A length as an f32 that is not smaller.
pub(super) fn up(length: f64) -> f32 {
    (length * SLACK * (1.0 + NARROW) + LEAST) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activations(x: &[f32]) -> Option<Activations> {
        Activations::new(x, Shape { rows: 16, cols: x.len(), form: fit::Screen::Int8 }, &Dither::default())
    }

    #[test]
    fn constants_are_what_they_say() {
        assert_eq!(LEAST, f64::from(f32::from_bits(1)));
        for length in [0.0, 1e-60, 1e-45, 1.0, 1.0 + 1e-9, 3.3333333333, f64::from(f32::MAX), 1e39] {
            assert!(f64::from(up(length)) >= length, "{length}");
        }
    }

    #[test]
    fn what_is_not_finite_is_told() {
        assert!(activations(&[0.0, f32::NAN]).is_none());
        assert!(activations(&[f32::NEG_INFINITY, 1.0]).is_none());
        assert!(activations(&[]).is_some() && activations(&[0.0, f32::MAX, -1e-45]).is_some());
    }

    #[test]
    fn rows_whose_sums_might_overflow_are_left_open() {
        let x = activations(&[1e30; 4]).unwrap();
        let mut facts = Facts { norm: [1.0; ROWS], ..Facts::default() };
        facts.norm[3] = 1e9;
        facts.norm[4] = f32::INFINITY;
        let bounds = x.bounds(&[0; ROWS], &facts);
        for r in 0..ROWS {
            assert_eq!(
                (bounds.lower[r].is_infinite(), bounds.upper[r] == f32::INFINITY),
                (r == 3 || r == 4, r == 3 || r == 4)
            );
        }
        let zero = activations(&[0.0; 4]).unwrap().bounds(&[0; ROWS], &facts);
        assert!(zero.upper[3] < 1e-40 && zero.upper[4] == f32::INFINITY, "0 times anything that is finite is 0");
    }

    #[test]
    fn chance_is_as_rare_as_it_is_said_to_be() {
        let root = (12.0f64).sqrt();
        // 2^-64 for a quarter of a million rows, of which each has two sides.
        let times = chance(250_880, 224) * root;
        let bits = times * times / 2.0 / LN_2;
        assert!((82.9..84.1).contains(&bits), "{bits}");
        assert!(kernels::crumbs(224) < 0.03, "f32 sums count for little");
    }
}
