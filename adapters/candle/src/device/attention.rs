//! Attention of new positions over everything before them, on a device.

use candle_core::{D, DType, Device, Result, Tensor};
use corolla_checkpoint::Heads;
use corolla_compute::Place;

/// Keys and values of one session in one block, `[batch, kv, length, dim]` each.
pub(crate) struct Cache {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    pub(super) fn new(shape: (usize, usize, usize, usize), dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { keys: Tensor::zeros(shape, dtype, device)?, values: Tensor::zeros(shape, dtype, device)? })
    }

    /// Row `i` becomes what row `rows[i]` was.
    pub(super) fn reorder(&mut self, rows: &[usize], device: &Device) -> Result<()> {
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let rows = Tensor::from_vec(rows.clone(), rows.len(), device)?;
        (self.keys, self.values) = (self.keys.index_select(&rows, 0)?, self.values.index_select(&rows, 0)?);
        Ok(())
    }
}

/// What all blocks of a step share.
pub(crate) struct Frame {
    place: Place,
    /// Cosines and sines of the rotary pairs, `[seq, dim / 2]` each.
    turns: Option<(Tensor, Tensor)>,
    /// What is added to scores, `[1, heads or 1, seq, position + seq]`: less and less with distance where there are
    /// slopes, and -infinity for what comes later. `None` where that is nothing.
    bias: Option<Tensor>,
}

impl Frame {
    pub(super) fn new(
        place: Place,
        turns: Option<Vec<(f32, f32)>>,
        slopes: Option<&Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let Place { seq, position, .. } = place;
        let turns = turns.map(|turns| {
            let (cos, sin): (Vec<f32>, Vec<f32>) = turns.into_iter().unzip();
            let shape = (seq, cos.len() / seq);
            Ok::<_, candle_core::Error>((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
        });
        let seen = position + seq;
        let bias = match slopes {
            None if seq == 1 => None,
            _ => {
                let near = |at: usize, key: usize| match (position + at).checked_sub(key) {
                    None => f32::NEG_INFINITY,
                    Some(_) if slopes.is_none() => 0.0,
                    Some(distance) => -(distance as f32),
                };
                let near: Vec<f32> = (0..seq * seen).map(|i| near(i / seen, i % seen)).collect();
                let near = Tensor::from_vec(near, (1, 1, seq, seen), device)?;
                Some(match slopes {
                    None => near,
                    Some(slopes) => near.broadcast_mul(&slopes.reshape((1, slopes.elem_count(), 1, 1))?)?,
                })
            }
        };
        Ok(Self { place, turns: turns.transpose()?, bias })
    }
}

/// As [`corolla_compute::Arithmetic::attend`].
pub(super) fn attend(qkv: &[Tensor; 3], cache: &mut Cache, frame: &Frame, heads: Heads) -> Result<Tensor> {
    let Place { batch, seq, position } = frame.place;
    let Heads { query, kv, dim } = heads;
    let seen = position + seq;
    let by_head = |rows: &Tensor, heads| rows.reshape((batch, seq, heads, dim))?.transpose(1, 2)?.contiguous();
    let turned = |x: Tensor| match &frame.turns {
        Some((cos, sin)) => candle_nn::rotary_emb::rope(&x, cos, sin),
        None => Ok(x),
    };
    let [q, k, v] = qkv;
    let (q, k, v) = (turned(by_head(q, query)?)?, turned(by_head(k, kv)?)?, by_head(v, kv)?);
    let kept = cache.keys.dtype();
    cache.keys.slice_set(&k.to_dtype(kept)?, 2, position)?;
    cache.values.slice_set(&v.to_dtype(kept)?, 2, position)?;
    let keys = cache.keys.narrow(2, 0, seen)?;
    let values = cache.values.narrow(2, 0, seen)?;

    // Heads that share keys stand side by side: they are rows of one product.
    let rows = query / kv * seq;
    let scores = q.reshape((batch, kv, rows, dim))?.to_dtype(kept)?.matmul(&keys.transpose(2, 3)?)?;
    let scores = (scores.to_dtype(DType::F32)?.reshape((batch, query, seq, seen))? * (1.0 / (dim as f64).sqrt()))?;
    let scores = match &frame.bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.reshape((batch, kv, rows, seen))?.to_dtype(kept)?;
    let mixed = weights.matmul(&values)?.to_dtype(DType::F32)?;
    mixed
        .reshape((batch, query, seq, dim))?
        .transpose(1, 2)?
        .flatten(D::Minus2, D::Minus1)?
        .reshape((batch * seq, query * dim))
}
