//! Petals swarms over libp2p, wire-compatible with the Python ones: `RemoteSwarm` for clients, and a server of blocks over
//! any `BlockEngine`.

mod client;
pub mod dht;
pub mod rpc;
pub mod server;
pub mod transport;
pub mod wire;

pub use client::{PUBLIC_INITIAL_PEERS, PetalsConfig, PetalsSwarm, Pin, check_pins, default_dht_prefix};
