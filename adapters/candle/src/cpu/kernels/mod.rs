//! Products of f32 activations with f32, bf16 and f16 numbers, and of 8-bit ones with quantised weights, on the processor.
//! Sums are f32, or exact integers within a block of quantised numbers.
//!
//! The scalar file is the reference; the others must agree with it up to the order of the sums. Which one runs is
//! decided once, when a model is loaded. `unsafe` stays inside this folder.

#[cfg(test)]
mod agreement;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod curves;
mod dense;
mod lend;
mod narrow;
mod nibbles;
mod packed;
mod parts;
mod planes;
mod product;
mod rounded;
mod scalar;
mod several;
mod tiles;
mod vectors;

use corolla_domain::{
    fit,
    ports::{FaultKind, PortError},
};

pub(crate) use dense::{Operand, Strided, add_product, matmul, product_into, some_products};
pub(crate) use lend::Lent;
pub(crate) use narrow::{narrow_product, narrowed};
pub(crate) use nibbles::{
    GROUP, GROUP_LINES, Group as NibbleGroup, SPAN, Sums as NibbleSums, crumbs, lines_of as nibble_lines,
};
pub(crate) use packed::{Line, Packed, ROWS, lines};
pub(crate) use planes::{MOST, Planes, ZERO};
pub(crate) use product::{RoundedRows, exact_product, rounded_product};
pub(crate) use several::lone_products;
pub(crate) use vectors::Vectors;

use self::{
    narrow::{Group, Sums},
    packed::{Format, Tiles},
    rounded::Rounded,
    tiles::Lanes,
};

/// A set of kernels for one instruction set. Slices given to one call have equal lengths.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// What the set is called.
    pub name: &'static str,
    /// Sum of products of two f32 rows: to the bit what [`several_f32`](Self::several_f32) has. So the next two.
    pub dot: fn(&[f32], &[f32]) -> f32,
    /// Sum of products of a bf16 and an f32 row.
    pub dot_bf16: fn(&[u16], &[f32]) -> f32,
    /// Sum of products of an f16 and an f32 row.
    pub dot_f16: fn(&[u16], &[f32]) -> f32,
    /// Products of f32 weights with one or more rows of activations; each row's do not depend on the others.
    pub several_f32: several::Kernel<f32, f32>,
    /// The same of bf16 weights.
    pub several_bf16: several::Kernel<u16, f32>,
    /// The same of f16 weights.
    pub several_f16: several::Kernel<u16, f32>,
    /// Products of a query with each key.
    pub scores: fn(&[f32], &[f32], &mut [f32]),
    /// The same with bf16 keys.
    pub scores_bf16: fn(&[f32], &[u16], &mut [f32]),
    /// The same with 8-bit keys.
    pub scores_i8: fn(&[f32], &[i8], &mut [f32]),
    /// Adds f32 values, each times its weight.
    pub mix: curves::Mix<f32>,
    /// The same of bf16 values.
    pub mix_bf16: curves::Mix<u16>,
    /// The same of 8-bit values.
    pub mix_i8: curves::Mix<i8>,
    /// Rounds rows of that many activations, a multiple of 32, to 8 bits.
    pub round: fn(&[f32], usize) -> Rounded,
    /// Products of sixteen packed rows with rounded activations, a result for each row of them.
    pub tiles: fn(Format, Tiles<'_>, &Rounded, &mut [Lanes]),
    /// Products of sixteen packed rows with one row of activations.
    pub exact_tiles: fn(Format, Tiles<'_>, &[f32]) -> Lanes,
    /// Scores of keys up to the query's own, times a factor and less a slope times distance, to weights that sum to 1.
    pub soften: fn(&mut [f32], f32, f32),
    /// `silu` of the first row times the second.
    pub gate: fn(&mut [f32], &[f32]),
    /// The tanh form of GELU.
    pub gelu: fn(&mut [f32]),
    /// Products of sixteen rows of bytes with one row of activations of 16 bits, exactly.
    pub planes: fn(&[Line], &Planes) -> planes::Sums,
    /// What is known of the products of sixteen rows of 4-bit numbers with the same.
    pub nibbles: fn(&[Line], &Planes, &[NibbleGroup]) -> NibbleSums,
    /// Products of bf16 numbers, where the processor has instructions for them.
    pub narrow: Option<Narrow>,
}

/// Kernels for products of bf16 weights with activations that are rounded to bf16.
#[derive(Clone, Copy)]
pub(crate) struct Narrow {
    /// Rounds activations to bf16.
    round: fn(&[f32]) -> Vec<u16>,
    /// Products of weights with several rows of rounded activations, of an even number of columns.
    several: several::Kernel<u16, u16>,
    /// Rounds up to 12 rows of an even number of columns, and puts them side by side.
    group: fn(&[f32], usize, &mut [Group]),
    /// Packs up to 32 rows of an even number of columns, into a place for each pair of them.
    pack: fn(&[u16], usize, &mut [narrow::Pairs]),
    /// Products of packed rows with that many rows of a group. Weights that will be wanted next are asked for meanwhile.
    product: fn(&[narrow::Pairs], &[Group], usize, &mut Sums, &[u16]),
}

/// The sets that this processor can run, the fastest first.
fn sets() -> Vec<Kernels> {
    let mut sets = Vec::new();
    #[cfg(target_arch = "x86_64")]
    sets.extend([avx512vnni::kernels(), avx512::kernels(), avx2::kernels()].into_iter().flatten());
    sets.push(scalar::kernels());
    sets
}

/// What the sets are called that this processor can run, the fastest first.
#[must_use]
pub fn kernel_sets() -> Vec<&'static str> {
    sets().iter().map(|set| set.name).collect()
}

