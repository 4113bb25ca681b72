//! Layouts of a tensor's buffer, one function each (§5.2). Every length is checked against the bytes that are there
//! before anything is computed.

use bytes::Bytes;
use half::{bf16, f16};

use super::{Dtype, WHAT};
use crate::wire::WireError;

/// Elements that share a scale in BLOCKWISE_8BIT.
pub(super) const BLOCK: usize = 4096;

/// NONE. bfloat16 may come as float32, which older servers sent.
pub(super) fn raw(buffer: &Bytes, dtype: Dtype, count: usize) -> Result<Bytes, WireError> {
    if dtype == Dtype::Bf16 && count > 0 && Some(buffer.len()) == count.checked_mul(4) {
        return Ok(store(singles(buffer), dtype, count));
    }
    exact(buffer, count, dtype.size())?;
    Ok(buffer.clone())
}

/// FLOAT16: halves, to be cast back.
pub(super) fn float16(buffer: &Bytes, dtype: Dtype, count: usize) -> Result<Bytes, WireError> {
    exact(buffer, count, 2)?;
    if dtype == Dtype::F16 {
        return Ok(buffer.clone());
    }
    Ok(store(halves(buffer), dtype, count))
}

/// MEANSTD_16BIT: halves, then the means of all rows, then their deviations. A row is the last axis.
pub(super) fn mean_std(buffer: &Bytes, dtype: Dtype, shape: &[usize], count: usize) -> Result<Bytes, WireError> {
    let Some((row, outer)) = shape.split_last() else {
        return Err(WireError::malformed(WHAT, "a scalar has no rows to scale"));
    };
    let rows = outer.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).unwrap_or(usize::MAX);
    let wanted = rows.checked_mul(8).and_then(|stats| stats.checked_add(count.checked_mul(2)?));
    if wanted != Some(buffer.len()) {
        return Err(length(buffer.len()));
    }
    let (elements, stats) = buffer.split_at(count * 2);
    let (means, deviations) = stats.split_at(rows * 4);
    let stats: Vec<(f32, f32)> = singles(means).zip(singles(deviations)).collect();
    let row = (*row).max(1);
    // multiply, round, add, round: as the reference does, not fused
    Ok(store(halves(elements).enumerate().map(|(i, x)| x * stats[i / row].1 + stats[i / row].0), dtype, count))
}

/// QUANTILE_8BIT and UNIFORM_8BIT: a codebook with its length, then one index an element.
pub(super) fn codebook(buffer: &Bytes, dtype: Dtype, count: usize) -> Result<Bytes, WireError> {
    let mut rest = &buffer[..];
    let size = claim(&mut rest)?;
    let book = floats(&mut rest, size)?;
    let values = look_up(rest, &book, count)?;
    Ok(store(values.into_iter(), dtype, count))
}

/// BLOCKWISE_8BIT: the numbers of scales and of codebook entries, both lists, then one index an element.
pub(super) fn blockwise(buffer: &Bytes, dtype: Dtype, count: usize) -> Result<Bytes, WireError> {
    let mut rest = &buffer[..];
    let scales = claim(&mut rest)?;
    let size = claim(&mut rest)?;
    if scales != count.div_ceil(BLOCK) as u64 {
        return Err(WireError::malformed(WHAT, format!("{scales} scales for {count} elements")));
    }
    let scales = floats(&mut rest, scales)?;
    let book = floats(&mut rest, size)?;
    let values = look_up(rest, &book, count)?;
    Ok(store(values.into_iter().enumerate().map(|(i, value)| value * scales[i / BLOCK]), dtype, count))
}

/// A count as the buffer claims it: an i64.
fn claim(rest: &mut &[u8]) -> Result<u64, WireError> {
    let (head, tail) = rest.split_first_chunk::<8>().ok_or(WireError::truncated(WHAT))?;
    *rest = tail;
    u64::try_from(i64::from_le_bytes(*head)).map_err(|_| WireError::malformed(WHAT, "a negative count"))
}

/// Takes `count` singles off the front.
fn floats(rest: &mut &[u8], count: u64) -> Result<Vec<f32>, WireError> {
    let bytes = usize::try_from(count).ok().and_then(|n| n.checked_mul(4));
    let split = bytes.and_then(|bytes| rest.split_at_checked(bytes));
    let (head, tail) = split.ok_or(WireError::truncated(WHAT))?;
    *rest = tail;
    Ok(singles(head).collect())
}

/// The value of each index.
fn look_up(indices: &[u8], book: &[f32], count: usize) -> Result<Vec<f32>, WireError> {
    if indices.len() != count {
        return Err(length(indices.len()));
    }
    let values = indices.iter().map(|index| book.get(usize::from(*index)).copied());
    values.collect::<Option<_>>().ok_or_else(|| WireError::malformed(WHAT, "an index beyond the codebook"))
}

fn exact(buffer: &Bytes, count: usize, size: usize) -> Result<(), WireError> {
    if Some(buffer.len()) == count.checked_mul(size) { Ok(()) } else { Err(length(buffer.len())) }
}

fn length(bytes: usize) -> WireError {
    WireError::malformed(WHAT, format!("its buffer of {bytes} bytes does not fit shape and type"))
}

fn singles(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
}

/// Writes values in a floating type; `decode` lets no other come here.
fn store(values: impl Iterator<Item = f32>, dtype: Dtype, count: usize) -> Bytes {
    let mut data = Vec::with_capacity(count * dtype.size());
    match dtype {
        Dtype::F16 => values.for_each(|v| data.extend_from_slice(&f16::from_f32(v).to_le_bytes())),
        Dtype::Bf16 => values.for_each(|v| data.extend_from_slice(&bf16::from_f32(v).to_le_bytes())),
        Dtype::F64 => values.for_each(|v| data.extend_from_slice(&f64::from(v).to_le_bytes())),
        _ => values.for_each(|v| data.extend_from_slice(&v.to_le_bytes())),
    }
    data.into()
}
