//! hivemind's remote procedure calls on streams of a host: unary and streaming, everything bounded in size and time.

mod call;
mod caller;
mod limits;
mod serve;
mod stream;

pub use call::Rpc;
pub(crate) use caller::{Caller, Inbox};
pub use limits::{RemoteFault, RpcLimits};
pub(crate) use serve::serve;
pub use serve::{Outcome, ServeLimits, Service, serve_unary};
pub use stream::RpcStream;
