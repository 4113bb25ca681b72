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

impl<'a> Vectors<'a> {
    /// Products of a query with each key.
    pub(crate) fn scores(self, kernels: &Kernels, query: &[f32], scores: &mut [f32]) {
        match self {
            Self::F32(keys) => (kernels.scores)(query, keys, scores),
            Self::Bf16(keys) => (kernels.several_bf16)(keys, query, query.len(), scores),
            Self::Q8(keys, scales) => {
                (kernels.several_i8)(keys, query, query.len(), scores);
                scores.iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
            }
        }
    }

    /// Adds the values, each times its weight. The weights are something else afterwards.
    pub(crate) fn mix(self, kernels: &Kernels, weights: &mut [f32], mixed: &mut [f32]) {
        match self {
            Self::F32(values) => (kernels.mix)(weights, values, mixed),
            Self::Bf16(values) => (kernels.mix_bf16)(weights, values, mixed),
            Self::Q8(values, scales) => {
                weights.iter_mut().zip(scales).for_each(|(weight, scale)| *weight *= scale);
                (kernels.mix_i8)(weights, values, mixed);
            }
        }
    }

    /// The vectors in f32, in `room` where they are not.
    pub(crate) fn widened(self, room: &'a mut Vec<f32>) -> &'a [f32] {
        room.clear();
        match self {
            Self::F32(numbers) => return numbers,
            Self::Bf16(numbers) => room.extend(numbers.iter().map(|bits| bf16(*bits))),
            Self::Q8(numbers, scales) => {
                for (numbers, scale) in numbers.chunks_exact(numbers.len() / scales.len().max(1)).zip(scales) {
                    room.extend(numbers.iter().map(|number| f32::from(*number) * scale));
                }
            }
        }
        room
    }
}
