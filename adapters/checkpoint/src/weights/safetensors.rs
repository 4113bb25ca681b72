//! Tensors of one safetensors file.

use std::path::Path;

use corolla_domain::ports::PortError;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};

use super::{View, Weights};
use crate::{
    fault::{bad_file, unsupported},
    mmap::Mapped,
    stored::Stored,
};

/// A mapped safetensors file and its header.
pub(crate) struct SafetensorsFile {
    file: Mapped,
    header: Metadata,
    /// Where the numbers begin.
    data: usize,
}

impl SafetensorsFile {
    pub(crate) fn open(path: &Path) -> Result<Self, PortError> {
        let file = Mapped::open(path)?;
        let (header_len, header) = SafeTensors::read_metadata(file.bytes()).map_err(|e| {
            let fault = format!("is no intact safetensors file ({e}); fetch it again");
            bad_file(path, fault).with_source(e)
        })?;
        Ok(Self { file, header, data: 8 + header_len })
    }
}

impl Weights for SafetensorsFile {
    fn view(&self, name: &str) -> Result<Option<View<'_>>, PortError> {
        let Some(info) = self.header.info(name) else { return Ok(None) };
        let file = self.file.path();
        let stored = match info.dtype {
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::Bf16,
            other => {
                let file = file.display();
                return Err(unsupported(format!(
                    "{file}: tensor {name} is {other:?}, which is not supported; use a checkpoint in F32, F16 or BF16"
                )));
            }
        };
        let (start, end) = info.data_offsets;
        let place = self.data.checked_add(start).zip(self.data.checked_add(end));
        let view = place.and_then(|(start, end)| View::new(&self.file, info.shape.clone(), stored, start..end));
        view.map(Some).ok_or_else(|| bad_file(file, format!("ends within tensor {name}; fetch it again")))
    }

    fn names(&self) -> Vec<String> {
        self.header.tensors().into_keys().collect()
    }

    fn place(&self) -> &Path {
        self.file.path()
    }

    fn bytes(&self) -> u64 {
        self.file.bytes().len() as u64
    }
}
