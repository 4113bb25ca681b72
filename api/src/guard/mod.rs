//! Who may ask, from where, and how often: API keys with their limits, and other sites' pages (CORS).

mod cors;
mod door;
mod keys;
mod rate;

#[cfg(test)]
mod tests;

pub use keys::ApiKey;

pub(crate) use cors::Cors;
pub(crate) use door::{Guarded, Held, RequestId, is_open, owner};
pub(crate) use keys::Keys;
