//! Attention of new positions over everything before them, in libtorch.

use corolla_checkpoint::Heads;
use corolla_compute::Place;
use tch::{Device, Kind, TchError, Tensor};

/// Keys and values of one session in one block, `[batch * kv, length, dim]` each.
pub(crate) struct Cache {
    keys: Tensor,
    values: Tensor,
}

impl Cache {
    pub(crate) fn new(batch: usize, length: usize, heads: Heads) -> Result<Self, TchError> {
        let shape = [(batch * heads.kv) as i64, length as i64, heads.dim as i64];
        let zeros = || Tensor::f_zeros(shape, (Kind::Float, Device::Cpu));
        Ok(Self { keys: zeros()?, values: zeros()? })
    }
}

/// What all blocks of a step share.
pub(crate) struct Frame {
    place: Place,
    /// Cosines and sines of the rotary pairs, `[seq, dim / 2]` each.
    turns: Option<(Tensor, Tensor)>,
    /// What is added to scores, `[heads or 1, seq, position + seq]`: less and less with distance where there are slopes,
    /// and -infinity for what comes later. `None` where that is nothing.
    bias: Option<Tensor>,
}

impl Frame {
    pub(crate) fn new(place: Place, turns: Option<Vec<(f32, f32)>>, slopes: Option<&Tensor>) -> Result<Self, TchError> {
        let Place { seq, position, .. } = place;
        let turns = turns.map(|turns| {
            let (cos, sin): (Vec<f32>, Vec<f32>) = turns.into_iter().unzip();
            let table = |numbers: &[f32]| Tensor::f_from_slice(numbers)?.f_reshape([seq as i64, -1]);
            Ok::<_, TchError>((table(&cos)?, table(&sin)?))
        });
        Ok(Self { place, turns: turns.transpose()?, bias: bias(seq, position, slopes)? })
    }
}

fn bias(seq: usize, position: usize, slopes: Option<&Tensor>) -> Result<Option<Tensor>, TchError> {
    if seq == 1 && slopes.is_none() {
        return Ok(None);
    }
    let seen = position + seq;
    let distance = |at: usize, key: usize| (position + at).checked_sub(key);
    let near = |i: usize| match (distance(i / seen, i % seen), slopes) {
        (None, _) => f32::NEG_INFINITY,
        (Some(_), None) => 0.0,
        (Some(distance), Some(_)) => -(distance as f32),
    };
    let near: Vec<f32> = (0..seq * seen).map(near).collect();
    let near = Tensor::f_from_slice(&near)?.f_reshape([1, seq as i64, seen as i64])?;
    match slopes {
        None => Ok(Some(near)),
        Some(slopes) => Ok(Some(near.f_mul(&slopes.f_reshape([-1, 1, 1])?)?)),
    }
}

/// As `corolla_compute::Arithmetic::attend`.
pub(crate) fn attend(qkv: &[Tensor; 3], cache: &Cache, frame: &Frame, heads: Heads) -> Result<Tensor, TchError> {
    let Place { batch, seq, position } = frame.place;
    let [batch, seq, position] = [batch, seq, position].map(|n| n as i64);
    let [query, kv, dim] = [heads.query, heads.kv, heads.dim].map(|n| n as i64);
    let seen = position + seq;
    let by_head = |rows: &Tensor, heads: i64| {
        rows.f_reshape([batch, seq, heads, dim])?.f_transpose(1, 2)?.f_reshape([batch * heads, seq, dim])
    };
    let [q, k, v] = qkv;
    let (q, k, v) = (turned(by_head(q, query)?, frame)?, turned(by_head(k, kv)?, frame)?, by_head(v, kv)?);
    cache.keys.f_narrow(1, position, seq)?.f_copy_(&k)?;
    cache.values.f_narrow(1, position, seq)?.f_copy_(&v)?;
    let keys = cache.keys.f_narrow(1, 0, seen)?;
    let values = cache.values.f_narrow(1, 0, seen)?;

    // Heads that share keys stand side by side: they are rows of one product.
    let rows = query / kv * seq;
    let q = q.f_reshape([batch * kv, rows, dim])?.f_mul_scalar(1.0 / (dim as f64).sqrt())?;
    let mut scores = q.f_bmm(&keys.f_transpose(1, 2)?)?;
    if let Some(bias) = &frame.bias {
        scores = scores.f_reshape([batch, query, seq, seen])?.f_add_(bias)?.f_reshape([batch * kv, rows, seen])?;
    }
    let mixed = scores.f_softmax(-1, Kind::Float)?.f_bmm(&values)?;
    mixed.f_reshape([batch, query, seq, dim])?.f_transpose(1, 2)?.f_reshape([batch * seq, query * dim])
}

/// Turns each pair of numbers of the two halves of `x` of shape `[rows, seq, dim]` where the frame says so.
fn turned(x: Tensor, frame: &Frame) -> Result<Tensor, TchError> {
    let Some((cos, sin)) = &frame.turns else { return Ok(x) };
    let half = x.size()[2] / 2;
    let (a, b) = (x.f_narrow(2, 0, half)?, x.f_narrow(2, half, half)?);
    let first = a.f_mul(cos)?.f_sub_(&b.f_mul(sin)?)?;
    let second = b.f_mul(cos)?.f_add_(&a.f_mul(sin)?)?;
    Tensor::f_cat(&[first, second], 2)
}
