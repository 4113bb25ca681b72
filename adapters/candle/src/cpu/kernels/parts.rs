//! Results that tasks computed in parts, each in a place of its own, put in order.

use crate::cpu::{buffers, pool::Pool};

/// Results that one task puts together: a guess, some ten microseconds of copying.
const TASK: usize = 1 << 16;

/// Room for the parts of `many` rows of `rows` results, where a part has `step` results of each row.
pub(super) fn place((many, rows): (usize, usize), step: usize) -> Vec<f32> {
    buffers::place(rows.div_ceil(step) * many * step)
}

/// `parts` of shape `[many, step]` each, the last with something else behind its results where `rows` is no multiple of
/// `step`, as `[many, rows]`.
pub(super) fn together(pool: &Pool, mut parts: Vec<f32>, (many, rows): (usize, usize), step: usize) -> Vec<f32> {
    if many == 1 || rows == step {
        parts.truncate(many * rows);
        return parts;
    }
    let mut together = buffers::place(many * rows);
    pool.each(together.chunks_mut(TASK), |task, mut results| {
        let mut at = task * TASK;
        while !results.is_empty() {
            let (row, nth) = (at / rows, at % rows);
            let from = nth % step;
            let len = (step - from).min(rows - nth).min(results.len());
            let (here, others) = results.split_at_mut(len);
            here.copy_from_slice(&parts[(nth / step * many + row) * step + from..][..len]);
            (results, at) = (others, at + len);
        }
    });
    buffers::free(parts);
    together
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_comes_to_its_place() {
        let pool = Pool::new(Some(2)).unwrap();
        for (many, rows, step) in
            [(1, 7, 3), (1, 2, 5), (3, 4, 4), (3, 7, 3), (70, 33, 16), (2, 1, 16), (3, 70_001, 16), (700, 331, 32)]
        {
            let mut parts = place((many, rows), step);
            parts.fill(f32::NAN);
            for (nth, part) in parts.chunks_exact_mut(many * step).enumerate() {
                for (at, part) in part.chunks_exact_mut(step).enumerate() {
                    let results = (nth * step..rows).map(|row| (at * rows + row) as f32);
                    part.iter_mut().zip(results).for_each(|(part, result)| *part = result);
                }
            }
            let wanted: Vec<f32> = (0..many * rows).map(|i| i as f32).collect();
            let found = together(&pool, parts, (many, rows), step);
            assert!(found == wanted, "{many} rows of {rows}, {step} at a time");
        }
    }
}
