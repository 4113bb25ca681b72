//! ggml's quantised types in the terms of candle.

use std::borrow::Cow;

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml},
};
use corolla_checkpoint::{GgmlType, Stored, View};
use corolla_domain::ports::{FaultKind, PortError};

/// candle refused an operation on shapes that were checked before: the device is full, or something is at fault.
pub(crate) fn library(source: candle_core::Error) -> PortError {
    let said = source.to_string();
    if said.contains("OUT_OF_MEMORY") || said.contains("out of memory") {
        let text = "the GPU has no memory left; use a narrower dtype, fewer cache_tokens, or blocks = \"swarm\"";
        return PortError::new(FaultKind::Capacity, text).with_source(source);
    }
    PortError::internal(format!("candle: {said}")).with_source(source)
}

/// What candle calls it.
pub(crate) fn dtype(kind: GgmlType) -> GgmlDType {
    match kind {
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
    }
}

/// `view`, however it is stored, in blocks of `kind`.
pub(crate) fn quantised(view: &View<'_>, kind: GgmlType, device: &Device) -> Result<QTensor, PortError> {
    let bytes = blocks(view, kind)?;
    // candle reads the blocks in place as structures with 16-bit scales.
    if !bytes.as_ptr().addr().is_multiple_of(4) {
        let file = view.file.display();
        let fault = format!("{file}: places its tensors at odd offsets; write it again with an alignment of 32");
        return Err(PortError::invalid(fault));
    }
    qtensor_from_ggml(dtype(kind), &bytes, view.shape.clone(), device).map_err(library)
}

/// The bytes of `view` in blocks of `kind`: as they are, or rounded piece by piece.
pub(crate) fn blocks<'a>(view: &'a View<'_>, kind: GgmlType) -> Result<Cow<'a, [u8]>, PortError> {
    if view.stored == Stored::Quantised(kind) {
        return Ok(Cow::Borrowed(&view.bytes));
    }
    let (file, cols) = (view.file.display(), view.shape.last().copied().unwrap_or_default());
    if !cols.is_multiple_of(kind.block()) {
        let (name, block) = (kind.name(), kind.block());
        let fault = format!("{file}: has rows of {cols} numbers, {name} needs multiples of {block}; use bf16 or f32");
        return Err(PortError::new(FaultKind::Unsupported, fault));
    }
    let mut bytes = Vec::with_capacity(kind.bytes(view.shape.iter().product()));
    let piece = |numbers: &[f32]| {
        let numbers = Tensor::from_slice(numbers, (numbers.len() / cols, cols), &Device::Cpu)?;
        bytes.extend_from_slice(&QTensor::quantize(&numbers, dtype(kind))?.data()?);
        Ok(())
    };
    view.in_pieces(piece).map_err(library)?;
    Ok(Cow::Owned(bytes))
}
