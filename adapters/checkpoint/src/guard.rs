//! The wall between code that may panic and those who wait for it.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use corolla_domain::ports::PortError;

/// Runs `work`; a panic becomes an error that says `what` panicked.
///
/// # Errors
/// That of `work`; `Internal` where it panicked.
pub fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, PortError>) -> Result<T, PortError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = said(&*panic);
        tracing::error!(what, said, "panic");
        Err(PortError::internal(format!("{what} panicked: {said}")))
    })
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
