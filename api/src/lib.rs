//! How people reach Corolla: HTTP endpoints, their OpenAPI description, and the page.
//!
//! A handler parses, calls the domain, and maps what comes back; it decides nothing. `/api/v1` and `/api/v2` are the API of the
//! first clients, `/v1` is the one that OpenAI's clients speak, and the page talks to both like any stranger.

mod body;
mod error;
mod fault;
mod fields;
mod front;
mod guard;
mod hangup;
mod metrics;
mod models;
mod openai;
mod operation;
mod page;
mod reply;
mod route;
mod routes;
mod server;
mod settings;
mod spec;
mod swarm;
mod table;
mod v1;
mod v2;

#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

pub use guard::ApiKey;
pub use metrics::Metrics;
pub use routes::{openapi_3_1_yaml, openapi_yaml, routes};
pub use server::serve;
pub use settings::{ApiSettings, Connections, Entrance};
