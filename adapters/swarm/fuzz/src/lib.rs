//! The wire and the negotiation of streams alone, for the fuzz targets: a build of the whole crate would instrument
//! libp2p as well.
//!
//! Run them with `cargo fuzz run <target>` in `adapters/swarm`, on a stable toolchain with `RUSTC_BOOTSTRAP=1`.

#[path = "../../src/wire/mod.rs"]
pub mod wire;

pub mod transport;
