//! Attention of new positions over everything before them.

use corolla_checkpoint::Heads;
use corolla_compute::{PAGE, Place};

use super::{
    buffers,
    kernels::{Kernels, Strided, add_product, product_into},
    kv_cache::BlockCache,
    piece,
    pool::Pool,
};

/// Up to this many new positions are done one by one; more are worth a matrix product: a guess.
const FEW: usize = 4;
/// New positions of one matrix product: bounds the memory for scores. A guess.
const CHUNK: usize = 64;
/// Pages that are put together for one matrix product: they stay in the second-level cache of most processors.
const RUN: usize = 8;
/// Heads of queries that read values together, where they share them: as many as have their sums in registers.
const TOGETHER: usize = 4;

/// Attends with `queries` of shape `[batch, seq, heads * dim]` over `cache`, which holds the new positions already.
/// `slopes` are those of ALiBi, one a head (Press et al., 2022). The result has the shape of `queries`.
pub(super) fn attend(
    (kernels, pool): (&Kernels, &Pool),
    queries: &[f32],
    cache: &BlockCache,
    place: Place,
    heads: Heads,
    slopes: Option<&[f32]>,
) -> Vec<f32> {
    let Place { batch, seq, position } = place;
    // One by one, heads that share keys and values read them together, as far as there is work for all threads.
    let many = if seq <= FEW { together(heads, batch, pool.threads()) } else { 1 };
    let per_row = heads.query / many;
    let one = |task: usize, out: &mut Vec<f32>| {
        let (row, head) = (task / per_row, task % per_row * many);
        let work = Work {
            kernels,
            queries: &queries[(row * seq * heads.query + head) * heads.dim..],
            stride: heads.query * heads.dim,
            cache,
            at: (row, head * heads.kv / heads.query),
            heads: many,
            dim: heads.dim,
            position,
            slopes: slopes.map(|slopes| &slopes[head..head + many]),
        };
        if seq <= FEW { work.one_by_one(out) } else { work.in_chunks(seq, out) }
    };
    let mut results: Vec<Vec<f32>> = Vec::new();
    results.resize_with(batch * per_row, || buffers::place(seq * many * heads.dim));
    pool.each_of(batch * heads.query * seq * (position + seq) * heads.dim, results.iter_mut(), one);
    let mut mixed = buffers::place(batch * seq * heads.query * heads.dim);
    let (width, step) = (many * heads.dim, piece(per_row * many * heads.dim));
    pool.each_of(mixed.len(), mixed.chunks_mut(step), |nth, places| {
        for (place, which) in places.chunks_exact_mut(width).zip(nth * step / width..) {
            let (row, at, head) = (which / per_row / seq, which / per_row % seq, which % per_row);
            place.copy_from_slice(&results[row * per_row + head][at * width..][..width]);
        }
    });
    results.into_iter().for_each(buffers::free);
    mixed
}

/// How many heads of queries, of those that share keys and values, are one task: no more than leave all threads about the
/// same to do. Their results do not depend on it.
fn together(heads: Heads, batch: usize, threads: usize) -> usize {
    let shared = heads.query / heads.kv;
    let even = |tasks: usize| tasks.is_multiple_of(threads) || tasks >= 4 * threads;
    let fits = |many: &usize| shared.is_multiple_of(*many) && even(batch * heads.query / many);
    (1..=TOGETHER).rev().find(fits).unwrap_or(1)
}

/// One or more heads of one row, which share keys and values.
struct Work<'a> {
    kernels: &'a Kernels,
    /// From the first query on, heads side by side.
    queries: &'a [f32],
    /// From a query to that of the next position.
    stride: usize,
    cache: &'a BlockCache,
    /// The row, and its head of keys and values.
    at: (usize, usize),
    /// How many heads.
    heads: usize,
    dim: usize,
    position: usize,
    slopes: Option<&'a [f32]>,
}

