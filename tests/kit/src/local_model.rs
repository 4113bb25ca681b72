//! Contract of `local_model`.
