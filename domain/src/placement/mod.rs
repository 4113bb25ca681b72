//! Which blocks a server of a swarm should have: where one that comes is needed most, when one that is there should move,
//! and how many blocks there is memory for. Maps, speeds and chance come in, a choice goes out.

mod balance;
mod load;
mod measure;
mod repair;
mod room;

pub use balance::{QUALITY, Shuffle, choose, reconsider, shuffle};
pub use measure::{Pace, Trial, measure};
pub use repair::{abandons, missing};
pub use room::{RESERVE, Share};

use crate::model::{BlockRange, PeerId};

/// A server that has, or loads, a run of blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    /// Whose it is.
    pub peer: PeerId,
    /// Its blocks.
    pub blocks: BlockRange,
    /// Positions a second it promises for whole passes; finite and not negative.
    pub throughput: f64,
    /// Whether it serves already; otherwise it loads.
    pub online: bool,
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
