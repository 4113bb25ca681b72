//! The store in memory.

use std::sync::Arc;

use corolla_sessions::MemorySessions;
use testkit::session_store::{self as suite, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_every_promise() {
    suite::all(async || Arc::new(MemorySessions::new()) as Store).await;
}
