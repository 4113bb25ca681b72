//! [`SessionStore`](corolla_domain::ports::SessionStore) in memory, for one server alone, and in Redis, for several
//! that share their sessions or one that restarts.

mod memory;
mod redis;

pub use self::{memory::MemorySessions, redis::RedisSessions};
