//! From a map of servers to hidden states out of the last block: the route, the hops joined, and what happens when a
//! server fails.

mod bans;
mod chain;
mod forward;
mod in_process;
mod joined;
mod pace;
mod plan;
mod router;

pub use bans::Bans;
pub use chain::Chain;
pub use forward::Forward;
pub use in_process::InProcessSwarm;
pub use joined::JoinedSwarm;
pub use plan::{NoRoute, plan};
pub use router::Patience;
