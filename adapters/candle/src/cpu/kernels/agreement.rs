//! Every set of kernels against the reference and against weights widened number by number, over odd shapes.

use corolla_checkpoint::{GgmlType, Stored, widen};
use proptest::prelude::*;
use testkit::local_model::noise;

use super::{
    GROUP, GROUP_LINES, Kernels, Line, MOST, NibbleGroup, Operand, Packed, Planes, RoundedRows, SPAN, Vectors, ZERO,
    bf16, crumbs, f16, matmul,
    narrow::{self, LANES},
    narrow_product, rounded_product, scalar, sets,
    several::SEVERAL,
    some_products,
};
use crate::cpu::pool::Pool;

/// A matrix of some type with arbitrary numbers and reasonable scales, and rows of activations.
#[derive(Debug)]
struct Case {
    kind: GgmlType,
    stored: Vec<u8>,
    cols: usize,
    x: Vec<f32>,
}

impl Case {
    fn new(kind: GgmlType, [rows, blocks, many]: [usize; 3], seed: u64) -> Self {
        let cols = blocks * kind.block();
        let mut stored = bytes(kind.bytes(rows * cols), seed);
        let scales = noise(2 * rows * blocks, seed ^ 1);
        for (block, scales) in stored.chunks_exact_mut(kind.bytes(kind.block())).zip(scales.chunks_exact(2)) {
            let halves: &[usize] = match kind {
                GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
                GgmlType::Q6K => &[208],
                _ => &[0, 2],
            };
            for (at, scale) in halves.iter().zip(scales) {
                block[*at..at + 2].copy_from_slice(&half::f16::from_f32(*scale).to_le_bytes());
            }
        }
        let x = noise(many * cols, seed ^ 2);
        Self { kind, stored, cols, x }
    }

    fn widened(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.stored.len() / self.kind.bytes(self.kind.block()) * self.kind.block()];
        widen(Stored::Quantised(self.kind), &self.stored, &mut numbers);
        numbers
    }
}

/// Arbitrary bytes.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    noise(len, seed).into_iter().map(|number| ((number + 1.0) * 128.0) as u8).collect()
}

/// A case of every type, all of one shape.
fn cases() -> impl Strategy<Value = Vec<Case>> {
    let many = prop_oneof![1usize..20, 60usize..70, Just(130), Just(300)];
    let of_shape = |(rows, blocks, many, seed)| {
        GgmlType::ALL.into_iter().map(|kind| Case::new(kind, [rows, blocks, many], seed)).collect()
    };
    (1usize..70, 1usize..4, many, any::<u64>()).prop_map(of_shape)
}

