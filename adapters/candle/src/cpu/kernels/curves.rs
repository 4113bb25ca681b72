//! Softmax, the sums of values that follow it, and the activations between two products.
//!
//! Plain Rust without library calls, which compilers turn into vector code; each instruction set's file compiles it once
//! more for itself: that cannot be done with the library's `exp`.

use super::bf16;

/// Sums kept side by side, so that additions need not wait for each other.
const SIDE: usize = 32;

/// Adds values, rows of so many columns as the number says, to the sums of one or more heads, each value times the weight
/// that the head gives its row. The first number is how far the weights of a head are from those of the head before it.
pub(crate) type Mix<T> = fn(&[f32], usize, &[T], usize, &mut [f32]);

/// Values of rows that are widened and added for as many heads at a time as there are registers for sums. A head's sums do not
/// depend on the others.
#[inline(always)]
fn mix<T: Copy>(
    weights: &[f32],
    stride: usize,
    values: &[T],
    width: usize,
    mixed: &mut [f32],
    widen: impl Fn(T) -> f32 + Copy,
) {
    /// Heads at a time.
    const MOST: usize = 4;
    for (nth, mixed) in mixed.chunks_mut(MOST * width).enumerate() {
        let weights = &weights[nth * MOST * stride..];
        match mixed.len() / width {
            1 => mix_heads::<T, 1, 64>(weights, stride, values, width, mixed, widen),
            2 => mix_heads::<T, 2, 32>(weights, stride, values, width, mixed, widen),
            3 => mix_heads::<T, 3, 32>(weights, stride, values, width, mixed, widen),
            _ => mix_heads::<T, MOST, 32>(weights, stride, values, width, mixed, widen),
        }
    }
}

/// The same for so many heads, `COLS` columns at a time: their sums stay in registers.
#[inline(always)]
fn mix_heads<T: Copy, const HEADS: usize, const COLS: usize>(
    weights: &[f32],
    stride: usize,
    values: &[T],
    width: usize,
    mixed: &mut [f32],
    widen: impl Fn(T) -> f32 + Copy,
) {
    let count = values.len() / width;
    let weights: [&[f32]; HEADS] = std::array::from_fn(|head| &weights[head * stride..][..count]);
    let whole = width / COLS * COLS;
    for first in (0..whole).step_by(COLS) {
        let mut sums = [[0.0; COLS]; HEADS];
        for (head, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&mixed[head * width + first..][..COLS]);
        }
        for (row, values) in values.chunks_exact(width).enumerate() {
            let Some(values) = values[first..].first_chunk::<COLS>() else { continue };
            let mut wide = [0.0; COLS];
            wide.iter_mut().zip(values).for_each(|(wide, value)| *wide = widen(*value));
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = weights[row];
                sums.iter_mut().zip(&wide).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        for (head, sums) in sums.iter().enumerate() {
            mixed[head * width + first..][..COLS].copy_from_slice(sums);
        }
    }
    for (mixed, weights) in mixed.chunks_exact_mut(width).zip(weights) {
        for (weight, values) in weights.iter().zip(values.chunks_exact(width)) {
            let rest = mixed[whole..].iter_mut().zip(&values[whole..]);
            rest.for_each(|(sum, value)| *sum += weight * widen(*value));
        }
    }
}

/// f32 values.
#[inline(always)]
pub(super) fn mix_f32(weights: &[f32], stride: usize, values: &[f32], width: usize, mixed: &mut [f32]) {
    mix(weights, stride, values, width, mixed, |value| value);
}

/// bf16 values.
#[inline(always)]
pub(super) fn mix_bf16(weights: &[f32], stride: usize, values: &[u16], width: usize, mixed: &mut [f32]) {
    mix(weights, stride, values, width, mixed, bf16);
}

/// 8-bit values.
#[inline(always)]
pub(super) fn mix_i8(weights: &[f32], stride: usize, values: &[i8], width: usize, mixed: &mut [f32]) {
    mix(weights, stride, values, width, mixed, f32::from);
}

