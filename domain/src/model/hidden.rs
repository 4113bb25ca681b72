//! Hidden states in host memory, as they travel between model parts.

use bytes::Bytes;

use crate::ports::PortError;

/// How one number of a [`Hidden`] is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl ElementType {
    /// Bytes of one number.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Hidden states of shape `[batch, seq, width]`: row-major, little-endian, cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    batch: usize,
    seq: usize,
    width: usize,
    dtype: ElementType,
    data: Bytes,
}

impl Hidden {
    /// Takes `data` as a `[batch, seq, width]` array.
    ///
    /// # Errors
    /// `InvalidInput` where a side is 0 or the number of bytes does not fit the shape.
    pub fn new((batch, seq, width): (usize, usize, usize), dtype: ElementType, data: Bytes) -> Result<Self, PortError> {
        let wanted = [seq, width, dtype.size()].iter().try_fold(batch, |n, side| n.checked_mul(*side));
        if wanted != Some(data.len()) || data.is_empty() {
            return Err(PortError::invalid(format!(
                "hidden states of shape [{batch}, {seq}, {width}] in {dtype:?} cannot be {} bytes",
                data.len()
            )));
        }
        Ok(Self { batch, seq, width, dtype, data })
    }

    /// Takes f32 numbers as a `[batch, seq, width]` array.
    ///
    /// # Errors
    /// As [`Hidden::new`].
    pub fn from_f32(shape: (usize, usize, usize), values: &[f32]) -> Result<Self, PortError> {
        let mut data = Vec::with_capacity(values.len() * 4);
        for value in values {
            data.extend_from_slice(&value.to_le_bytes());
        }
        Self::new(shape, ElementType::F32, data.into())
    }

    /// Rows that are computed side by side.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions of each row.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Numbers of each position.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// How a number is stored.
    #[must_use]
    pub fn dtype(&self) -> ElementType {
        self.dtype
    }

    /// The numbers, row-major and little-endian.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// All numbers widened to f32.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            ElementType::F32 => {
                self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            ElementType::F16 => {
                self.data.chunks_exact(2).map(|b| f16_to_f32(u16::from_le_bytes([b[0], b[1]]))).collect()
            }
            ElementType::Bf16 => self
                .data
                .chunks_exact(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
                .collect(),
        }
    }

    /// Whether all numbers are finite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        match self.dtype {
            ElementType::F32 => none_has(&self.data, |e| u32::from_le_bytes(*e) & 0x7f80_0000 == 0x7f80_0000),
            ElementType::F16 => none_has(&self.data, |e| u16::from_le_bytes(*e) & 0x7c00 == 0x7c00),
            ElementType::Bf16 => none_has(&self.data, |e| u16::from_le_bytes(*e) & 0x7f80 == 0x7f80),
        }
    }

    /// Rows `start..end`; shares memory.
    ///
    /// # Errors
    /// `InvalidInput` where the rows are empty or out of range.
    pub fn rows(&self, start: usize, end: usize) -> Result<Self, PortError> {
        if start >= end || end > self.batch {
            return Err(PortError::invalid(format!("rows {start}..{end} of {}", self.batch)));
        }
        let row = self.data.len() / self.batch;
        Self::new((end - start, self.seq, self.width), self.dtype, self.data.slice(start * row..end * row))
    }

    /// Puts rows of the same length below each other.
    ///
    /// # Errors
    /// `InvalidInput` where the parts differ in length, width or dtype, or there is none.
    pub fn stack(parts: &[Self]) -> Result<Self, PortError> {
        let [first, rest @ ..] = parts else {
            return Err(PortError::invalid("no hidden states to stack"));
        };
        if rest.is_empty() {
            return Ok(first.clone());
        }
        if rest.iter().any(|p| (p.seq, p.width, p.dtype) != (first.seq, first.width, first.dtype)) {
            return Err(PortError::invalid("hidden states of different shapes cannot be stacked"));
        }
        let data: Vec<u8> = parts.iter().flat_map(|part| part.data.iter().copied()).collect();
        Self::new((parts.iter().map(|p| p.batch).sum(), first.seq, first.width), first.dtype, data.into())
    }

    /// Positions `start..end` of every row. Shares memory where there is one row.
    ///
    /// # Errors
    /// `InvalidInput` where the positions are empty or out of range.
    pub fn positions(&self, start: usize, end: usize) -> Result<Self, PortError> {
        if start >= end || end > self.seq {
            return Err(PortError::invalid(format!("positions {start}..{end} of {}", self.seq)));
        }
        let position = self.width * self.dtype.size();
        let row = self.seq * position;
        let data = if self.batch == 1 {
            self.data.slice(start * position..end * position)
        } else {
            let mut data = Vec::with_capacity(self.batch * (end - start) * position);
            for b in 0..self.batch {
                data.extend_from_slice(&self.data[b * row + start * position..b * row + end * position]);
            }
            data.into()
        };
        Self::new((self.batch, end - start, self.width), self.dtype, data)
    }

    /// The last position of every row.
    ///
    /// # Errors
    /// Never for a value made by [`Hidden::new`]; the result type is that of [`Hidden::positions`].
    pub fn last(&self) -> Result<Self, PortError> {
        self.positions(self.seq - 1, self.seq)
    }

    /// The same in memory of its own: what was cut out of others holds on to all of theirs.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { data: Bytes::copy_from_slice(&self.data), ..*self }
    }

    /// Keeps the first `positions` positions of the pieces of one conversation.
    ///
    /// # Errors
    /// Never for pieces made by [`Hidden::new`]; the result type is that of [`Hidden::positions`].
    pub fn truncate(pieces: &mut Vec<Self>, positions: usize) -> Result<(), PortError> {
        let (mut left, mut kept) = (positions, 0);
        while let Some(piece) = pieces.get_mut(kept).filter(|_| left > 0) {
            if piece.seq > left {
                *piece = piece.positions(0, left)?;
            }
            left -= piece.seq;
            kept += 1;
        }
        pieces.truncate(kept);
        Ok(())
    }

    /// Joins pieces of one conversation along the positions.
    ///
    /// # Errors
    /// `InvalidInput` where the pieces differ in batch, width or dtype, or there is none.
    pub fn concat(pieces: &[Self]) -> Result<Self, PortError> {
        let Some(first) = pieces.first() else {
            return Err(PortError::invalid("no hidden states to join"));
        };
        if pieces.iter().any(|p| (p.batch, p.width, p.dtype) != (first.batch, first.width, first.dtype)) {
            return Err(PortError::invalid("hidden states of different shapes cannot be joined"));
        }
        let seq = pieces.iter().map(|p| p.seq).sum();
        let mut data = Vec::with_capacity(pieces.iter().map(|p| p.data.len()).sum());
        for b in 0..first.batch {
            for piece in pieces {
                let row = piece.data.len() / piece.batch;
                data.extend_from_slice(&piece.data[b * row..(b + 1) * row]);
            }
        }
        Self::new((first.batch, seq, first.width), first.dtype, data.into())
    }
}

