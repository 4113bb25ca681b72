//! hivemind's remote procedure calls on streams of a host: unary and streaming, everything bounded in size and time.

mod call;
mod limits;
mod serve;
mod stream;

pub use call::Rpc;
pub use limits::{RemoteFault, RpcLimits};
pub use serve::{Outcome, ServeLimits, Service, serve_unary};
pub use stream::RpcStream;
