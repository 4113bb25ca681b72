//! hivemind's remote procedure calls on streams of a host: unary and streaming, everything bounded in size and time.

mod call;
mod caller;
mod limits;
mod room;
mod serve;
mod stream;

pub use call::Rpc;
pub(crate) use caller::{Caller, CallerFault};
pub use limits::{RemoteFault, RpcLimits};
pub(crate) use room::{Message, NoRoom, Room, Share};
pub use serve::{Outcome, ServeLimits, Service, serve_unary};
pub(crate) use serve::{serve, serve_messages};
pub use stream::RpcStream;
