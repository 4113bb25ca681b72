//! What a look at the swarm found, for people.

use std::time::Duration;

use serde::Serialize;

use super::view::{Ping, Seen};
use crate::wire::server::ServerState;

/// A swarm as this client last saw it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SwarmStatus {
    /// The model's name.
    pub model: String,
    /// What its servers publish their blocks under.
    pub dht_prefix: String,
    /// Blocks of the model.
    pub blocks: usize,
    /// Everyone who announced any of them, in the order of their first blocks.
    pub servers: Vec<ServerStatus>,
    /// Blocks that no usable server hosts.
    pub missing: Vec<usize>,
    /// Seconds since the last successful look; `None` before the first.
    pub age: Option<f64>,
    /// Why the latest look failed, where it did.
    pub fault: Option<String>,
}

/// One server as it announces itself, and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerStatus {
    /// Its peer id.
    pub peer: String,
    /// The name its operator gave it.
    pub name: Option<String>,
    /// `online`, `joining` or `offline`.
    pub state: &'static str,
    /// Runs of blocks it hosts, as first block and the block after the last.
    pub spans: Vec<(usize, usize)>,
    /// Whether the configuration lets it be used.
    pub admitted: bool,
    /// Tokens a second, as announced.
    pub throughput: f64,
    /// Steps of one token a second and block, where announced.
    pub inference_rps: Option<f64>,
    /// Tokens a second of its network, where announced.
    pub network_rps: Option<f64>,
    /// Version of its software.
    pub version: Option<String>,
    /// What it computes in.
    pub dtype: Option<String>,
    /// How its weights are kept.
    pub quantization: Option<String>,
    /// Positions its cache can still take over all its blocks.
    pub free_tokens: Option<usize>,
    /// Milliseconds to it and back; `None` where not measured or out of reach.
    pub rtt_ms: Option<f64>,
    /// Whether it answered the latest ping; `None` where there was none.
    pub reachable: Option<bool>,
    /// Whether it says that it is reached through a relay.
    pub relayed: Option<bool>,
    /// How this client is connected to it, `direct` or `relayed`; `None` where it is not.
    pub connection: Option<&'static str>,
    /// Adapters it has loaded.
    pub adapters: Vec<String>,
}

impl ServerStatus {
    pub(super) fn new(seen: &Seen, admitted: bool, rtt: Option<Ping>, relayed: Option<bool>) -> Self {
        let record = &seen.record;
        Self {
            peer: seen.peer.0.clone(),
            name: record.public_name.clone(),
            state: match record.state {
                ServerState::Online => "online",
                ServerState::Joining => "joining",
                ServerState::Offline => "offline",
            },
            spans: seen.spans.iter().map(|span| (span.start(), span.end())).collect(),
            admitted,
            throughput: record.throughput,
            inference_rps: record.inference_rps,
            network_rps: record.network_rps,
            version: record.version.clone(),
            dtype: record.torch_dtype.clone(),
            quantization: record.quant_type.clone(),
            free_tokens: seen.free_tokens(),
            rtt_ms: rtt.flatten().as_ref().map(Duration::as_secs_f64).map(|s| s * 1e3),
            reachable: rtt.map(|ping| ping.is_some()),
            relayed: record.using_relay,
            connection: relayed.map(|relayed| if relayed { "relayed" } else { "direct" }),
            adapters: record.adapters.clone(),
        }
    }
}
