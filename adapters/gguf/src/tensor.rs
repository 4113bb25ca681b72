//! Entries of the tensor directory, and how many bytes each way of storing numbers takes.

use std::ops::Range;

use crate::{GgufError, reader::Reader};

/// `GGML_MAX_DIMS` of the format's reference.
const MAX_DIMENSIONS: u32 = 4;

/// The least an entry can take: empty name, no dimensions, type and offset.
pub(crate) const LEAST_ENTRY: usize = 8 + 4 + 4 + 8;

/// A tensor and where its numbers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Sides, row-major: outermost first, the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// How its numbers are stored: a number of ggml that [`layout`] knows.
    pub ggml_type: u32,
    /// Its bytes, counted from the beginning of the file. Lies in the file.
    pub data: Range<usize>,
}

/// How a ggml type stores numbers: in blocks along the innermost side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What ggml calls it.
    pub name: &'static str,
    /// Numbers of a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

/// How `ggml_type` stores numbers; `None` for types this crate does not know.
#[must_use]
pub fn layout(ggml_type: u32) -> Option<Layout> {
    let (name, block, bytes) = match ggml_type {
        0 => ("F32", 1, 4),
        1 => ("F16", 1, 2),
        2 => ("Q4_0", 32, 18),
        3 => ("Q4_1", 32, 20),
        6 => ("Q5_0", 32, 22),
        7 => ("Q5_1", 32, 24),
        8 => ("Q8_0", 32, 34),
        10 => ("Q2_K", 256, 84),
        11 => ("Q3_K", 256, 110),
        12 => ("Q4_K", 256, 144),
        13 => ("Q5_K", 256, 176),
        14 => ("Q6_K", 256, 210),
        15 => ("Q8_K", 256, 292),
        30 => ("BF16", 1, 2),
        _ => return None,
    };
    Some(Layout { name, block, bytes })
}

/// An entry as it stands in the file: `data` counts from the beginning of the data section.
pub(crate) struct Entry {
    info: TensorInfo,
}

impl Entry {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, GgufError> {
        let name = reader.string("the tensor directory")?.to_owned();
        let what = format!("tensor {name}");
        let dimensions = reader.u32(&what)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::malformed(what, format!("{dimensions} dimensions, at most {MAX_DIMENSIONS} exist")));
        }
        let too_large = || GgufError::malformed(&*what, "its size is beyond what memory can address");
        let mut shape = Vec::with_capacity(MAX_DIMENSIONS as usize);
        for _ in 0..dimensions {
            shape.push(usize::try_from(reader.u64(&what)?).map_err(|_| too_large())?);
        }
        let ggml_type = reader.u32(&what)?;
        let Some(layout) = layout(ggml_type) else {
            return Err(GgufError::TensorType { tensor: name, ggml_type });
        };
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(layout.block) {
            let fault = format!("rows of {row} numbers do not divide into the {} of a {}", layout.block, layout.name);
            return Err(GgufError::malformed(what, fault));
        }
        let numbers = shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side)).ok_or_else(too_large)?;
        let size = (numbers / layout.block).checked_mul(layout.bytes).ok_or_else(too_large)?;
        let start = usize::try_from(reader.u64(&what)?).map_err(|_| too_large())?;
        let end = start.checked_add(size).ok_or_else(too_large)?;
        shape.reverse();
        Ok(Self { info: TensorInfo { name, shape, ggml_type, data: start..end } })
    }

    /// The tensor, its data section beginning at `base` of a file of `len` bytes.
    pub(crate) fn place(mut self, base: usize, alignment: usize, len: usize) -> Result<TensorInfo, GgufError> {
        let what = || format!("tensor {}", self.info.name);
        let Range { start, end } = self.info.data;
        if !start.is_multiple_of(alignment) {
            return Err(GgufError::malformed(what(), format!("its offset {start} is not aligned to {alignment}")));
        }
        let Some(end) = base.checked_add(end).filter(|end| *end <= len) else {
            return Err(GgufError::Truncated { what: what(), at: base.saturating_add(start) });
        };
        self.info.data = base + start..end;
        Ok(self.info)
    }
}
