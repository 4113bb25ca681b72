//! What Corolla does: it turns prompts into text with a tokenizer, a local model part and a swarm of block servers.
//!
//! No I/O lives here. The outside world enters through the traits in [`ports`]; values that cross them are plain
//! data from [`model`]. Nothing here spawns tasks, reads the clock of the system, or draws from a global rng.

pub mod fit;
pub mod generation;
pub mod model;
pub mod placement;
pub mod ports;
pub mod routing;
pub mod session;
#[cfg(test)]
pub(crate) mod testing;
