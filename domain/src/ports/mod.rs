//! What the domain needs from the outside world, as traits. Adapters implement them; `testkit` holds the contract
//! suite that every implementation passes.
//!
//! Rules for all of them: arguments are checked, a bad one is `InvalidInput`, never a panic. Every future may be
//! dropped at any await: dropping is how work is cancelled, and it never damages the port.

mod block_engine;
mod constraint;
mod error;
mod local_model;
mod observer;
mod remote_swarm;
mod session_store;
mod tokenizer;

pub use block_engine::{BackwardInput, BlockEngine, BlockSession, Gradients, Inbox, Relay, SessionNeed, StepInput};
pub use constraint::{Constraint, TokenSet};
pub use error::{FaultKind, PortError};
pub use local_model::LocalModel;
pub use observer::{Event, Observer, Unobserved};
pub use remote_swarm::RemoteSwarm;
pub use session_store::{SessionRecord, SessionStore, Timestamp};
pub use tokenizer::Tokenizer;

#[cfg(any(test, feature = "mocks"))]
pub use {
    block_engine::{MockBlockEngine, MockBlockSession},
    constraint::MockConstraint,
    local_model::MockLocalModel,
    remote_swarm::MockRemoteSwarm,
    session_store::MockSessionStore,
    tokenizer::MockTokenizer,
};
