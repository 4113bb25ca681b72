//! From tokens to text: the loop, the sampler, stop sequences and incremental detokenising.

mod detokenizer;
mod likelihood;
mod request;
mod rule;
mod sampler;
mod stop;
mod turn;

pub use detokenizer::Detokenizer;
pub use likelihood::{Likelihood, TokenScore};
pub use request::{Chunk, FinishReason, MAX_ALTERNATIVES, MAX_BIASES, Sampling, StopRule};
pub use sampler::Sampler;
pub use stop::{Found, StopMatcher};
pub use turn::{Conversation, Turn, TurnModel};
