//! The wire against bytes that the reference wrote (`tests/fixtures/wire`), and against bytes that nobody should write.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests, in their helpers too")]

mod blockwise;
mod dht;
mod frames;
mod hostile;
mod inference;
mod round_trips;
mod tensors;
mod vectors;
