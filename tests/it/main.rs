//! The house as a whole: through the real binary, with real models, on real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests, in their helpers too")]

#[cfg(unix)]
mod backends;
mod bad_input;
mod bench;
mod chat;
mod golden;
mod guards;
#[cfg(unix)]
mod hosting;
mod layering;
mod open_api;
mod openai;
mod operations;
mod server;
mod simulation;
#[cfg(unix)]
mod swarm;
mod v1;
mod v2;
