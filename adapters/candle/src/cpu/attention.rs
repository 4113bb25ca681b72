//! Attention of new positions over everything before them.

use corolla_checkpoint::Heads;
use corolla_compute::{PAGE, Place};

use super::{
    buffers,
    kernels::{Kernels, Strided, add_product, product_into},
    kv_cache::BlockCache,
    pool::Pool,
};

/// Up to this many new positions are done one by one; more are worth a matrix product: a guess.
const FEW: usize = 4;
/// New positions of one matrix product: bounds the memory for scores. A guess.
const CHUNK: usize = 64;

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
    let one = |task: usize, out: &mut Vec<f32>| {
        let (row, head) = (task / heads.query, task % heads.query);
        let work = OneHead {
            kernels,
            queries: &queries[(row * seq * heads.query + head) * heads.dim..],
            stride: heads.query * heads.dim,
            cache,
            at: (row, head * heads.kv / heads.query),
            dim: heads.dim,
            position,
            slope: slopes.map_or(0.0, |slopes| slopes[head]),
        };
        if seq <= FEW { work.one_by_one(out) } else { work.in_chunks(seq, out) }
    };
    let tasks = batch * heads.query;
    let mut results: Vec<Vec<f32>> = Vec::new();
    results.resize_with(tasks, || buffers::place(seq * heads.dim));
    pool.each_of(tasks * seq * (position + seq) * heads.dim, results.iter_mut(), one);
    let mut together = buffers::place(batch * seq * heads.query * heads.dim);
    let mut places = together.chunks_exact_mut(heads.dim);
    for row in results.chunks_exact(heads.query) {
        for at in 0..seq {
            let all = row.iter().map(|head| &head[at * heads.dim..(at + 1) * heads.dim]);
            all.zip(&mut places).for_each(|(head, place)| place.copy_from_slice(head));
        }
    }
    results.into_iter().for_each(buffers::free);
    together
}

/// One head of one row.
struct OneHead<'a> {
    kernels: &'a Kernels,
    /// From its first query on.
    queries: &'a [f32],
    /// From a query to the next.
    stride: usize,
    cache: &'a BlockCache,
    /// The row, and its head of keys and values.
    at: (usize, usize),
    dim: usize,
    position: usize,
    slope: f32,
}

impl OneHead<'_> {
    fn one_by_one(&self, out: &mut [f32]) {
        let (kernels, (row, head)) = (self.kernels, self.at);
        for (i, out) in out.chunks_exact_mut(self.dim).enumerate() {
            let query = &self.queries[i * self.stride..][..self.dim];
            let seen = self.position + i + 1;
            let mut scores = vec![0f32; seen];
            for (keys, scores) in self.cache.keys(row, head, seen).zip(scores.chunks_mut(PAGE)) {
                keys.scores(kernels, query, scores);
            }
            self.soften(&mut scores);
            out.fill(0.0);
            for (values, weights) in self.cache.values(row, head, seen).zip(scores.chunks_mut(PAGE)) {
                values.mix(kernels, weights, out);
            }
        }
    }

    fn in_chunks(&self, seq: usize, out: &mut [f32]) {
        let ((row, head), dim) = (self.at, self.dim);
        let rows = |first, row| Strided { first, row, col: 1 };
        let mut room = Vec::new();
        for from in (0..seq).step_by(CHUNK) {
            let many = CHUNK.min(seq - from);
            let seen = self.position + from + many;
            let mut scores = vec![0f32; many * seen];
            for (keys, first) in self.cache.keys(row, head, seen).zip((0..seen).step_by(PAGE)) {
                product_into(
                    (many, PAGE.min(seen - first), dim),
                    (self.queries, rows(from * self.stride, self.stride)),
                    (keys.widened(&mut room), Strided { first: 0, row: 1, col: dim }),
                    (&mut scores, rows(first, seen)),
                );
            }
            for (i, scores) in scores.chunks_exact_mut(seen).enumerate() {
                let (seen, future) = scores.split_at_mut(self.position + from + i + 1);
                self.soften(seen);
                future.fill(0.0);
            }
            out[from * dim..][..many * dim].fill(0.0);
            for (values, first) in self.cache.values(row, head, seen).zip((0..seen).step_by(PAGE)) {
                add_product(
                    (many, dim, PAGE.min(seen - first)),
                    (&scores, rows(first, seen)),
                    (values.widened(&mut room), rows(0, dim)),
                    (out, rows(from * dim, dim)),
                );
            }
        }
    }

    /// Turns products of one query with the keys it may see, the last of them its own, into weights that sum to 1.
    fn soften(&self, scores: &mut [f32]) {
        (self.kernels.soften)(scores, 1.0 / (self.dim as f32).sqrt(), self.slope);
    }
}
