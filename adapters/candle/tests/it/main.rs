//! The adapter as callers see it: its contracts, what other implementations say, formats, and damaged files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod backward;
mod contract;
mod damage;
mod forks;
mod formats;
mod gguf;
mod golden;
#[cfg(feature = "cuda")]
mod gpu;
mod kv_types;
mod run;
mod screen;
