//! Plain values that cross the ports: tokens, model descriptions, hidden states, logits, block ranges.

mod block_range;
mod draw;
mod grammar;
mod hidden;
mod logits;
mod message;
mod route_report;
mod spec;
mod swarm_map;
mod tool;

pub use block_range::{BlockRange, blocks_in_words};
pub use draw::{Draw, Noise, Penalties, Words};
pub use grammar::{Calls, Grammar, Otherwise};
pub use hidden::{ElementType, Hidden};
pub use logits::{LogitRow, Logits, Want};
pub use message::{Answered, Chat, Message, Role};
pub use route_report::{Failover, HopReport, RouteReport};
pub use spec::{ModelId, ModelSpec, TokenId};
pub use swarm_map::{Hop, PeerId, ServerFacts, ServerInfo, SwarmMap};
pub use tool::{CallForm, Tool, ToolCall};