/// Turns products of one query with the keys it may see, the last of them its own, into weights that sum to 1.
#[inline(always)]
pub(super) fn soften(scores: &mut [f32], scale: f32, slope: f32) {
    let last = scores.len() as f32 - 1.0;
    let mut most = [f32::NEG_INFINITY; SIDE];
    let mut at = 0.0f32;
    for scores in scores.chunks_mut(SIDE) {
        for (i, (score, most)) in scores.iter_mut().zip(&mut most).enumerate() {
            *score = *score * scale - slope * (last - at - i as f32);
            // A NaN wins, and is seen in every weight.
            *most = if *most > *score { *most } else { *score };
        }
        at += SIDE as f32;
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
    let mut sums = [0.0f32; SIDE];
    for scores in scores.chunks_mut(SIDE) {
        for (score, sum) in scores.iter_mut().zip(&mut sums) {
            *score = exp(*score - most);
            *sum += *score;
        }
    }
    let whole = 1.0 / sums.iter().sum::<f32>();
    scores.iter_mut().for_each(|score| *score *= whole);
}

/// `silu(gate) * up`, where `silu(x)` is `x / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn gate(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// The tanh form of GELU, with the rounded constant that BLOOM was trained with.
#[inline(always)]
pub(super) fn gelu(x: &mut [f32]) {
    for x in x {
        let inner = 0.797_884_6 * *x * (1.0 + 0.044_715 * *x * *x);
        // (1 + tanh(z)) / 2 = 1 / (1 + exp(-2z)).
        *x /= 1.0 + exp(-2.0 * inner);
    }
}

/// `exp(x)` within 2 units in the last place; 0 below -87.3, infinite above 88.7, NaN of NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Makes the nearest integer the lowest bits of a sum.
    const SHIFT: f32 = 12_582_912.0;
    let bounded = if x < -87.3 { -87.3 } else { x };
    let bounded = if bounded > 88.7 { 88.7 } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    // ln 2 in two parts (Cody and Waite, 1980), the first exact in products with small integers.
    let rest = bounded - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    // Minimax polynomial of Cephes' expf (Moshier, 1992).
    let mut power = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        power = power * rest + c;
    }
    let mantissa = power * rest * rest + rest + 1.0;
    // Two steps: 2^128 is no f32, but its root is.
    let exponent = (shifted.to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
    let power_of_two = |exponent: i32| f32::from_bits((exponent.wrapping_add(127) as u32) << 23);
    let result = mantissa * power_of_two(exponent >> 1) * power_of_two(exponent - (exponent >> 1));
    let result = if x < -87.3 { 0.0 } else { result };
    if x > 88.7 { f32::INFINITY } else { result }
}

#[cfg(test)]
mod tests {
    use testkit::local_model::assert_near;

    use super::*;

    #[test]
    fn exp_is_close_to_the_librarys_everywhere() {
        let mut worst = 0.0f32;
        for i in 0..2_000_000 {
            let x = -87.0 + i as f32 * (175.5 / 2_000_000.0);
            worst = worst.max((exp(x) / x.exp() - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!((exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan() && exp(89.0).is_infinite() && exp(f32::INFINITY).is_infinite());
    }

    #[test]
    fn gelu_and_the_gate_are_what_their_formulas_say() {
        for i in -300..300 {
            let x = i as f32 * 0.1;
            let tanh = (0.797_884_6 * x * (1.0 + 0.044_715 * x * x)).tanh();
            let (mut a, mut b) = ([x], [x]);
            gelu(&mut a);
            gate(&mut b, &[0.5]);
            assert!((a[0] - 0.5 * x * (1.0 + tanh)).abs() < 2e-6, "gelu of {x}: {}", a[0]);
            assert!((b[0] - 0.5 * x / (1.0 + (-x).exp())).abs() < 2e-6, "silu of {x}: {}", b[0]);
        }
    }

    #[test]
    fn weights_sum_to_one_and_fall_with_distance() {
        for len in [1, 2, 31, 32, 33, 100] {
            let mut scores: Vec<f32> = (0..len).map(|i| (i as f32 * 0.9).sin() * 20.0).collect();
            let distances = (0..len).rev();
            let powers = scores.iter().zip(distances).map(|(score, far)| (score * 0.5 - 0.1 * far as f32).exp());
            let powers: Vec<f32> = powers.collect();
            let by_hand: Vec<f32> = powers.iter().map(|power| power / powers.iter().sum::<f32>()).collect();
            soften(&mut scores, 0.5, 0.1);
            assert_near(&scores, &by_hand, 1e-5, &format!("{len} weights"));
        }
        let mut odd = [1.0, f32::NAN, 2.0];
        soften(&mut odd, 1.0, 0.0);
        assert!(odd.iter().all(|weight| weight.is_nan()));
    }
}
