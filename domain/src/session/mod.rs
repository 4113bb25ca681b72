//! Conversations: opening, continuing, closing, expiry, limits.

mod error;
mod request;

pub use error::ReplyError;
pub use request::{Ambient, Length, Limits, Prompt, Readiness, ReplyRequest, Usage};
