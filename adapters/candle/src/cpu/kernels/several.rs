//! Products of f32 and 16-bit weights with a few rows of activations, which are too few to pay for packing: weights are
//! widened two rows at a time, in registers, for as many rows of activations as there are registers for sums.
//!
//! A lane sums up its columns in one run, whatever the number of rows: so one row of activations has the same products, to
//! the bit, alone and among others. Two weight rows at a time also read memory a little faster than one: some tenth in f32,
//! on a Xeon with AVX-512, in a loop of its own. What sessions gain by it together says `make bench-sessions`.

use super::parts::{place, together};
use crate::cpu::pool::Pool;

/// Up to this many rows of activations: as many as a batch of one-token steps has at most.
pub(super) const SEVERAL: usize = 32;
/// Numbers of weights that one task takes: a guess, small enough for threads to end at the same time.
pub(super) const TASK: usize = 1 << 14;
/// Of large matrices a task takes more, up to this many and a share of what a thread does: threads that take a task wait for each
/// other's count of those that are done.
const MOST: usize = 1 << 17;
const SHARES: usize = 32;
/// Weight rows that one task takes at least: a line of results for each row of activations.
const ROWS: usize = 16;

/// Sets the products of weights with rows of activations, both of as many columns as the number says. The results of each
/// row of activations have a place of the same length, and stand at its beginning.
pub(crate) type Kernel<W, X> = fn(&[W], &[X], usize, &mut [f32]);

/// `x` of shape `[m, cols]` times the transpose of `weight` of shape `[rows, cols]`: `[m, rows]`. Each row of `x` has the
/// products that it has alone.
pub(crate) fn lone_products<W: Sync, X: Sync>(
    pool: &Pool,
    x: &[X],
    weight: &[W],
    cols: usize,
    kernel: Kernel<W, X>,
) -> Vec<f32> {
    let (many, rows) = (x.len() / cols, weight.len() / cols);
    let task = (weight.len() / (SHARES * pool.threads())).clamp(TASK, MOST);
    let step = (task / cols).next_multiple_of(ROWS).max(ROWS).min(rows).max(1);
    let mut products = place((many, rows), step);
    pool.each(products.chunks_exact_mut(step * many).zip(weight.chunks(step * cols)), |_, (products, weight)| {
        kernel(weight, x, cols, products);
    });
    together(pool, products, (many, rows), step)
}

/// The reference: every row widened, and multiplied number by number.
pub(super) fn reference<W: Copy>(weights: &[W], x: &[f32], cols: usize, products: &mut [f32], widen: fn(W) -> f32) {
    let stride = products.len() / (x.len() / cols);
    for (nth, weights) in weights.chunks_exact(cols).enumerate() {
        let widened: Vec<f32> = weights.iter().map(|number| widen(*number)).collect();
        for (x, products) in x.chunks_exact(cols).zip(products.chunks_exact_mut(stride)) {
            products[nth] = super::scalar::dot(&widened, x);
        }
    }
}

/// Makes a [`Kernel`] for an instruction set: of how many lanes it has, for up to how many rows of activations it has
/// registers, how it loads weights and activations and adds their products to sums, and how single ones are widened. A
/// second name is that of its products of a single weight row with a single row of activations.
macro_rules! several {
    (
        #[$enable:meta]
        fn $name:ident $(and $dot:ident)?(weights: $weight:ty, x: $number:ty) {
            lanes: $lanes:expr, rows: $($rows:literal)* or $most:literal, zero: $zero:expr, load: $load_weights:ident $load:ident,
            add: $add:expr, widen: $widen_weight:expr, $widen:expr
        }
    ) => {
        #[$enable]
        fn $name(weights: &[$weight], x: &[$number], cols: usize, products: &mut [f32]) {
            /// `N` rows of activations with two weight rows, or the last one.
            #[inline]
            #[$enable]
            fn tile<const N: usize>(weights: &[$weight], x: &[$number], cols: usize, products: &mut [f32], stride: usize) {
                const WIDE: usize = $lanes;
                let (first, second) = weights.split_at(cols);
                let alone = second.is_empty();
                let second = if alone { first } else { &second[..cols] };
                let many = cols / WIDE;
                let (a, b) = (&first.as_chunks::<WIDE>().0[..many], &second.as_chunks::<WIDE>().0[..many]);
                let rows: [&[$number]; N] = std::array::from_fn(|n| &x[n * cols..(n + 1) * cols]);
                let chunks = rows.map(|row| &row.as_chunks::<WIDE>().0[..many]);
                let mut sums = [[$zero; 2]; N];
                for i in 0..many {
                    // Of weights, what comes after the processor's own guesses end with a page of memory. A prefetch reads
                    // nothing, and an address that is not there is ignored.
                    _mm_prefetch::<_MM_HINT_T0>(a[i].as_ptr().cast::<i8>().wrapping_add(AHEAD));
                    _mm_prefetch::<_MM_HINT_T0>(b[i].as_ptr().cast::<i8>().wrapping_add(AHEAD));
                    let (a, b) = ($load_weights(&a[i]), $load_weights(&b[i]));
                    for (sums, chunks) in sums.iter_mut().zip(&chunks) {
                        let x = $load(&chunks[i]);
                        *sums = [$add(a, x, sums[0]), $add(b, x, sums[1])];
                    }
                }
                let rest = |weights: &[$weight], x: &[$number]| -> f32 {
                    let rest = weights[many * WIDE..].iter().zip(&x[many * WIDE..]);
                    rest.map(|(weight, x)| $widen_weight(*weight) * $widen(*x)).sum()
                };
                for (nth, sums) in sums.chunks(2).enumerate() {
                    let sums = add_four([sums[0], sums.get(1).copied().unwrap_or([$zero; 2])]);
                    for (at, sums) in (2 * nth..N).zip(sums) {
                        products[at * stride] = sums[0] + rest(first, rows[at]);
                        if !alone {
                            products[at * stride + 1] = sums[1] + rest(second, rows[at]);
                        }
                    }
                }
            }
            let stride = products.len() / (x.len() / cols);
            for (nth, weights) in weights.chunks(2 * cols).enumerate() {
                for (x, products) in x.chunks($most * cols).zip(products.chunks_mut($most * stride)) {
                    let products = &mut products[2 * nth..];
                    match x.len() / cols {
                        $($rows => tile::<$rows>(weights, x, cols, products, stride),)*
                        _ => tile::<$most>(weights, x, cols, products, stride),
                    }
                }
            }
        }

        $(
            #[$enable]
            fn $dot(weights: &[$weight], x: &[$number]) -> f32 {
                let mut product = [0.0];
                if !x.is_empty() {
                    $name(weights, x, x.len(), &mut product);
                }
                product[0]
            }
        )?
    };
}
pub(super) use several;
