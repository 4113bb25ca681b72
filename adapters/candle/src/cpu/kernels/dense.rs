//! Matrix products built from the kernels (few rows) and from the `gemm` crate (many rows).
#![allow(unsafe_code)]

use gemm::Parallelism;
use rayon::prelude::*;

use super::{BlockType, Kernels, bf16, f16};

/// Up to this many rows of activations, each weight row is multiplied with each of them; above, gemm's blocking pays.
const FEW: usize = 4;
/// Weight rows that one task takes.
const TASK_ROWS: usize = 64;
/// Products of fewer numbers than this are not worth waking another thread for.
const ALONE: usize = 1 << 16;
/// Numbers of half precision widened at a time: they stay in the second-level cache.
const PANEL: usize = 1 << 18;

/// The weights of a product, row-major.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bf16 bits.
    Bf16(&'a [u16]),
    /// f16 bits.
    F16(&'a [u16]),
    /// Blocks of a ggml type.
    Blocks(BlockType, &'a [u8]),
}

/// `x` of shape `[m, cols]` times the transpose of `weight` of shape `[rows, cols]`: `[m, rows]`.
pub(crate) fn matmul(kernels: &Kernels, x: &[f32], weight: Operand<'_>, cols: usize) -> Vec<f32> {
    let many = x.len() / cols;
    if many > FEW {
        return match weight {
            Operand::F32(weight) => {
                gemm_panels(x, weight.len() / cols, cols, |from, to| Panel::Borrowed(&weight[from * cols..to * cols]))
            }
            Operand::Bf16(bits) => widened_panels(x, bits, cols, bf16),
            Operand::F16(bits) => widened_panels(x, bits, cols, f16),
            Operand::Blocks(kind, bytes) => {
                let row = kind.bytes(cols);
                gemm_panels(x, bytes.len() / row, cols, |from, to| {
                    let mut numbers = vec![0f32; (to - from) * cols];
                    let rows = bytes[from * row..to * row].par_chunks(TASK_ROWS * row);
                    rows.zip(numbers.par_chunks_mut(TASK_ROWS * cols))
                        .for_each(|(bytes, numbers)| (kernels.widen)(kind, bytes, numbers));
                    Panel::Owned(numbers)
                })
            }
        };
    }
    match weight {
        Operand::F32(weight) => by_rows(x, weight, cols, kernels.dot),
        Operand::Bf16(bits) => by_rows(x, bits, cols, kernels.dot_bf16),
        Operand::F16(bits) => by_rows(x, bits, cols, kernels.dot_f16),
        Operand::Blocks(kind, bytes) => {
            let row = kind.bytes(cols);
            by_tasks(x, bytes.len() / row, cols, |from, products| {
                let mut numbers = vec![0f32; cols];
                let many = x.len() / cols;
                for (nth, products) in products.chunks_exact_mut(many).enumerate() {
                    let bytes = &bytes[(from + nth) * row..][..row];
                    (kernels.widen)(kind, bytes, &mut numbers);
                    x.chunks_exact(cols).zip(products).for_each(|(x, product)| *product = (kernels.dot)(&numbers, x));
                }
            })
        }
    }
}

/// Few rows: one dot product for each weight row and each row of `x`.
fn by_rows<T: Sync>(x: &[f32], weight: &[T], cols: usize, dot: fn(&[T], &[f32]) -> f32) -> Vec<f32> {
    by_tasks(x, weight.len() / cols, cols, |from, products| {
        let weights = weight[from * cols..].chunks_exact(cols);
        for (weight, products) in weights.zip(products.chunks_exact_mut(x.len() / cols)) {
            x.chunks_exact(cols).zip(products).for_each(|(x, product)| *product = dot(weight, x));
        }
    })
}

/// `task(from, products)` fills the products of some weight rows from `from` on, those of one weight row side by side:
/// so tasks write to places of their own.
fn by_tasks(x: &[f32], rows: usize, cols: usize, task: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let many = x.len() / cols;
    let mut products = vec![0f32; many * rows];
    if rows * cols < ALONE {
        task(0, &mut products);
    } else {
        let tasks = products.par_chunks_mut(TASK_ROWS * many).enumerate();
        tasks.for_each(|(nth, products)| task(nth * TASK_ROWS, products));
    }
    if many == 1 {
        return products;
    }
    (0..many * rows).map(|i| products[i % rows * many + i / rows]).collect()
}

enum Panel<'a> {
    Borrowed(&'a [f32]),
    Owned(Vec<f32>),
}

fn widened_panels(x: &[f32], bits: &[u16], cols: usize, widen: fn(u16) -> f32) -> Vec<f32> {
    gemm_panels(x, bits.len() / cols, cols, |from, to| {
        Panel::Owned(bits[from * cols..to * cols].iter().map(|b| widen(*b)).collect())
    })
}

/// Many rows: `panel(from, to)` gives weight rows in f32, and gemm multiplies one panel after the other on all threads.
fn gemm_panels<'a>(x: &[f32], rows: usize, cols: usize, panel: impl Fn(usize, usize) -> Panel<'a>) -> Vec<f32> {
    let many = x.len() / cols;
    let mut product = vec![0f32; many * rows];
    let step = match panel(0, 0) {
        Panel::Borrowed(_) => rows,
        Panel::Owned(_) => (PANEL / cols).max(TASK_ROWS),
    };
    for from in (0..rows).step_by(step.max(1)) {
        let to = (from + step).min(rows);
        let panel = panel(from, to);
        let weight = match &panel {
            Panel::Borrowed(weight) => weight,
            Panel::Owned(weight) => &weight[..],
        };
        let out = Strided { first: from, row: rows, col: 1 };
        let parallelism = Parallelism::Rayon(rayon::current_num_threads());
        product_into(
            (many, to - from, cols),
            (x, Strided { first: 0, row: cols, col: 1 }),
            (weight, Strided { first: 0, row: 1, col: cols }),
            (&mut product, out),
            parallelism,
        );
    }
    product
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

/// `out = a * b` for an m x k matrix and a k x n matrix.
pub(crate) fn product_into(
    (m, n, k): (usize, usize, usize),
    (a, at_a): (&[f32], Strided),
    (b, at_b): (&[f32], Strided),
    (out, at_out): (&mut [f32], Strided),
    parallelism: Parallelism,
) {
    at_a.check(m, k, a.len());
    at_b.check(k, n, b.len());
    at_out.check(m, n, out.len());
    // SAFETY: gemm reads the k numbers of each of m rows of `a` and n columns of `b`, and writes m x n numbers of
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
            false,
            a.as_ptr().add(at_a.first),
            at_a.col as isize,
            at_a.row as isize,
            b.as_ptr().add(at_b.first),
            at_b.col as isize,
            at_b.row as isize,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
