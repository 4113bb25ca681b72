//! Why a file is refused.

/// Why bytes are no GGUF file this crate can stand behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it does not begin with the letters GGUF")]
    Magic,
    /// A version of the format other than 2 and 3, or the other byte order.
    #[error("GGUF version {0} is not supported, only little-endian files of version 2 and 3 are")]
    Version(u32),
    /// The file ends before what it announces.
    #[error("the file ends within {what} (at byte {at}); it is probably cut short, fetch it again")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it began.
        at: usize,
    },
    /// The file contradicts the format.
    #[error("{what}: {fault}")]
    Malformed {
        /// The key, tensor or part of the header concerned.
        what: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A tensor is stored in a way this crate does not know.
    #[error("tensor {tensor} is stored as ggml type {ggml_type}, which is not supported")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number in the file.
        ggml_type: u32,
    },
}

impl GgufError {
    pub(crate) fn malformed(what: impl Into<String>, fault: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), fault: fault.into() }
    }
}
