//! What the screen finds is what computing all rows gives, to the bit.

mod draws;

use proptest::prelude::*;

use super::*;
use crate::cpu::kernels::{self, kernel_sets};
use corolla_domain::fit;

/// A head in bf16 and one row of activations.
#[derive(Debug, Clone)]
struct Case {
    bits: Vec<u16>,
    cols: usize,
    x: Vec<f32>,
}

/// How rows and activations come about.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Numbers without a pattern.
    Noise,
    /// Every row some times.
    Doubles,
    /// Rows that differ from one another in one number, by as little as possible.
    Neighbours,
    /// Rows and activations of every size there is, up to sums that overflow.
    Sizes,
    /// Rows of small whole numbers: many scores are equal without the rows being so.
    Grid,
    /// One number is far larger than all others.
    Outlier,
    /// Nothing but zeros, but for one number.
    Zeros,
}

const KINDS: [Kind; 7] =
    [Kind::Noise, Kind::Doubles, Kind::Neighbours, Kind::Sizes, Kind::Grid, Kind::Outlier, Kind::Zeros];

impl Case {
    fn new(kind: Kind, [rows, cols]: [usize; 2], seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut weights: Vec<f32> = (0..rows * cols).map(|_| next()).collect();
        let mut x: Vec<f32> = (0..cols).map(|_| next()).collect();
        match kind {
            Kind::Noise => {}
            Kind::Doubles => {
                for row in 0..rows {
                    let like = row / 5 * cols;
                    weights.copy_within(like..like + cols, row * cols);
                }
            }
            Kind::Neighbours => {
                for row in 1..rows {
                    weights.copy_within(..cols, row * cols);
                    weights[row * cols + row % cols] *= 1.0 + 0.004 * next();
                }
            }
            Kind::Sizes => {
                for row in weights.chunks_exact_mut(cols) {
                    let size = (next() * 125.0).exp2();
                    row.iter_mut().for_each(|w| *w *= size);
                }
                let size = (next() * 126.0).exp2();
                x.iter_mut().for_each(|x| *x *= size);
            }
            Kind::Grid => {
                weights.iter_mut().for_each(|w| *w = (*w * 2.5).round());
                x.iter_mut().for_each(|x| *x = (*x * 2.5).round());
            }
            Kind::Outlier => {
                x[cols / 2] = 1e4;
                weights.chunks_exact_mut(cols).for_each(|row| row[cols - 1] *= 300.0);
            }
            Kind::Zeros => {
                weights.fill(0.0);
                weights[rows / 2 * cols] = next();
                x[cols - 1] = 0.0;
            }
        }
        let bits = weights.iter().map(|w| half::bf16::from_f32(*w).to_bits()).collect();
        Self { bits, cols, x }
    }

    fn rows(&self) -> usize {
        self.bits.len() / self.cols
    }

    fn screen(&self, pool: &Pool, form: fit::Screen) -> Screen {
        let widen = |row: usize, numbers: &mut [f32]| {
            let bits = &self.bits[row * self.cols..];
            numbers.iter_mut().zip(bits).for_each(|(number, bits)| *number = kernels::bf16(*bits));
        };
        Screen::new(Shape { rows: self.rows(), cols: self.cols, form }, None, pool, widen).unwrap()
    }

    fn score(&self, set: &Kernels, row: u32) -> f32 {
        (set.dot_bf16)(&self.bits[row as usize * self.cols..][..self.cols], &self.x)
    }

    /// What computing all rows gives.
    fn by_hand(&self, set: &Kernels, k: usize) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = (0..self.rows() as u32).map(|row| (row, self.score(set, row))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all.sort_by_key(|(row, _)| *row);
        all
    }

    fn screened(&self, (set, pool): (&Kernels, &Pool), screen: &Screen, k: usize) -> Option<Vec<(u32, f32)>> {
        let exact = |_: usize, rows: &[u32]| rows.iter().map(|row| self.score(set, *row)).collect();
        let mut found = screen.best((set, pool), &self.x, &[&top(k)], exact).unwrap().remove(0)?;
        found.sort_by_key(|(row, _)| *row);
        Some(found)
    }
}

