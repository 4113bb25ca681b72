//! Products of bf16 weights with activations that are rounded to bf16 as well, shared among the threads.
//!
//! One row is rounded too, though little is won by it: so what a row becomes does not depend, but for the order of sums, on
//! how many others are multiplied beside it.

use std::{borrow::Cow, cell::RefCell};

use super::{Kernels, Narrow, Operand, RoundedRows, bf16, dense::matmul, packed::Line, several};
use crate::cpu::{buffers, pool::Pool};

/// Up to this many rows of activations, weights are multiplied as they lie in memory; above, packing them pays: a guess.
const FEW: usize = 16;
/// Weight rows that are packed together.
pub(super) const ROWS: usize = 32;
/// Rows of activations that are multiplied together.
pub(super) const LANES: usize = 12;

/// Two neighbouring columns of each of [`LANES`] rows of activations, in the bits of an f32, the first in the lower ones.
pub(super) type Group = [f32; LANES];
/// Sums of [`ROWS`] weight rows with each of [`LANES`] rows of activations.
pub(super) type Sums = [[f32; ROWS]; LANES];
/// Two neighbouring columns of [`ROWS`] weight rows.
pub(super) type Pairs = [Line; 2];

thread_local! {
    /// Where a thread packs weights.
    static PACKED: RefCell<Vec<Pairs>> = const { RefCell::new(Vec::new()) };
}

/// `x` of shape `[m, cols]` times the transpose of `bits` of shape `[rows, cols]`: `[m, rows]`. Activations stay as they
/// are where the processor multiplies no bf16 numbers, or not an odd number of them. `rounded` belongs to `x`.
pub(crate) fn narrow_product(
    (kernels, pool): (&Kernels, &Pool),
    x: &[f32],
    rounded: &RoundedRows,
    bits: &[u16],
    cols: usize,
) -> Vec<f32> {
    let (many, rows) = (x.len() / cols, bits.len() / cols);
    let Some(narrow) = narrow(kernels, cols).filter(|_| many > 1) else {
        return matmul((kernels, pool), &narrowed(kernels, x, cols), Operand::Bf16(bits), cols);
    };
    if many <= FEW {
        return several::lone_products(pool, &(narrow.round)(x), bits, cols, narrow.several);
    }
    let groups = rounded.groups.get_or_init(|| {
        let mut rounded = buffers::place(many.div_ceil(LANES) * LANES * (cols / 2));
        let groups = rounded.as_chunks_mut::<LANES>().0.chunks_mut(cols / 2);
        pool.each_of(x.len(), groups.zip(x.chunks(LANES * cols)), |_, (group, x)| (narrow.group)(x, cols, group));
        rounded
    });
    let groups = groups.as_chunks::<LANES>().0;
    let mut products = buffers::place(many * rows);
    // Of each panel of weights, where its products go in each row.
    let mut panels: Vec<Vec<&mut [f32]>> = (0..rows).step_by(ROWS).map(|_| Vec::with_capacity(many)).collect();
    for row in products.chunks_exact_mut(rows) {
        panels.iter_mut().zip(row.chunks_mut(ROWS)).for_each(|(panel, part)| panel.push(part));
    }
    let size = ROWS * cols;
    pool.each(panels.into_iter().zip(bits.chunks(size)), |nth, (mut places, weight)| {
        let mut packed = PACKED.take();
        packed.resize(cols / 2, [Line([0; 16]); 2]);
        (narrow.pack)(weight, cols, &mut packed);
        // Packing would wait for memory, while products leave it idle: they ask for what is packed next.
        let next = &bits[((nth + 1) * size).min(bits.len())..((nth + 2) * size).min(bits.len())];
        let mut next = next.chunks(size.div_ceil(many.div_ceil(LANES)));
        let mut sums = [[0f32; ROWS]; LANES];
        for (places, x) in places.chunks_mut(LANES).zip(groups.chunks_exact(cols / 2)) {
            (narrow.product)(&packed, x, places.len(), &mut sums, next.next().unwrap_or_default());
            places.iter_mut().zip(&sums).for_each(|(place, sums)| place.copy_from_slice(&sums[..place.len()]));
        }
        PACKED.set(packed);
    });
    products
}

/// Activations as [`narrow_product`] multiplies them with rows of `cols` weights.
pub(crate) fn narrowed<'a>(kernels: &Kernels, x: &'a [f32], cols: usize) -> Cow<'a, [f32]> {
    let rounded = |narrow: Narrow| (narrow.round)(x).into_iter().map(bf16).collect();
    narrow(kernels, cols).map_or(Cow::Borrowed(x), |narrow| Cow::Owned(rounded(narrow)))
}

/// What multiplies bf16 numbers, where rows of as many can be: it takes them in pairs.
fn narrow(kernels: &Kernels, cols: usize) -> Option<Narrow> {
    kernels.narrow.filter(|_| cols.is_multiple_of(2))
}

/// Rounds numbers.
#[inline(always)]
pub(super) fn round(x: &[f32]) -> Vec<u16> {
    x.iter().map(|x| to_bf16(*x)).collect()
}

/// Rounds up to [`LANES`] rows, an even number of columns each: the reference.
#[cfg(test)]
pub(super) fn group(x: &[f32], cols: usize, group: &mut [Group]) {
    for (lane, row) in x.chunks_exact(cols).enumerate() {
        for (pairs, [first, second]) in group.iter_mut().zip(row.as_chunks::<2>().0) {
            pairs[lane] = f32::from_bits(u32::from(to_bf16(*first)) | u32::from(to_bf16(*second)) << 16);
        }
    }
}

/// The nearest bf16, of two the even one.
#[inline(always)]
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // What is no number stays none, whichever of its bits are cut off.
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        for i in 0..200_000u32 {
            let x = f32::from_bits(i.wrapping_mul(0x9e37_79b9));
            let (ours, theirs) = (to_bf16(x), half::bf16::from_f32(x));
            assert!(ours == theirs.to_bits() || x.is_nan() && half::bf16::from_bits(ours).is_nan(), "{x}");
        }
        assert_eq!(to_bf16(f32::INFINITY), half::bf16::INFINITY.to_bits());
        assert!(half::bf16::from_bits(to_bf16(f32::from_bits(0x7fff_ffff))).is_nan());
    }
}
