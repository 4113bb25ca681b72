//! A client of Petals swarms: `RemoteSwarm` over libp2p, wire-compatible with the Python servers.

mod client;
pub mod dht;
pub mod rpc;
pub mod transport;
pub mod wire;

pub use client::{PUBLIC_INITIAL_PEERS, PetalsConfig, PetalsSwarm, Pin, check_pins, default_dht_prefix};