fn form() -> impl Strategy<Value = fit::Screen> {
    prop::sample::select(&fit::Screen::ALL[..])
}

fn top(k: usize) -> Want {
    Want::Top { k, also: Vec::new() }
}

fn sets() -> Vec<Kernels> {
    let named = |name: &&str| fit::Kernels::ALL.into_iter().find(|set| set.name() == *name);
    kernel_sets().iter().map(|name| kernels::kernels(named(name)).unwrap()).collect()
}

/// The bits: NaN is equal to itself, and 0 not to -0.
fn bits(found: &[(u32, f32)]) -> Vec<(u32, u32)> {
    found.iter().map(|(row, score)| (*row, score.to_bits())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_found_is_what_all_rows_give(
        kind in prop::sample::select(&KINDS[..]), form in form(), rows in 1usize..300, cols in 1usize..300,
        k in 1usize..12, seed: u64
    ) {
        let case = Case::new(kind, [rows, cols], seed);
        for (set, threads) in sets().iter().zip([1, 2].into_iter().cycle()) {
            let pool = Pool::new(Some(threads)).unwrap();
            let screen = case.screen(&pool, form);
            let all = screen.bounds((set, &pool), &[screen.activations(&case.x).unwrap()]);
            let exact = |rows: &[u32]| rows.iter().map(|row| case.score(set, *row)).collect();
            let found = highest(RowBounds::new(&all, (0, 1), rows), k, rows, exact);
            let mut best = found.map_err(|doubt| TestCaseError::fail(format!("{} {kind:?}: {doubt:?}", set.name)))?.best;
            best.sort_by_key(|(row, _)| *row);
            prop_assert_eq!(bits(&best), bits(&case.by_hand(set, k)), "{} {:?}", set.name, kind);
        }
    }

    #[test]
    fn every_exact_score_is_within_its_bounds(
        kind in prop::sample::select(&KINDS[..]), form in form(), rows in 1usize..60, cols in 1usize..700, seed: u64
    ) {
        let case = Case::new(kind, [rows, cols], seed);
        let pool = Pool::new(Some(1)).unwrap();
        let screen = case.screen(&pool, form);
        for set in sets() {
            let all = screen.bounds((&set, &pool), &[screen.activations(&case.x).unwrap()]);
            let view = RowBounds::new(&all, (0, 1), rows);
            for row in 0..rows as u32 {
                let (score, (lower, upper)) = (case.score(&set, row), view.of(row));
                prop_assert!(!(score < lower || score > upper), "{}: {} < {} < {}", set.name, lower, score, upper);
            }
        }
    }
}

/// A head in which one row answers.
fn clear(answer: usize) -> Case {
    let mut case = Case::new(Kind::Noise, [4000, 64], 7);
    case.x = case.bits[answer * 64..][..64].iter().map(|bits| kernels::bf16(*bits)).collect();
    case
}

#[test]
fn few_rows_are_computed_where_one_stands_out() {
    let pool = Pool::new(Some(2)).unwrap();
    for (set, form) in sets().into_iter().flat_map(|set| fit::Screen::ALL.map(|form| (set, form))) {
        let case = clear(1234);
        let screen = case.screen(&pool, form);
        let found = case.screened((&set, &pool), &screen, 1).unwrap();
        assert_eq!(bits(&found), bits(&case.by_hand(&set, 1)));
        assert_eq!(found[0].0, 1234);
        assert_eq!(screen.counted(), [1, 1, 0], "{} {form}", set.name);
    }
}

#[test]
fn rows_of_activations_are_answered_each_by_itself() {
    let (set, pool) = (sets()[0], Pool::new(Some(2)).unwrap());
    let cases = [clear(3), clear(3999), clear(17)];
    let x: Vec<f32> = cases.iter().flat_map(|case| case.x.clone()).collect();
    let exact = |nth: usize, rows: &[u32]| rows.iter().map(|row| cases[nth].score(&set, *row)).collect();
    let wants = [1, 4, 2].map(top);
    for form in fit::Screen::ALL {
        let found = cases[0].screen(&pool, form).best((&set, &pool), &x, &wants.each_ref(), exact).unwrap();
        for ((case, found), k) in cases.iter().zip(found).zip([1, 4, 2]) {
            let mut found = found.unwrap();
            found.sort_by_key(|(row, _)| *row);
            assert_eq!(bits(&found), bits(&case.by_hand(&set, k)), "{form}");
        }
    }
}

#[test]
fn where_all_rows_are_alike_all_are_computed() {
    let (set, pool) = (sets()[0], Pool::new(Some(2)).unwrap());
    let mut case = clear(3);
    case.x.fill(0.0);
    for form in fit::Screen::ALL {
        let screen = case.screen(&pool, form);
        assert_eq!(case.screened((&set, &pool), &screen, 1), None);
        assert_eq!(screen.counted(), [1, 0, 1], "{form}");
        assert_eq!(screen.most(), 500, "the next position is screened again");
    }
}

#[test]
fn a_screen_of_other_weights_is_found_out_and_not_used_again() {
    let (set, pool) = (sets()[0], Pool::new(Some(2)).unwrap());
    let case = clear(1234);
    for form in fit::Screen::ALL {
        let screen = case.screen(&pool, form);
        let exact = |_: usize, rows: &[u32]| rows.iter().map(|row| case.score(&set, *row) / 2.0).collect();
        assert_eq!(screen.best((&set, &pool), &case.x, &[&top(1)], exact).unwrap(), [None]);
        assert_eq!(screen.most(), 0, "{form}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let (set, pool) = (sets()[0], Pool::new(Some(2)).unwrap());
    let mut case = clear(5);
    let screen = case.screen(&pool, fit::Screen::Int4);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        case.x[9] = odd;
        let error = screen.best((&set, &pool), &case.x, &[&top(1)], |_, _| Vec::new()).unwrap_err();
        assert!(error.context().contains("hidden states are not finite"), "{error}");
        let widen = |row: usize, numbers: &mut [f32]| numbers.fill(if row == 77 { odd } else { 1.0 });
        for form in fit::Screen::ALL {
            let error = Screen::new(Shape { rows: 100, cols: 8, form }, None, &pool, widen).err().unwrap();
            assert!(error.context().contains("row 77 of the head"), "{form}: {error}");
        }
    }
}

#[test]
fn errors_of_4_bits_are_as_large_as_chance_has_them_and_not_larger() {
    let pool = Pool::new(Some(2)).unwrap();
    let case = Case::new(Kind::Noise, [2000, 1000], 5);
    let screen = case.screen(&pool, fit::Screen::Int4);
    let x = screen.activations(&case.x).unwrap();
    // What is lost of noise in 4 bits, a fifteenth of 2 and uniform, beside the length of activations.
    let length = case.x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let deviation = 2.0 / 15.0 / 12f64.sqrt() * length;
    for set in sets() {
        let bounds = screen.bounds((&set, &pool), std::slice::from_ref(&x));
        let view = RowBounds::new(&bounds, (0, 1), case.rows());
        let of_row = |row: u32| {
            let (lower, upper) = view.of(row);
            let middle = (f64::from(lower) + f64::from(upper)) / 2.0;
            [(f64::from(case.score(&set, row)) - middle) / deviation, f64::from(upper - lower) / 2.0 / deviation]
        };
        let all: Vec<[f64; 2]> = (0..case.rows() as u32).map(of_row).collect();
        let root = (all.iter().map(|[off, _]| off * off).sum::<f64>() / case.rows() as f64).sqrt();
        assert!((0.85..1.1).contains(&root), "{}: {root} deviations", set.name);
        for [off, bound] in all {
            assert!(off.abs() < 6.0 && (8.0..12.0).contains(&bound), "{}: {off} of {bound}", set.name);
        }
    }
}
