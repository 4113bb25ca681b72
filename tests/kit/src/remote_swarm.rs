//! Contract of `remote_swarm`.
