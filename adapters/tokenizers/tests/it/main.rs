//! The adapter as its users see it.

mod smollm2;
