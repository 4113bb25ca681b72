//! `LocalModel` and `BlockEngine` on candle.
//!
//! Weights are read from memory-mapped GGUF, safetensors or `pytorch_model.bin` files and kept in f32, bf16, f16 or
//! the blocks of a ggml type; activations, sums and the KV cache are f32. One worker thread owns a model; callers reach
//! it through a bounded queue, and a caller that goes away stops its computation at the next block.

mod attention;
mod checkpoint;
mod config;
mod cpu;
mod families;
mod fault;
mod inspect;
mod kv_cache;
mod matrix;
mod mmap;
mod model;
mod norm;
mod pick;
mod session;
mod settings;
mod weights;
mod worker;

pub use config::{BlockChoice, CandleConfig, DeviceChoice, DtypeChoice};
pub use inspect::{ModelSummary, inspect};
pub use model::CandleModel;
