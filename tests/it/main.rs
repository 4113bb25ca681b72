//! The house as a whole, through the real binary.

fn main() {}
