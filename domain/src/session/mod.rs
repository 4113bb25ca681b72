//! Conversations: opening, continuing, closing, expiry, limits.

mod catalogue;
mod continuation;
mod core;
mod embed;
mod error;
mod gate;
mod meter;
mod prefix;
mod reply;
mod request;
mod score;
mod service;
mod table;

pub use catalogue::{Catalogue, ModelEntry, ModelState};
pub use embed::{Embedding, Pooling};
pub use error::ReplyError;
pub use meter::{Meter, MeterReading};
pub use prefix::Owner;
pub use reply::Reply;
pub use request::{Ambient, Length, Limits, Prompt, Readiness, ReplyRequest, Usage};
pub use score::ScoredToken;
pub use service::SessionService;
