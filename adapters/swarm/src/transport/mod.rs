//! The libp2p host: connections, streams and addresses; what is said on a stream is `rpc`'s business.

mod access;
mod actor;
mod address_book;
mod behaviour;
mod conduct;
mod config;
mod find_node;
mod host;
mod identity;
mod kademlia;
mod multistream;
mod places;
mod roster;
mod shim;
mod shim_stream;
mod streams;

pub use libp2p::{Multiaddr, PeerId, Stream};

pub use access::{Access, SwarmSecret};
pub(crate) use conduct::{Conduct, Worth};
pub use config::HostConfig;
pub(crate) use config::{initial_peers, listen_addresses};
pub use host::{Host, Incoming};
pub(crate) use places::{Holding, Holdings, Most, take};
pub(crate) use roster::{ip, is_circuit, port};
