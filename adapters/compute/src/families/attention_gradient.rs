//! The way back through attention, in f32 on the host. Nothing of the forward pass is kept but queries, keys and values:
//! weights are computed anew, for one query at a time, so that they take no more memory than the positions it sees.
//!
//! With weights `p = softmax(s)` over scores `s`, mixed values `o = p v` and derivatives `do`: `dv = p do`, `dp = v do`,
//! `ds = p (dp - sum(p dp))`, and queries and keys get `ds` times each other (Dao et al., 2022, appendix B.2).

use std::array;

use corolla_checkpoint::Heads;

/// Attention of every position to itself and those before it.
pub(super) struct Attention<'a> {
    /// Positions of a row.
    pub seq: usize,
    pub heads: Heads,
    /// Cosine and sine of each rotary pair, `[seq, dim / 2]`.
    pub turns: Option<&'a [(f32, f32)]>,
    /// Slopes of ALiBi, one a head that asks.
    pub slopes: Option<&'a [f32]>,
}

/// Queries, keys and values of one head, or what is derived by them: `[seq, dim]` each.
type OneHead = [Vec<f32>; 3];

impl Attention<'_> {
    /// Derivatives by queries `[batch * seq, query * dim]`, and by keys and values `[batch * seq, kv * dim]`, as the
    /// products give them, before they turn; `grad` are those by the mixed values, in the shape of the queries.
    pub(super) fn gradient(&self, mut qkv: [Vec<f32>; 3], grad: &[f32]) -> [Vec<f32>; 3] {
        let Heads { query, kv, dim } = self.heads;
        self.turn(&mut qkv[0], query, 1.0);
        self.turn(&mut qkv[1], kv, 1.0);
        let mut back: [Vec<f32>; 3] = array::from_fn(|nth| vec![0.0; qkv[nth].len()]);
        for row in 0..grad.len() / (self.seq * query * dim) {
            for head in 0..query {
                let shared = head * kv / query;
                let places = [(head, query), (shared, kv), (shared, kv)];
                let of_head: OneHead = array::from_fn(|nth| self.gather(&qkv[nth], row, places[nth]));
                let grad = self.gather(grad, row, places[0]);
                let derived = self.one_head(&of_head, &grad, self.slopes.map_or(0.0, |slopes| slopes[head]));
                for ((back, derived), place) in back.iter_mut().zip(&derived).zip(places) {
                    self.scatter(derived, back, row, place);
                }
            }
        }
        self.turn(&mut back[0], query, -1.0);
        self.turn(&mut back[1], kv, -1.0);
        back
    }

    fn one_head(&self, [queries, keys, values]: &OneHead, grad: &[f32], slope: f32) -> OneHead {
        let dim = self.heads.dim;
        let scale = 1.0 / (dim as f32).sqrt();
        let [mut by_queries, mut by_keys, mut by_values] = array::from_fn(|_| vec![0f32; self.seq * dim]);
        let (mut weights, mut by_weights) = (vec![0f32; self.seq], vec![0f32; self.seq]);
        let asking = queries.chunks_exact(dim).zip(grad.chunks_exact(dim)).zip(by_queries.chunks_exact_mut(dim));
        for (at, ((query, grad), by_query)) in asking.enumerate() {
            let (weights, by_weights) = (&mut weights[..=at], &mut by_weights[..=at]);
            for ((weight, by_weight), (key, value)) in
                weights.iter_mut().zip(by_weights.iter_mut()).zip(keys.chunks_exact(dim).zip(values.chunks_exact(dim)))
            {
                *weight = dot(query, key) * scale;
                *by_weight = dot(grad, value);
            }
            soften(weights, slope);
            let mean: f32 = weights.iter().zip(&*by_weights).map(|(weight, by_weight)| weight * by_weight).sum();
            let others = by_keys.chunks_exact_mut(dim).zip(by_values.chunks_exact_mut(dim)).zip(keys.chunks_exact(dim));
            for ((weight, by_weight), ((by_key, by_value), key)) in weights.iter().zip(&*by_weights).zip(others) {
                let by_score = weight * (by_weight - mean) * scale;
                add_scaled(*weight, grad, by_value);
                add_scaled(by_score, query, by_key);
                add_scaled(by_score, key, by_query);
            }
        }
        [by_queries, by_keys, by_values]
    }

    /// The numbers of one head of one row, of which there are `heads`: `[seq, dim]`.
    fn gather(&self, numbers: &[f32], row: usize, (head, heads): (usize, usize)) -> Vec<f32> {
        let dim = self.heads.dim;
        let rows = numbers.chunks_exact(heads * dim).skip(row * self.seq).take(self.seq);
        rows.flat_map(|position| &position[head * dim..][..dim]).copied().collect()
    }

    /// Adds to the numbers of one head what was derived by them.
    fn scatter(&self, derived: &[f32], numbers: &mut [f32], row: usize, (head, heads): (usize, usize)) {
        let dim = self.heads.dim;
        let rows = numbers.chunks_exact_mut(heads * dim).skip(row * self.seq);
        for (position, derived) in rows.zip(derived.chunks_exact(dim)) {
            add_scaled(1.0, derived, &mut position[head * dim..][..dim]);
        }
    }

    /// Turns all heads forth, or back where `direction` is -1: a turn's transpose is the turn by the opposite angle.
    fn turn(&self, numbers: &mut [f32], heads: usize, direction: f32) {
        let Some(turns) = self.turns else { return };
        let pairs = self.heads.dim / 2;
        for (at, position) in numbers.chunks_exact_mut(heads * self.heads.dim).enumerate() {
            let turns = &turns[at % self.seq * pairs..][..pairs];
            for head in position.chunks_exact_mut(self.heads.dim) {
                let (first, second) = head.split_at_mut(pairs);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    let sin = direction * sin;
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// Scores of one query, the last of them its own position's, become weights that sum to 1.
fn soften(scores: &mut [f32], slope: f32) {
    let last = scores.len() - 1;
    let mut most = f32::NEG_INFINITY;
    for (at, score) in scores.iter_mut().enumerate() {
        *score -= slope * (last - at) as f32;
        most = most.max(*score);
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// In eight sums, which compilers turn into vector code.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

fn add_scaled(factor: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}
