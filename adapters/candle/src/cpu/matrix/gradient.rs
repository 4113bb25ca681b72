//! Products with a weight matrix as it stands, for gradients. Weights are widened some rows at a time, never all of them.

use super::Matrix;
use crate::cpu::{
    kernels::{self, Kernels, Operand},
    pool::Pool,
};

/// Numbers that are widened at a time: they stay in the second-level cache of most processors.
const PANEL: usize = 1 << 18;
/// Rows that one task widens: a guess.
const TASK_ROWS: usize = 16;

impl Matrix {
    /// `y` of shape `[m, rows]` times the matrix of shape `[rows, cols]`: `[m, cols]`.
    pub(in crate::cpu) fn product_gradient(&self, with: (&Kernels, &Pool), y: &[f32], rows: usize) -> Vec<f32> {
        let step = (PANEL / self.cols).max(TASK_ROWS);
        let mut sums = vec![0f32; y.len() / rows * self.cols];
        for from in (0..rows).step_by(step) {
            let some = from..rows.min(from + step);
            let panel = self.transposed(with.1, some.clone());
            let y: Vec<f32> = y.chunks_exact(rows).flat_map(|row| &row[some.clone()]).copied().collect();
            let part = kernels::matmul(with, &y, Operand::F32(&panel), some.len());
            sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
        }
        sums
    }

    /// Those rows as columns, in f32: `[cols, rows.len()]`.
    fn transposed(&self, pool: &Pool, rows: std::ops::Range<usize>) -> Vec<f32> {
        let mut wide = vec![0f32; rows.len() * self.cols];
        pool.each(wide.chunks_mut(TASK_ROWS * self.cols), |nth, part| {
            let first = rows.start + nth * TASK_ROWS;
            let ids: Vec<u32> = (first..first + part.len() / self.cols).map(|row| row as u32).collect();
            part.copy_from_slice(&self.select(&ids));
        });
        let mut turned = vec![0f32; wide.len()];
        pool.each(turned.chunks_mut(TASK_ROWS * rows.len()), |nth, part| {
            for (col, column) in (nth * TASK_ROWS..).zip(part.chunks_exact_mut(rows.len())) {
                column.iter_mut().zip(wide[col..].iter().step_by(self.cols)).for_each(|(to, from)| *to = *from);
            }
        });
        turned
    }
}
