//! Keys or values of one head, as the KV cache keeps them, and what attention does with them.

use super::{Kernels, bf16};

/// Keys or values of one head at some positions in a row.
#[derive(Clone, Copy)]
pub(crate) enum Vectors<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bf16 bits.
    Bf16(&'a [u16]),
    /// 8-bit numbers, and what those of each position are to be multiplied with.
    Q8(&'a [i8], &'a [f32]),
}

impl Vectors<'_> {
    /// Products of a query with each key.
    pub(crate) fn scores(self, kernels: &Kernels, query: &[f32], scores: &mut [f32]) {
        match self {
            Self::F32(keys) => (kernels.scores)(query, keys, scores),
            Self::Bf16(keys) => (kernels.scores_bf16)(query, keys, scores),
            Self::Q8(keys, scales) => {
                (kernels.scores_i8)(query, keys, scores);
                scores.iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
            }
        }
    }

    /// Adds the values to the sums of one or more heads, each of `width` numbers. `weights` are those of the first head; those
    /// of the next one are `stride` further. They are something else afterwards.
    pub(crate) fn mix(self, kernels: &Kernels, weights: &mut [f32], stride: usize, width: usize, mixed: &mut [f32]) {
        match self {
            Self::F32(values) => (kernels.mix)(weights, stride, values, width, mixed),
            Self::Bf16(values) => (kernels.mix_bf16)(weights, stride, values, width, mixed),
            Self::Q8(values, scales) => {
                for weights in weights.chunks_mut(stride) {
                    weights.iter_mut().zip(scales).for_each(|(weight, scale)| *weight *= scale);
                }
                (kernels.mix_i8)(weights, stride, values, width, mixed);
            }
        }
    }

    /// Adds the vectors in f32 to `numbers`.
    pub(crate) fn widen(self, numbers: &mut Vec<f32>) {
        match self {
            Self::F32(vectors) => numbers.extend_from_slice(vectors),
            Self::Bf16(vectors) => numbers.extend(vectors.iter().map(|bits| bf16(*bits))),
            Self::Q8(vectors, scales) => {
                for (vector, scale) in vectors.chunks_exact(vectors.len() / scales.len().max(1)).zip(scales) {
                    numbers.extend(vector.iter().map(|number| f32::from(*number) * scale));
                }
            }
        }
    }
}
