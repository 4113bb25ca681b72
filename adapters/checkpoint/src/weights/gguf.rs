//! Tensors of a GGUF file.

use std::path::Path;

use corolla_domain::ports::PortError;
use corolla_gguf::Gguf;

use super::{View, Weights};
use crate::{
    fault::{bad_file, unsupported},
    mmap::Mapped,
    stored::{GgmlType, Stored},
};

/// A mapped GGUF file and its directory.
pub(crate) struct GgufWeights {
    file: Mapped,
    gguf: Gguf,
}

impl GgufWeights {
    pub(crate) fn open(path: &Path) -> Result<Self, PortError> {
        let file = Mapped::open(path)?;
        let gguf = Gguf::parse(file.bytes()).map_err(|e| bad_file(path, &e).with_source(e))?;
        Ok(Self { file, gguf })
    }

    /// Metadata and directory.
    pub(crate) fn gguf(&self) -> &Gguf {
        &self.gguf
    }
}

impl Weights for GgufWeights {
    fn view(&self, name: &str) -> Result<Option<View<'_>>, PortError> {
        let Some(info) = self.gguf.tensor(name) else { return Ok(None) };
        let Some(stored) = stored(info.ggml_type) else {
            let kind = corolla_gguf::layout(info.ggml_type).map_or("of an unknown type", |l| l.name);
            return Err(unsupported(format!(
                "{}: tensor {name} is {kind}, which is not supported; use a file in F32, F16, BF16, Q8_0, Q6_K, Q5_K, \
                 Q5_1, Q5_0, Q4_K, Q4_1 or Q4_0",
                self.file.path().display()
            )));
        };
        let view = View::new(&self.file, info.shape.clone(), stored, info.data.clone());
        view.map(Some).ok_or_else(|| bad_file(self.file.path(), format!("ends within tensor {name}; fetch it again")))
    }

    fn names(&self) -> Vec<String> {
        self.gguf.tensors().map(|info| info.name.clone()).collect()
    }

    fn place(&self) -> &Path {
        self.file.path()
    }

    fn bytes(&self) -> u64 {
        self.file.bytes().len() as u64
    }
}

fn stored(ggml_type: u32) -> Option<Stored> {
    match ggml_type {
        0 => Some(Stored::F32),
        1 => Some(Stored::F16),
        30 => Some(Stored::Bf16),
        quantised => GgmlType::from_number(quantised).map(Stored::Quantised),
    }
}
