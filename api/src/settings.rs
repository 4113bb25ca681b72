//! What the front door needs to know before it opens.

use std::{collections::HashMap, sync::Arc, time::Duration};

use corolla_domain::{model::ModelId, session::Pooling};

use crate::{ApiKey, Metrics};

/// Settings of the HTTP side.
#[derive(Debug, Clone)]
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
    /// Keys of which a request must bring one; empty lets everybody ask.
    pub keys: Vec<ApiKey>,
    /// Sites whose pages may read answers, as `https://host:port`, or `*` for all.
    pub origins: Vec<String>,
    /// How others host blocks of each model.
    pub entrances: HashMap<ModelId, Entrance>,
    /// Where measurements are kept: the one that observes the service.
    pub metrics: Arc<Metrics>,
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
            keys: Vec::new(),
            origins: Vec::new(),
            entrances: HashMap::new(),
            metrics: Arc::default(),
        }
    }
}

/// How another machine hosts blocks of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entrance {
    /// The name of the model's file or folder.
    pub file: Option<String>,
    /// The token of its swarm, where everybody may be told.
    pub token: Option<String>,
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// At the same time; requests on further ones are answered with 503.
    pub most: usize,
    /// How long one may be open without a request under way, or without its client reading what it is sent.
    pub idle: Duration,
    /// How long replies that are being written may go on once the server was asked to stop.
    pub drain: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { most: 512, idle: Duration::from_secs(75), drain: Duration::from_secs(30) }
    }
}
