//! Matrix products of f32 and 16-bit weights, built from the kernels (few rows) and from the `gemm` crate (many rows).
#![allow(unsafe_code)]

use gemm::Parallelism;

use super::{
    Kernels, Packed, bf16, f16, parts,
    several::{self, SEVERAL, TASK},
};
use crate::cpu::pool::Pool;

/// Up to this many rows of activations, quantised weights are not widened once for all of them: a guess.
const FEW: usize = 4;
/// Numbers of weights that one task widens where there are many rows: they stay in the second-level cache of
/// most processors.
const PANEL: usize = 1 << 17;

/// The weights of a product, row-major.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bf16 bits.
    Bf16(&'a [u16]),
    /// f16 bits.
    F16(&'a [u16]),
    /// Quantised.
    Packed(&'a Packed),
}

/// `x` of shape `[m, cols]` times the transpose of `weight` of shape `[rows, cols]`, activations as they are: `[m, rows]`.
pub(crate) fn matmul((kernels, pool): (&Kernels, &Pool), x: &[f32], weight: Operand<'_>, cols: usize) -> Vec<f32> {
    let many = x.len() / cols;
    match weight {
        Operand::F32(weight) if many <= SEVERAL => several::lone_products(pool, x, weight, cols, kernels.several_f32),
        Operand::Bf16(bits) if many <= SEVERAL => several::lone_products(pool, x, bits, cols, kernels.several_bf16),
        Operand::F16(bits) if many <= SEVERAL => several::lone_products(pool, x, bits, cols, kernels.several_f16),
        Operand::Packed(packed) if many <= FEW => super::exact_product((kernels, pool), x, packed),
        Operand::F32(weight) => {
            let panel = |from: usize, to: usize| Panel::Borrowed(&weight[from * cols..to * cols]);
            by_panels(pool, x, weight.len() / cols, cols, panel)
        }
        Operand::Bf16(bits) => widened(pool, x, bits, cols, bf16),
        Operand::F16(bits) => widened(pool, x, bits, cols, f16),
        Operand::Packed(packed) => by_panels(pool, x, packed.rows, cols, |from, to| {
            let mut numbers = vec![0f32; (to - from) * cols];
            numbers.chunks_exact_mut(cols).enumerate().for_each(|(nth, row)| packed.widen(from + nth, row));
            Panel::Owned(numbers)
        }),
    }
}

/// Products of one row of activations with those rows of `weight` alone: the same numbers, to the bit, as
/// [`several::lone_products`] has.
pub(crate) fn some_products<T: Sync>(
    pool: &Pool,
    x: &[f32],
    weight: &[T],
    dot: fn(&[T], &[f32]) -> f32,
    rows: &[u32],
) -> Vec<f32> {
    let (cols, step) = (x.len(), (TASK / x.len()).max(1));
    let mut products = vec![0f32; rows.len()];
    pool.each(products.chunks_mut(step).zip(rows.chunks(step)), |_, (products, rows)| {
        for (product, row) in products.iter_mut().zip(rows) {
            *product = dot(&weight[*row as usize * cols..][..cols], x);
        }
    });
    products
}

enum Panel<'a> {
    Borrowed(&'a [f32]),
    Owned(Vec<f32>),
}

fn widened(pool: &Pool, x: &[f32], bits: &[u16], cols: usize, widen: fn(u16) -> f32) -> Vec<f32> {
    by_panels(pool, x, bits.len() / cols, cols, |from, to| {
        Panel::Owned(bits[from * cols..to * cols].iter().map(|b| widen(*b)).collect())
    })
}

/// Many rows: `panel(from, to)` gives weight rows in f32, and gemm multiplies each panel with all activations.
fn by_panels<'a>(
    pool: &Pool,
    x: &[f32],
    rows: usize,
    cols: usize,
    panel: impl Fn(usize, usize) -> Panel<'a> + Sync,
) -> Vec<f32> {
    let many = x.len() / cols;
    // At least a panel for each thread, at most what the cache holds, and no less than pays.
    let step = (PANEL / cols).min(rows.div_ceil(pool.threads())).max(16).min(rows).max(1);
    let mut products = parts::place((many, rows), step);
    pool.each(products.chunks_exact_mut(step * many), |task, products| {
        let (from, to) = (task * step, rows.min((task + 1) * step));
        let panel = panel(from, to);
        let weight = match &panel {
            Panel::Borrowed(weight) => weight,
            Panel::Owned(weight) => &weight[..],
        };
        product_into(
            (many, to - from, cols),
            (x, Strided { first: 0, row: cols, col: 1 }),
            (weight, Strided { first: 0, row: 1, col: cols }),
            (products, Strided { first: 0, row: step, col: 1 }),
        );
    });
    parts::together(pool, products, (many, rows), step)
}

/// Where the numbers of a matrix stand in a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strided {
    /// Index of the first number.
    pub first: usize,
    /// From a number to the one below it.
    pub row: usize,
    /// From a number to the one right of it.
    pub col: usize,
}

impl Strided {
    /// Panics where a `rows` x `cols` matrix would leave a slice of `len` numbers.
    fn check(self, rows: usize, cols: usize, len: usize) {
        let last = rows
            .checked_sub(1)
            .and_then(|r| r.checked_mul(self.row))
            .zip(cols.checked_sub(1).and_then(|c| c.checked_mul(self.col)))
            .and_then(|(r, c)| r.checked_add(c)?.checked_add(self.first));
        assert!(last.is_some_and(|last| last < len), "a {rows} x {cols} matrix leaves its slice of {len} numbers");
    }
}

/// `out = a * b`, on the calling thread, for an m x k matrix and a k x n matrix.
pub(crate) fn product_into(
    sides: (usize, usize, usize),
    a: (&[f32], Strided),
    b: (&[f32], Strided),
    out: (&mut [f32], Strided),
) {
    multiply(sides, a, b, out, false);
}

/// `out += a * b`, likewise.
pub(crate) fn add_product(
    sides: (usize, usize, usize),
    a: (&[f32], Strided),
    b: (&[f32], Strided),
    out: (&mut [f32], Strided),
) {
    multiply(sides, a, b, out, true);
}

fn multiply(
    (m, n, k): (usize, usize, usize),
    (a, at_a): (&[f32], Strided),
    (b, at_b): (&[f32], Strided),
    (out, at_out): (&mut [f32], Strided),
    add: bool,
) {
    at_a.check(m, k, a.len());
    at_b.check(k, n, b.len());
    at_out.check(m, n, out.len());
    // SAFETY: gemm reads the k numbers of each of m rows of `a` and n columns of `b`, and reads and writes m x n numbers of
    // `out`, at the places the strides say; all of them were just found inside the slices. `out` is borrowed mutably,
    // so it overlaps neither. Strides are slice indices, so they fit an isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().add(at_out.first),
            at_out.col as isize,
            at_out.row as isize,
            add,
            a.as_ptr().add(at_a.first),
            at_a.col as isize,
            at_a.row as isize,
            b.as_ptr().add(at_b.first),
            at_b.col as isize,
            at_b.row as isize,
            if add { 1.0f32 } else { 0.0 },
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
