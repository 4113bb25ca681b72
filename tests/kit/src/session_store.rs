//! Contract of `session_store`.
