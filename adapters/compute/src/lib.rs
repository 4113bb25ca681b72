//! `LocalModel` and `BlockEngine` over any arithmetic.
//!
//! A library for the adapters that compute. An adapter brings an [`Arithmetic`]: the dozen operations that Llama and
//! BLOOM are made of, in its library, on its device. What is the same for all of them stands here: the families, the
//! worker thread that owns a model, sessions over its blocks, and the budget of their KV caches.

mod arithmetic;
mod budget;
mod families;
mod model;
mod pass;
mod pick;
mod schedule;
mod scoring;
mod session;
mod worker;

pub use arithmetic::{Arithmetic, PAGE, Place, Use};
pub use model::{BlockChoice, LoadConfig, Model};
pub use pick::pick;