/// The set chosen; the fastest where that is left open.
pub(crate) fn kernels(choice: Option<fit::Kernels>) -> Result<Kernels, PortError> {
    let mut sets = sets().into_iter();
    let chosen = match choice {
        None => sets.next(),
        Some(wanted) => sets.find(|set| set.name == wanted.name()),
    };
    chosen.ok_or_else(|| {
        let wanted = choice.map_or("", fit::Kernels::name);
        let able = kernel_sets().join(", ");
        let text = format!("this processor cannot run the {wanted} kernels; it can run: {able}");
        PortError::new(FaultKind::Unsupported, text)
    })
}

/// Widens a bf16 number.
#[inline(always)]
pub(crate) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Widens an f16 number, in arithmetic that compilers can turn into vector code: moved to its place, an f16 is an f32
/// too small by 2^112, subnormal or not.
#[inline(always)]
pub(crate) fn f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((112 + 127) << 23);
    let magnitude = if bits & 0x7c00 == 0x7c00 { (bits & 0x7fff) << 13 | 0x7f80_0000 } else { magnitude.to_bits() };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use testkit::local_model::{assert_near, noise};

    use super::*;
    use crate::cpu::pool::Pool;

    #[test]
    fn every_set_agrees_with_the_reference_at_every_length() {
        let reference = scalar::kernels();
        for len in (0..70).chain([576, 1000, 1535]) {
            let (a, b) = (noise(len, 1), noise(len, 2));
            let wide: Vec<u16> = a.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
            let half: Vec<u16> = a.iter().map(|v| half::f16::from_f32(*v).to_bits()).collect();
            let dots = |set: &Kernels| [(set.dot)(&a, &b), (set.dot_bf16)(&wide, &b), (set.dot_f16)(&half, &b)];
            for kernels in sets() {
                for (found, wanted) in dots(&kernels).into_iter().zip(dots(&reference)) {
                    assert!((found - wanted).abs() <= 1e-4, "{} at {len}: {found} {wanted}", kernels.name);
                }
                for width in [1, 7, 64, 80, 128] {
                    let (keys, weights) = (noise(len * width, 3), noise(len, 4));
                    let mut by_hand = vec![0.0; width];
                    for (weight, values) in weights.iter().zip(keys.chunks_exact(width)) {
                        by_hand.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                    }
                    by_hand.iter_mut().for_each(|sum| *sum += 1.0);
                    let mut mixed = vec![1.0; width];
                    (kernels.mix)(&weights, len, &keys, width, &mut mixed);
                    assert_near(&mixed, &by_hand, 2e-5, &format!("{} mix {len} of {width}", kernels.name));
                    let (query, mut scores) = (noise(width, 5), vec![0.0; len]);
                    (kernels.scores)(&query, &keys, &mut scores);
                    let products: Vec<f32> = keys.chunks_exact(width).map(|key| (reference.dot)(&query, key)).collect();
                    assert_near(&scores, &products, 2e-5, &format!("{} scores {len} of {width}", kernels.name));
                }
            }
        }
    }

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn bf16_products_lose_nothing_but_the_order_of_sums() {
        let a = noise(64, 3);
        let wide: Vec<u16> = a.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
        for i in 0..64 {
            let mut unit = vec![0.0f32; 64];
            unit[i] = 1.234_567_9;
            for kernels in sets() {
                assert_eq!((kernels.dot_bf16)(&wide, &unit), bf16(wide[i]) * 1.234_567_9, "{}", kernels.name);
            }
        }
    }

    #[test]
    fn a_product_of_matrices_is_the_same_whatever_path_it_takes() {
        let (rows, cols) = (37, 96);
        let weight = noise(rows * cols, 5);
        let bits: Vec<u16> = weight.iter().map(|v| half::bf16::from_f32(*v).to_bits()).collect();
        let pool = Pool::new(Some(2)).unwrap();
        let widened: Vec<f32> = bits.iter().map(|b| bf16(*b)).collect();
        for many in [1, 2, 5, 32, 33, 40] {
            let x = noise(many * cols, 7);
            let of = |x| widened.chunks_exact(cols).map(move |weight| scalar::dot(weight, x));
            let by_hand: Vec<f32> = x.chunks_exact(cols).flat_map(of).collect();
            for operand in [Operand::F32(&widened), Operand::Bf16(&bits)] {
                let product = matmul((&sets()[0], &pool), &x, operand, cols);
                assert_near(&product, &by_hand, 1e-5, &format!("a product with {many} rows"));
            }
        }
    }
}
