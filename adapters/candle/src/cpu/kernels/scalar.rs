//! The reference kernels: one number after the other.

use super::{Kernels, bf16, curves, f16, nibbles, planes, rounded, several, tiles};

pub(super) fn kernels() -> Kernels {
    Kernels {
        name: "scalar",
        dot,
        dot_bf16,
        dot_f16,
        several_f32: |weights, x, cols, products| {
            several::reference(weights, x, cols, products, std::convert::identity);
        },
        several_bf16: |weights, x, cols, products| several::reference(weights, x, cols, products, bf16),
        several_f16: |weights, x, cols, products| several::reference(weights, x, cols, products, f16),
        scores: |query, keys, scores| products(query, keys, scores, std::convert::identity),
        scores_bf16: |query, keys, scores| products(query, keys, scores, bf16),
        scores_i8: |query, keys, scores| products(query, keys, scores, f32::from),
        mix: curves::mix_f32,
        mix_bf16: curves::mix_bf16,
        mix_i8: curves::mix_i8,
        round: rounded::round,
        tiles: tiles::product,
        exact_tiles: tiles::exact_product,
        soften: curves::soften,
        gate: curves::gate,
        gelu: curves::gelu,
        planes: planes::product,
        nibbles: nibbles::product,
        narrow: None,
    }
}

pub(super) fn dot(a: &[f32], x: &[f32]) -> f32 {
    a.iter().zip(x).map(|(a, x)| a * x).sum()
}

fn dot_bf16(a: &[u16], x: &[f32]) -> f32 {
    a.iter().zip(x).map(|(a, x)| bf16(*a) * x).sum()
}

fn dot_f16(a: &[u16], x: &[f32]) -> f32 {
    a.iter().zip(x).map(|(a, x)| f16(*a) * x).sum()
}

fn products<T: Copy>(query: &[f32], keys: &[T], scores: &mut [f32], widen: fn(T) -> f32) {
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
        *score = query.iter().zip(key).map(|(query, key)| query * widen(*key)).sum();
    }
}
