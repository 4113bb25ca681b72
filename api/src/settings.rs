//! What the front door needs to know before it opens.

use std::time::Duration;

use corolla_domain::session::Pooling;

/// Settings of the HTTP side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSettings {
    /// Version in the description and in `/health/live`.
    pub version: String,
    /// Longest request body in bytes; a longer one is answered with 413.
    pub max_body_bytes: usize,
    /// How long a client may take to send its body.
    pub body_timeout: Duration,
    /// How long one reply may take, waiting included.
    pub reply_timeout: Duration,
    /// Silence on an event stream after which a comment is sent, so that proxies keep it open.
    pub keep_alive: Duration,
    /// How the states of a text become its embedding.
    pub pooling: Pooling,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_body_bytes: 2 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(900),
            keep_alive: Duration::from_secs(15),
            pooling: Pooling::Mean,
        }
    }
}
