//! Numbers of bytes as people read them.

/// `bytes` in GB (10^9) or MB, to three digits.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let number = bytes as f64;
    match bytes {
        0..1_000_000 => format!("{:.2} MB", number / 1e6),
        1_000_000..1_000_000_000 => format!("{:.0} MB", number / 1e6),
        1_000_000_000..100_000_000_000 => format!("{:.1} GB", number / 1e9),
        _ => format!("{:.0} GB", number / 1e9),
    }
}
