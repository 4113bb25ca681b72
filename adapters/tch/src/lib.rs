//! `LocalModel` and `BlockEngine` on libtorch, in f32.
//!
//! One arithmetic for the families of `corolla-compute`. Built without cargo feature `libtorch` the crate is an empty
//! shell that says what is missing.

#[cfg(feature = "libtorch")]
mod arithmetic;
#[cfg(feature = "libtorch")]
mod attention;
#[cfg(feature = "libtorch")]
mod fault;
#[cfg(feature = "libtorch")]
mod matrix;
#[cfg(feature = "libtorch")]
mod version;

use corolla_compute::{LoadConfig, Model};
use corolla_domain::ports::PortError;

/// Whether this build has libtorch.
pub const BUILT_IN: bool = cfg!(feature = "libtorch");

/// The libtorch that runs, e.g. `libtorch 2.13.0`.
///
/// # Errors
/// `Unsupported` where this build has none, or another release than the one it was made for was found.
#[cfg(feature = "libtorch")]
pub fn library() -> Result<String, PortError> {
    version::running()
}

/// Loads what `config` names, with `threads` threads (or one for each core).
///
/// # Errors
/// Those of [`Model::load`] and [`library`].
#[cfg(feature = "libtorch")]
pub async fn load(config: LoadConfig, threads: Option<usize>) -> Result<Model, PortError> {
    version::running()?;
    Model::load(config, move || Ok(arithmetic::TchArithmetic::new(threads))).await
}

/// The libtorch that runs: none here.
///
/// # Errors
/// `Unsupported`: this build has no libtorch.
#[cfg(not(feature = "libtorch"))]
pub fn library() -> Result<String, PortError> {
    let text = "this build has no libtorch: `make libtorch` makes one that has";
    Err(PortError::new(corolla_domain::ports::FaultKind::Unsupported, text))
}

/// Would load what `config` names.
///
/// # Errors
/// `Unsupported`: this build has no libtorch.
#[cfg(not(feature = "libtorch"))]
#[allow(clippy::unused_async, reason = "the signature of builds that have libtorch")]
pub async fn load(_: LoadConfig, _: Option<usize>) -> Result<Model, PortError> {
    Err(library().err().unwrap_or_else(|| PortError::internal("no libtorch, and no word about it")))
}
