//! Contract of `block_engine`.
