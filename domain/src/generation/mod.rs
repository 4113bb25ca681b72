//! From tokens to text: the loop, the sampler, stop sequences and incremental detokenising.

mod request;

pub use request::{Chunk, FinishReason, Sampling, StopRule};
