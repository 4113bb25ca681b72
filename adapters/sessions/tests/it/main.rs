//! Both stores keep the promises of the port; Redis runs for real.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod memory;
mod redis;
mod redis_server;
