//! What lies in a model's files: the description of its architecture, its tensors, and its special tokens.
//!
//! A library for the adapters that compute. Files are GGUF, safetensors or `pytorch_model.bin`, memory-mapped; every
//! difference between them (names, order of rows, how numbers are stored) ends here: whoever loads a model sees one
//! [`Description`] and tensors in one order.

mod checkpoint;
mod families;
mod fault;
mod guard;
mod inspect;
mod mmap;
mod settings;
mod stored;
mod tensors;
mod weights;
mod widen;

pub use checkpoint::Checkpoint;
pub use families::{
    BlockPlan, BloomBlock, Description, EndNames, Heads, Linear, LlamaBlock, MAX_VOCAB, NormKind, Positions, RowOrder,
};
pub use guard::guarded;
pub use inspect::{ModelSummary, inspect};
pub use mmap::{Mapped, Piece};
pub use stored::{GgmlType, Stored};
pub use tensors::Tensors;
pub use weights::View;
pub use widen::widen;
