//! Activations rounded to 8 bits, in groups of 32 with a scale each.
//!
//! Plain Rust without sums of floats, which compilers turn into vector code; each instruction set's file compiles it once
//! more for itself.

use super::packed::COLS;

/// Rows of a chunk: with them, the sums of sixteen weight rows stay in the first-level cache. A
/// guess.
pub(crate) const CHUNK: usize = 64;

/// What a group of activations was rounded with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Group {
    /// What 1 stands for. NaN or infinite where an activation is.
    pub scale: f32,
    /// The scale times the sum of the rounded numbers.
    pub sum: f32,
    /// The sums of both halves' rounded numbers, with the other sign.
    pub negated: [i32; 2],
}

/// Up to [`CHUNK`] rows of activations, rounded. Group `g` of row `i` stands at `g * rows + i`.
pub(crate) struct Rounded {
    pub rows: usize,
    /// Four numbers in each, the first in the lowest byte.
    pub numbers: Vec<[u32; COLS / 4]>,
    pub groups: Vec<Group>,
}

/// Rounds rows of `cols` activations, a multiple of [`COLS`].
#[inline(always)]
pub(super) fn round(x: &[f32], cols: usize) -> Rounded {
    let (rows, count) = (x.len() / cols, cols / COLS);
    let mut rounded =
        Rounded { rows, numbers: vec![[0; COLS / 4]; rows * count], groups: vec![Group::default(); rows * count] };
    for (i, row) in x.chunks_exact(cols).enumerate() {
        for (g, group) in row.as_chunks::<COLS>().0.iter().enumerate() {
            rounded.groups[g * rows + i] = round_group(group, &mut rounded.numbers[g * rows + i]);
        }
    }
    rounded
}

/// Added to a number between -2^22 and 2^22, makes its nearest integer the lowest bits of the sum.
const SHIFT: f32 = 12_582_912.0;

#[inline(always)]
fn round_group(x: &[f32; COLS], to: &mut [u32; COLS / 4]) -> Group {
    // As integers, magnitudes are in order, and those of NaN come last: so it is seen.
    let most = x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff));
    let most = f32::from_bits(most);
    let scale = most / 127.0;
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    // Of a subnormal number the inverse may be infinite; nothing of it is left in 8 bits.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let mut whole = [0i32; COLS];
    for (whole, x) in whole.iter_mut().zip(x) {
        *whole = ((x * inverse + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32).clamp(-127, 127);
    }
    for (to, four) in to.iter_mut().zip(whole.as_chunks::<4>().0) {
        let byte = |at: usize| (four[at] as u32 & 255) << (8 * at);
        *to = byte(0) | byte(1) | byte(2) | byte(3);
    }
    let half = |from: usize| whole[from..from + COLS / 2].iter().sum::<i32>();
    let halves = [half(0), half(COLS / 2)];
    Group { scale, sum: scale * (halves[0] + halves[1]) as f32, negated: halves.map(|sum| -sum) }
}

/// Number `k` of a group.
#[inline(always)]
pub(super) fn number(group: &[u32; COLS / 4], k: usize) -> i8 {
    (group[k / 4] >> (k % 4 * 8)) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_within_half_a_step_and_keeps_what_is_not_finite() {
        let x: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * i as f32).collect();
        let rounded = round(&x, 96);
        for (g, group) in rounded.groups.iter().enumerate() {
            let numbers: Vec<f32> = (0..32).map(|k| f32::from(number(&rounded.numbers[g], k))).collect();
            for (number, x) in numbers.iter().zip(&x[32 * g..]) {
                assert!((number * group.scale - x).abs() <= 0.5001 * group.scale, "{number} {x}");
            }
            assert_eq!(group.negated[0] as f32, -numbers[..16].iter().sum::<f32>());
        }
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[7] = odd;
            assert!(!round(&x, 32).groups[0].scale.is_finite());
        }
        let zeros = round(&[0.0; 32], 32);
        assert_eq!((zeros.groups[0].scale, zeros.numbers[0]), (0.0, [0; 8]));
        assert_eq!(round(&[1e-44; 32], 32).numbers[0], [0; 8]);
    }
}