/// For each product, the sum of its terms' magnitudes: errors are a part of it.
fn magnitudes(weight: &[f32], x: &[f32], cols: usize) -> Vec<(f32, f32)> {
    let of = |x: &[f32], weight: &[f32]| {
        let terms = || x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
        (terms().sum::<f64>() as f32, terms().map(f64::abs).sum::<f64>() as f32)
    };
    x.chunks_exact(cols).flat_map(|x| weight.chunks_exact(cols).map(move |weight| of(x, weight))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packing_keeps_every_number(cases in cases()) {
        for case in cases {
            let packed = Packed::new(case.kind, &case.stored, case.cols, &Pool::new(Some(2)).unwrap());
            let mut row = vec![0.0; case.cols];
            for (nth, wanted) in case.widened().chunks_exact(case.cols).enumerate() {
                packed.widen(nth, &mut row);
                for (ours, wanted) in row.iter().zip(wanted) {
                    prop_assert!((ours - wanted).abs() <= wanted.abs() * 1e-6 + 1e-6, "{:?}: {ours} {wanted}", case.kind);
                }
            }
        }
    }

    #[test]
    fn sets_agree_on_rounded_activations_and_stay_near_the_exact_ones(cases in cases()) {
        for case in cases {
            let exact = magnitudes(&case.widened(), &case.x, case.cols);
            let reference = scalar::kernels();
            for threads in [1, 3] {
                let pool = Pool::new(Some(threads)).unwrap();
                let packed = Packed::new(case.kind, &case.stored, case.cols, &pool);
                let wanted = rounded_product((&reference, &pool), &case.x, &RoundedRows::default(), &packed);
                for set in sets() {
                    let ours = rounded_product((&set, &pool), &case.x, &RoundedRows::default(), &packed);
                    prop_assert_eq!(ours.len(), exact.len());
                    for ((ours, wanted), (exact, terms)) in ours.iter().zip(&wanted).zip(&exact) {
                        // Offsets can be as large as the numbers they move, and cancel them.
                        prop_assert!((ours - wanted).abs() <= 1e-4 * terms + 1e-3, "{}: {ours} {wanted}", set.name);
                        prop_assert!((ours - exact).abs() <= 0.02 * terms + 0.05, "{}: {ours} {exact}", set.name);
                    }
                }
            }
        }
    }

    #[test]
    fn sets_agree_on_activations_as_they_are(cases in cases()) {
        for case in cases {
            let exact = magnitudes(&case.widened(), &case.x, case.cols);
            let pool = Pool::new(Some(2)).unwrap();
            let packed = Packed::new(case.kind, &case.stored, case.cols, &pool);
            for set in sets() {
                let ours = matmul((&set, &pool), &case.x, Operand::Packed(&packed), case.cols);
                for (ours, (exact, terms)) in ours.iter().zip(&exact) {
                    prop_assert!((ours - exact).abs() <= 1e-5 * terms + 1e-3, "{}: {ours} {exact}", set.name);
                }
            }
        }
    }

    #[test]
    fn sets_agree_on_what_lies_between_two_products(len in 1usize..300, seed in any::<u64>(), slope in 0f32..1.0) {
        let numbers = noise(2 * len, seed);
        let (x, up) = numbers.split_at(len);
        let reference = scalar::kernels();
        let all = |set: &Kernels| {
            let mut results = [x.to_vec(), x.to_vec(), x.to_vec()];
            let [weights, gated, curved] = &mut results;
            (set.soften)(weights, 3.0, slope);
            (set.gate)(gated, up);
            (set.gelu)(curved);
            results.concat()
        };
        for set in sets() {
            for (ours, wanted) in all(&set).into_iter().zip(all(&reference)) {
                prop_assert!((ours - wanted).abs() <= 2e-6, "{}: {ours} {wanted}", set.name);
            }
        }
    }

    #[test]
    fn sets_agree_on_keys_and_values_of_every_type(
        (width, len, heads) in (1usize..150, 1usize..70, 1usize..10), seed in any::<u64>()
    ) {
        let numbers = noise(len * width, seed);
        let bits: Vec<u16> = numbers.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
        let whole: Vec<i8> = numbers.iter().map(|x| (x * 127.0) as i8).collect();
        let (scales, query, weights) = (noise(len, seed ^ 1), noise(width, seed ^ 2), noise(heads * len, seed ^ 3));
        for vectors in [Vectors::F32(&numbers), Vectors::Bf16(&bits), Vectors::Q8(&whole, &scales)] {
            let mut widened = Vec::new();
            vectors.widen(&mut widened);
            let products = magnitudes(&widened, &query, width);
            let columns: Vec<f32> = (0..width).flat_map(|col| widened[col..].iter().step_by(width).copied()).collect();
            for set in sets() {
                let mut scores = vec![0.0; len];
                vectors.scores(&set, &query, &mut scores);
                for (ours, (exact, terms)) in scores.iter().zip(&products) {
                    prop_assert!((ours - exact).abs() <= 1e-5 * terms, "{}: {ours} {exact}", set.name);
                }
                // Each of several heads gets what it would get alone, on top of what is there.
                let alone = |weights: &[f32]| {
                    let mut mixed = vec![1.0; width];
                    vectors.mix(&set, &mut weights.to_vec(), len, width, &mut mixed);
                    mixed
                };
                let mut mixed = vec![1.0; heads * width];
                vectors.mix(&set, &mut weights.clone(), len, width, &mut mixed);
                for (mixed, weights) in mixed.chunks_exact(width).zip(weights.chunks_exact(len)) {
                    prop_assert_eq!(mixed, &alone(weights), "{}", set.name);
                    for (ours, (exact, terms)) in mixed.iter().zip(magnitudes(&columns, weights, len)) {
                        prop_assert!((ours - 1.0 - exact).abs() <= 1e-5 * (terms + 1.0), "{}: {ours} {exact}", set.name);
                    }
                }
            }
        }
    }

    #[test]
    fn sets_round_alike(cases in cases()) {
        for case in cases {
            let wanted = (scalar::kernels().round)(&case.x, case.cols);
            for set in sets() {
                let ours = (set.round)(&case.x, case.cols);
                prop_assert_eq!(ours.rows, wanted.rows);
                prop_assert_eq!(&ours.numbers, &wanted.numbers);
                for (ours, wanted) in ours.groups.iter().zip(&wanted.groups) {
                    prop_assert_eq!((ours.scale, ours.sum, ours.negated), (wanted.scale, wanted.sum, wanted.negated));
                }
            }
        }
    }

    #[test]
    fn sets_agree_on_wide_weights(
        (rows, cols, many) in (1usize..100, 1usize..150, 1usize..40), seed in any::<u64>()
    ) {
        let (weights, x) = (noise(rows * cols, seed), noise(many * cols, seed ^ 1));
        let wide: Vec<u16> = weights.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
        let half: Vec<u16> = weights.iter().map(|x| half::f16::from_f32(*x).to_bits()).collect();
        let pool = Pool::new(Some(2)).unwrap();
        let widened = |bits: &[u16], widen: fn(u16) -> f32| bits.iter().map(|bits| widen(*bits)).collect::<Vec<f32>>();
        for (operand, widened) in [
            (Operand::F32(&weights), weights.clone()),
            (Operand::Bf16(&wide), widened(&wide, bf16)),
            (Operand::F16(&half), widened(&half, f16)),
        ] {
            let exact = magnitudes(&widened, &x, cols);
            for set in sets() {
                let ours = matmul((&set, &pool), &x, operand, cols);
                prop_assert_eq!(ours.len(), exact.len());
                for (ours, (exact, terms)) in ours.iter().zip(&exact) {
                    prop_assert!((ours - exact).abs() <= 1e-5 * terms, "{}: {ours} {exact}", set.name);
                }
            }
        }
    }

    #[test]
    fn a_row_among_a_few_has_the_products_it_has_alone(
        (rows, cols, many) in (1usize..70, 1usize..150, 1usize..=SEVERAL), seed in any::<u64>()
    ) {
        let (weights, x) = (noise(rows * cols, seed), noise(many * cols, seed ^ 1));
        let bits: Vec<u16> = weights.iter().map(|x| half::f16::from_f32(*x).to_bits()).collect();
        let pool = Pool::new(Some(2)).unwrap();
        let all: Vec<u32> = (0..rows as u32).rev().collect();
        for set in sets() {
            for operand in [Operand::F32(&weights), Operand::Bf16(&bits), Operand::F16(&bits)] {
                let together = matmul((&set, &pool), &x, operand, cols);
                for (x, together) in x.chunks_exact(cols).zip(together.chunks_exact(rows)) {
                    let alone = matmul((&set, &pool), x, operand, cols);
                    let mut single = match operand {
                        Operand::F32(numbers) => some_products(&pool, x, numbers, set.dot, &all),
                        Operand::Bf16(bits) => some_products(&pool, x, bits, set.dot_bf16, &all),
                        Operand::F16(bits) => some_products(&pool, x, bits, set.dot_f16, &all),
                        Operand::Packed(_) => Vec::new(),
                    };
                    single.reverse();
                    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(together), bits(&alone), "{}", set.name);
                    prop_assert_eq!(bits(&single), bits(&alone), "{}", set.name);
                }
            }
        }
    }

    #[test]
    fn sets_agree_on_whole_numbers_to_the_last_bit(
        lines in prop_oneof![0usize..9, 60usize..70, 126usize..132, Just(300)], seed in any::<u64>(), largest in any::<bool>()
    ) {
        let quads = bytes(64 * lines, seed);
        let quad = |at: usize| if largest { u32::MAX } else { u32::from_le_bytes(quads.as_chunks::<4>().0[at]) };
        let rows: Vec<Line> = (0..lines).map(|line| Line(std::array::from_fn(|r| quad(16 * line + r)))).collect();
        let number = |number: f32| if largest { MOST } else { ((number * 32768.0) as i16).clamp(-MOST, MOST) };
        let x = noise((4 * lines).saturating_sub(seed as usize % 4), seed ^ 1);
        let x: Vec<i16> = x.into_iter().map(number).collect();
        let by_hand = |r: usize| {
            let of = |at: usize| i64::from(rows[at / 4].0[r].to_le_bytes()[at % 4]) - i64::from(ZERO);
            x.iter().enumerate().map(|(at, x)| of(at) * i64::from(*x)).sum::<i64>()
        };
        let (planes, wanted) = (Planes::new(&x), std::array::from_fn(by_hand));
        for set in sets() {
            prop_assert_eq!((set.planes)(&rows, &planes), wanted, "{}", set.name);
        }
    }

    #[test]
    fn sets_stay_near_exact_products_of_nibbles(
        groups in prop_oneof![1usize..10, 30usize..40], seed in any::<u64>(), largest in any::<bool>()
    ) {
        let count = groups * GROUP_LINES + groups.div_ceil(SPAN);
        let quads = bytes(64 * count, seed);
        let quad = |at: usize| if largest { u32::MAX } else { u32::from_le_bytes(quads.as_chunks::<4>().0[at]) };
        let lines: Vec<Line> = (0..count).map(|line| Line(std::array::from_fn(|r| quad(16 * line + r)))).collect();
        let number = |number: f32| if largest { MOST } else { ((number * 32768.0) as i16).clamp(-MOST, MOST) };
        let x: Vec<i16> = noise(GROUP * groups, seed ^ 1).into_iter().map(number).collect();
        let zero = 7.0 + f64::from(seed as u8) / 256.0;
        let less = |x: &[i16]| zero * x.iter().map(|x| f64::from(*x)).sum::<f64>();
        let square = |x: &[i16]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let of_groups: Vec<NibbleGroup> =
            x.chunks(GROUP).map(|x| NibbleGroup { less: less(x) as f32, square: square(x) as f32 }).collect();
        let by_hand = |r: usize| {
            let mut sums = [0f64; 2];
            for (nth, x) in x.chunks(GROUP).enumerate() {
                let first = nth / SPAN * (1 + SPAN * GROUP_LINES);
                let scale = f64::from(lines[first].0[r].to_le_bytes()[nth % SPAN]);
                let own = &lines[first + 1 + nth % SPAN * GROUP_LINES..][..GROUP_LINES];
                let number = |at: usize| f64::from(own[at / 8].0[r].to_le_bytes()[at % 4] >> (4 * (at / 4 % 2)) & 15);
                let product = x.iter().enumerate().map(|(at, x)| number(at) * f64::from(*x)).sum::<f64>();
                sums[0] += scale * (product - less(x));
                sums[1] += scale * scale * square(x);
            }
            sums
        };
        for set in sets() {
            let found = (set.nibbles)(&lines, &Planes::new(&x), &of_groups);
            for (r, (product, square)) in found.products.into_iter().zip(found.squares).enumerate() {
                let [wanted, exact] = by_hand(r);
                let off = crumbs(groups) * exact.sqrt() * 1.001;
                prop_assert!((f64::from(product) - wanted).abs() <= off, "{}: {product} {wanted} {off}", set.name);
                prop_assert!((f64::from(square) / exact - 1.0).abs() < 1e-5 || exact == 0.0, "{}: {square} {exact}", set.name);
            }
        }
    }

    #[test]
    fn activations_are_grouped_to_the_bit(
        (pairs, many) in (1usize..70, 1usize..=LANES), seed in any::<u64>(), odd in any::<[u32; 4]>()
    ) {
        let mut x = noise(many * 2 * pairs, seed);
        // Numbers of any kind, and some that are none.
        let kinds = odd.into_iter().chain([0x7f80_0001, 0xff80_0000, 0x7f7f_ffff, 0x0000_8001, 0x8000_0000]);
        for (nth, bits) in kinds.enumerate() {
            let place = (nth * 7919 + seed as usize % 97) % x.len();
            x[place] = f32::from_bits(bits);
        }
        let mut wanted = vec![[0f32; LANES]; pairs];
        narrow::group(&x, 2 * pairs, &mut wanted);
        for narrow in sets().iter().filter_map(|set| set.narrow) {
            let mut ours = vec![[0f32; LANES]; pairs];
            (narrow.group)(&x, 2 * pairs, &mut ours);
            let bits = |groups: &[[f32; LANES]]| groups.as_flattened().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&ours), bits(&wanted));
        }
    }

    #[test]
    fn narrow_products_are_those_of_rounded_numbers(
        (rows, pairs, many) in (1usize..100, 1usize..70, 1usize..40), seed in any::<u64>()
    ) {
        let cols = 2 * pairs;
        let rounded = |x: &f32| half::bf16::from_f32(*x);
        let bits: Vec<u16> = noise(rows * cols, seed).iter().map(|x| rounded(x).to_bits()).collect();
        let x = noise(many * cols, seed ^ 1);
        let widened: Vec<f32> = bits.iter().map(|bits| bf16(*bits)).collect();
        let exact = magnitudes(&widened, &x.iter().map(|x| rounded(x).to_f32()).collect::<Vec<_>>(), cols);
        for set in sets().iter().filter(|set| set.narrow.is_some()) {
            for threads in [1, 3] {
                let ours = narrow_product((set, &Pool::new(Some(threads)).unwrap()), &x, &RoundedRows::default(), &bits, cols);
                prop_assert_eq!(ours.len(), exact.len());
                for (ours, (exact, terms)) in ours.iter().zip(&exact) {
                    prop_assert!((ours - exact).abs() <= 1e-5 * terms, "{ours} {exact}");
                }
            }
        }
    }
}
