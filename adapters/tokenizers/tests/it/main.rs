//! The adapter as its users see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod damage;
mod golden;
mod promises;
mod speed;
mod templates;
mod tools;
