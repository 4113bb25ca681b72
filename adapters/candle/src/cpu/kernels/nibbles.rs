//! Products of rows of 4-bit numbers, with a scale for 64 of them, with activations of 16 bits.
//!
//! Sixteen rows stand interleaved, as in [`packed`](super::packed). Line `j` of a group has columns `8 * j + t` of row `r` in the
//! lower four bits of byte `t` of lane `r`, and columns `8 * j + 4 + t` in the upper ones. Before each four groups stands a line
//! of their scales: byte `g` of lane `r` is that of row `r` in group `g`. So all of it is read in one run.
//!
//! The products of a group are whole numbers and exact. From each is taken what belongs to the activations alone
//! ([`Group::less`]), then they are added up in f32 with their scales: in any order and fused or not, which
//! [`crumbs`] makes up for. Plain Rust whose inner loop runs over the sixteen rows; AVX2 and AVX-512 VNNI have code of their own.

use super::{
    packed::{Line, ROWS},
    planes::Planes,
    tiles::Lanes,
};

/// Columns that share a scale.
pub(crate) const GROUP: usize = 64;
/// Groups whose scales share a line.
pub(crate) const SPAN: usize = 4;
/// Lines of a group.
pub(crate) const GROUP_LINES: usize = GROUP / 8;
/// Lines of as many groups as share a line of scales, and that line.
pub(super) const SPAN_LINES: usize = 1 + SPAN * GROUP_LINES;
/// Fours of activations that belong to a group.
pub(super) const FOURS: usize = GROUP / 4;

/// Lines that sixteen rows of so many columns have.
pub(crate) fn lines_of(cols: usize) -> usize {
    let groups = cols.div_ceil(GROUP);
    groups * GROUP_LINES + groups.div_ceil(SPAN)
}

/// What the activations of a group add to all rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Group {
    /// What is taken from the product of every row.
    pub less: f32,
    /// At least the sum of the activations' squares.
    pub square: f32,
}

/// What is known of the products of sixteen rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sums {
    /// The products.
    pub products: Lanes,
    /// Squares of the scales times those of the activations.
    pub squares: Lanes,
}

impl Sums {
    pub(super) const ZERO: Self = Self { products: [0.0; ROWS], squares: [0.0; ROWS] };
}

/// How far f32 sums over `groups` groups may be off, as a multiple of the root of [`Sums::squares`], if [`Group::less`] is off by
/// one part in 2^24 and what it takes from a number of 4 bits is between 7 and 8. Squares may be lower by one part in
/// 2^23 for each group and two more.
///
/// With `p` for the activations of a group, `|p|_1 <= 8 |p|`. Its product and `less` are at most `15 |p|_1` and `8 |p|_1`, their
/// difference at most `8 |p|_1`, and each of the three is rounded once. Of a sum of `n` terms none is rounded more than `n + 1`
/// times, and by Cauchy and Schwarz the sum of `scale * |p|` is at most the root of `n` times the squares.
pub(crate) fn crumbs(groups: usize) -> f64 {
    let (groups, unit) = (groups as f64, 1.0 / (1u64 << 24) as f64);
    let roundings = (groups + 2.0) * unit;
    let sums = roundings / (1.0 - roundings);
    groups.sqrt() * (8.0 * 32.0 * unit + 8.0 * 9.0 * sums)
}

/// What is known of sixteen rows; `x` has [`FOURS`] fours for each of `groups`.
#[inline(always)]
pub(super) fn product(lines: &[Line], x: &Planes, groups: &[Group]) -> Sums {
    let mut sums = Sums::ZERO;
    let spans = lines.chunks(SPAN_LINES).zip(groups.chunks(SPAN)).zip(x.whole.chunks(SPAN * FOURS));
    for ((lines, groups), whole) in spans {
        let Some((scales, lines)) = lines.split_first() else { break };
        let of_group = lines.chunks_exact(GROUP_LINES).zip(whole.chunks_exact(FOURS)).zip(groups);
        for (nth, ((lines, whole), group)) in of_group.enumerate() {
            let mut part = [0i32; ROWS];
            for (line, pair) in lines.iter().zip(whole.as_chunks::<2>().0) {
                for (t, number) in pair.as_flattened().iter().enumerate() {
                    let shift = 8 * (t % 4) + 4 * (t / 4);
                    for (part, quad) in part.iter_mut().zip(&line.0) {
                        *part += (quad >> shift & 15) as i32 * i32::from(*number);
                    }
                }
            }
            for (r, part) in part.into_iter().enumerate() {
                let scale = (scales.0[r] >> (8 * nth) & 255) as f32;
                sums.products[r] += scale * (part as f32 - group.less);
                sums.squares[r] += scale * scale * group.square;
            }
        }
    }
    sums
}
