//! The reference kernels: one number after the other.

use super::{Kernels, bf16, curves, f16, rounded, tiles};

pub(super) fn kernels() -> Kernels {
    Kernels {
        name: "scalar",
        dot,
        dot_bf16,
        dot_f16,
        add_scaled,
        round: rounded::round,
        tiles: tiles::product,
        exact_tiles: tiles::exact_product,
        soften: curves::soften,
        gate: curves::gate,
        gelu: curves::gelu,
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

fn add_scaled(factor: f32, a: &[f32], sum: &mut [f32]) {
    for (sum, a) in sum.iter_mut().zip(a) {
        *sum += factor * a;
    }
}
