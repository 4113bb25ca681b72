//! libtorch's words as one sentence.

use corolla_domain::ports::{FaultKind, PortError};
use tch::TchError;

/// libtorch refused an operation.
#[allow(clippy::needless_pass_by_value, reason = "fits `map_err`")]
pub(crate) fn library(source: TchError) -> PortError {
    // The first line says what happened, the others where in libtorch.
    let text = source.to_string();
    let said = text.lines().next().unwrap_or("without a word").trim_start_matches("Internal torch error: ");
    if said.contains("can't allocate memory") {
        return PortError::new(FaultKind::Capacity, format!("libtorch: {said}; free memory, or use a smaller model"));
    }
    PortError::internal(format!("libtorch: {said}"))
}
