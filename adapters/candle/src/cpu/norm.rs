//! What happens to activation rows between two products.

use super::{buffers, piece, pool::Pool};

/// Each row of `x`: mean 0, variance 1, scaled and shifted.
pub(super) fn layer_norm(pool: &Pool, x: &[f32], scale: &[f32], shift: &[f32], eps: f32) -> Vec<f32> {
    let width = scale.len();
    by_rows(pool, x, width, |row, normed| {
        let mean = (sum(row, f64::from) / width as f64) as f32;
        let variance = sum(row, |v| f64::from(v - mean).powi(2)) / width as f64;
        let root = 1.0 / (variance as f32 + eps).sqrt();
        let numbers = row.iter().zip(scale).zip(shift);
        normed.iter_mut().zip(numbers).for_each(|(n, ((v, w), b))| *n = (v - mean) * root * w + b);
    })
}

/// Each row of `x` divided by its root mean square, and scaled.
pub(super) fn rms_norm(pool: &Pool, x: &[f32], scale: &[f32], eps: f32) -> Vec<f32> {
    let width = scale.len();
    by_rows(pool, x, width, |row, normed| {
        let square = sum(row, |v| f64::from(v).powi(2)) / width as f64;
        let root = 1.0 / (square as f32 + eps).sqrt();
        normed.iter_mut().zip(row.iter().zip(scale)).for_each(|(n, (v, w))| *n = v * root * w);
    })
}

/// What `one` makes of each row of `x`, shared among the threads.
fn by_rows(pool: &Pool, x: &[f32], width: usize, one: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let mut made = buffers::place(x.len());
    let pieces = x.chunks(piece(width)).zip(made.chunks_mut(piece(width)));
    // About as much as four multiplications for each number.
    pool.each_of(4 * x.len(), pieces, |_, (x, made)| {
        x.chunks_exact(width).zip(made.chunks_exact_mut(width)).for_each(|(row, made)| one(row, made));
    });
    made
}

/// The sum of `of` each number, in eight sums side by side: one would wait for itself at each number.
fn sum(numbers: &[f32], of: impl Fn(f32) -> f64) -> f64 {
    let (eights, rest) = numbers.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, number)| *sum += of(*number));
    }
    sums.into_iter().chain(rest.iter().map(|number| of(*number))).sum()
}

/// Turns every head of `dim` numbers in `x` by `turns`, cosine and sine of each pair: a number of the first half of a head
/// and the one that stands in its place in the second.
pub(super) fn turn(x: &mut [f32], dim: usize, turns: &[(f32, f32)]) {
    for head in x.chunks_exact_mut(dim) {
        let (first, second) = head.split_at_mut(dim / 2);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn a_turn_keeps_lengths() {
        let turns: Vec<(f32, f32)> = [0.3f32, 2.5].iter().map(|angle| (angle.cos(), angle.sin())).collect();
        let mut x = [1.0, 2.0, 3.0, 4.0, -1.0, 0.0, 0.5, 2.0];
        let square = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
        let before = (square(&x[..4]), square(&x[4..]));
        turn(&mut x, 4, &turns);
        assert!((square(&x[..4]) - before.0).abs() < 1e-4 && (square(&x[4..]) - before.1).abs() < 1e-4);
        assert!((x[0] - (0.3f32.cos() - 3.0 * 0.3f32.sin())).abs() < 1e-6, "the first pair is numbers 0 and 2");
    }
}