impl Work<'_> {
    /// `out` is of shape `[seq, heads * dim]`.
    fn one_by_one(&self, out: &mut [f32]) {
        let (kernels, dim, (row, head)) = (self.kernels, self.dim, self.at);
        for (i, out) in out.chunks_exact_mut(self.heads * dim).enumerate() {
            let queries = &self.queries[i * self.stride..][..out.len()];
            let seen = self.position + i + 1;
            let mut scores = vec![0f32; self.heads * seen];
            for (keys, first) in self.cache.keys(row, head, seen).zip((0..seen).step_by(PAGE)) {
                for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_exact_mut(seen)) {
                    keys.scores(kernels, query, &mut scores[first..seen.min(first + PAGE)]);
                }
            }
            scores.chunks_exact_mut(seen).enumerate().for_each(|(nth, scores)| self.soften(nth, scores));
            out.fill(0.0);
            for (values, first) in self.cache.values(row, head, seen).zip((0..seen).step_by(PAGE)) {
                values.mix(kernels, &mut scores[first..], seen, dim, out);
            }
        }
    }

    /// The same for a single head and many positions.
    fn in_chunks(&self, seq: usize, out: &mut [f32]) {
        let (dim, (row, head)) = (self.dim, self.at);
        let rows = |first, row| Strided { first, row, col: 1 };
        let mut run = buffers::place(RUN * PAGE * dim);
        for from in (0..seq).step_by(CHUNK) {
            let many = CHUNK.min(seq - from);
            let seen = self.position + from + many;
            let mut scores = buffers::place(many * seen);
            let mut keys = self.cache.keys(row, head, seen);
            for first in (0..seen).step_by(RUN * PAGE) {
                run.clear();
                keys.by_ref().take(RUN).for_each(|keys| keys.widen(&mut run));
                product_into(
                    (many, run.len() / dim, dim),
                    (self.queries, rows(from * self.stride, self.stride)),
                    (&run, Strided { first: 0, row: 1, col: dim }),
                    (&mut scores, rows(first, seen)),
                );
            }
            for (i, scores) in scores.chunks_exact_mut(seen).enumerate() {
                let (seen, future) = scores.split_at_mut(self.position + from + i + 1);
                self.soften(0, seen);
                future.fill(0.0);
            }
            out[from * dim..][..many * dim].fill(0.0);
            let mut values = self.cache.values(row, head, seen);
            for first in (0..seen).step_by(RUN * PAGE) {
                run.clear();
                values.by_ref().take(RUN).for_each(|values| values.widen(&mut run));
                add_product(
                    (many, dim, run.len() / dim),
                    (&scores, rows(first, seen)),
                    (&run, rows(0, dim)),
                    (out, rows(from * dim, dim)),
                );
            }
            buffers::free(scores);
        }
        buffers::free(run);
    }

    /// Turns products of a query of the `nth` head with the keys it may see, the last of them its own, into weights that sum
    /// to 1.
    fn soften(&self, nth: usize, scores: &mut [f32]) {
        let slope = self.slopes.map_or(0.0, |slopes| slopes[nth]);
        (self.kernels.soften)(scores, 1.0 / (self.dim as f32).sqrt(), slope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_share_are_read_together_where_all_threads_have_as_much_to_do() {
        let heads = |query, kv| Heads { query, kv, dim: 64 };
        for ((query, kv), batch, threads, many) in [
            ((9, 3), 1, 1, 3),
            ((9, 3), 1, 2, 1),
            ((9, 3), 1, 3, 3),
            ((9, 3), 1, 4, 1),
            ((32, 8), 1, 8, 4),
            ((32, 8), 1, 16, 2),
            ((32, 8), 4, 16, 4),
            ((64, 8), 1, 2, 4),
            ((16, 16), 1, 2, 1),
        ] {
            assert_eq!(
                together(heads(query, kv), batch, threads),
                many,
                "{query} heads, {kv} of keys, {threads} threads"
            );
        }
    }
}
