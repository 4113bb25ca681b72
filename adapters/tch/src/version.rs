//! Which libtorch was found when this program started.
#![allow(unsafe_code)]

use corolla_domain::ports::{FaultKind, PortError};

/// The release that `tch` was made for. With another one its calls are wrong without a word: with 2.12 sizes are garbage.
const WANTED: (u64, u64) = (2, 13);

unsafe extern "C" {
    /// The release as bytes from the highest: major, minor, patch (libtorch's stable interface,
    /// `torch/csrc/inductor/aoti_torch/c/shim.h`).
    safe fn aoti_torch_abi_version() -> u64;
}

/// The running release.
pub(crate) fn running() -> Result<String, PortError> {
    let bytes = aoti_torch_abi_version().to_be_bytes();
    let [major, minor, patch] = [bytes[0], bytes[1], bytes[2]].map(u64::from);
    if (major, minor) == WANTED {
        return Ok(format!("libtorch {major}.{minor}.{patch}"));
    }
    let (wanted_major, wanted_minor) = WANTED;
    let text = format!(
        "libtorch {major}.{minor}.{patch} was found where {wanted_major}.{wanted_minor} is needed: `make libtorch` sets \
         it up; see that LD_LIBRARY_PATH names no other"
    );
    Err(PortError::new(FaultKind::Unsupported, text))
}