/// Elements that are looked at before an early end.
const PIECE: usize = 1024;

/// Whether no element is as `found` says. No early end within a piece, so that many elements are tried at once.
fn none_has<const SIZE: usize>(data: &[u8], found: impl Fn(&[u8; SIZE]) -> bool) -> bool {
    let (elements, _) = data.as_chunks::<SIZE>();
    elements.chunks(PIECE).all(|piece| !piece.iter().fold(false, |any, element| any | found(element)))
}

/// Widens one half-precision number (IEEE 754-2008 §3.6).
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits) & 0x3ff;
    match exponent {
        0 => {
            let magnitude = fraction as f32 / 16_777_216.0; // 2^-24, exact: a subnormal half is a normal single
            f32::from_bits(magnitude.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(batch: usize, seq: usize, width: usize) -> Hidden {
        let values: Vec<f32> = (0..batch * seq * width).map(|i| i as f32).collect();
        Hidden::from_f32((batch, seq, width), &values).unwrap()
    }

    #[test]
    fn a_shape_must_fit_its_bytes() {
        assert!(Hidden::from_f32((1, 2, 3), &[0.0; 5]).is_err());
        assert!(Hidden::from_f32((1, 0, 3), &[]).is_err());
        assert!(Hidden::new((usize::MAX, 2, 2), ElementType::F32, Bytes::new()).is_err());
    }

    #[test]
    fn pieces_of_a_batch_join_to_the_whole() {
        let whole = counted(2, 5, 3);
        let pieces = [whole.positions(0, 2).unwrap(), whole.positions(2, 5).unwrap()];
        assert_eq!(Hidden::concat(&pieces).unwrap(), whole);
        for kept in 1..=5 {
            let mut pieces = pieces.to_vec();
            Hidden::truncate(&mut pieces, kept).unwrap();
            assert_eq!(Hidden::concat(&pieces).unwrap(), whole.positions(0, kept).unwrap());
        }
        assert_eq!(whole.last().unwrap().to_f32(), [12.0, 13.0, 14.0, 27.0, 28.0, 29.0]);
    }

    #[test]
    fn rows_stack_to_the_whole() {
        let whole = counted(3, 2, 2);
        let parts = [whole.rows(0, 1).unwrap(), whole.rows(1, 3).unwrap()];
        assert_eq!(Hidden::stack(&parts).unwrap(), whole);
        assert!(whole.rows(2, 4).is_err() && whole.rows(1, 1).is_err());
        assert!(Hidden::stack(&[whole, counted(1, 1, 2)]).is_err() && Hidden::stack(&[]).is_err());
    }

    #[test]
    fn what_is_not_finite_is_found_in_every_type() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!Hidden::from_f32((1, 1, 2), &[0.0, value]).unwrap().is_finite());
        }
        assert!(Hidden::from_f32((1, 1, 2), &[f32::MAX, f32::MIN]).unwrap().is_finite());
        for at in [0, PIECE - 1, PIECE, 2499] {
            let mut numbers = [1.0; 2500];
            numbers[at] = f32::INFINITY;
            assert!(!Hidden::from_f32((1, 1, 2500), &numbers).unwrap().is_finite(), "at {at}");
        }
        let lone = |dtype, bits: u16| {
            Hidden::new((1, 1, 1), dtype, Bytes::copy_from_slice(&bits.to_le_bytes())).unwrap().is_finite()
        };
        for (dtype, largest, infinity) in [(ElementType::F16, 0xfbff, 0xfc00), (ElementType::Bf16, 0xff7f, 0xff80)] {
            assert!(lone(dtype, largest) && !lone(dtype, infinity) && !lone(dtype, infinity + 1));
        }
    }

    #[test]
    fn halves_widen_exactly() {
        for (bits, value) in [
            (0x0000u16, 0.0f32),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f16_to_f32(bits).to_bits(), value.to_bits(), "{bits:#x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan());
    }
}
