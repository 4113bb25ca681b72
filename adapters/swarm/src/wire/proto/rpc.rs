//! Messages that frame an RPC (§2.2, §2.3). proto2: required fields are written even when empty.

use bytes::Bytes;

use super::bounds::{Bounded, Rule};

/// The one frame of a unary call, in either direction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PersistentConnectionRequest {
    /// 16 random bytes, unique over all callers.
    #[prost(bytes = "bytes", required, tag = "1")]
    pub call_id: Bytes,
    /// The request or the reply.
    #[prost(oneof = "call::Call", tags = "3, 4")]
    pub call: Option<call::Call>,
}

/// Arms of [`PersistentConnectionRequest`].
pub mod call {
    /// Request or reply.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Call {
        /// Caller to callee.
        #[prost(message, tag = "3")]
        Request(super::CallUnaryRequest),
        /// Callee to caller.
        #[prost(message, tag = "4")]
        Response(super::CallUnaryResponse),
    }
}

/// A unary request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CallUnaryRequest {
    /// Peer id of the target; may be empty.
    #[prost(bytes = "bytes", required, tag = "1")]
    pub peer: Bytes,
    /// Protocol id of the stream.
    #[prost(string, required, tag = "2")]
    pub proto: String,
    /// The request message.
    #[prost(bytes = "bytes", required, tag = "3")]
    pub data: Bytes,
}

/// A unary reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CallUnaryResponse {
    /// What came of the call.
    #[prost(oneof = "outcome::Outcome", tags = "1, 2")]
    pub outcome: Option<outcome::Outcome>,
}

/// Arms of [`CallUnaryResponse`].
pub mod outcome {
    use bytes::Bytes;

    /// Result or failure.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Outcome {
        /// The response message.
        #[prost(bytes = "bytes", tag = "1")]
        Response(Bytes),
        /// Text of the exception.
        #[prost(bytes = "bytes", tag = "2")]
        Error(Bytes),
    }
}

/// Body of an `01` record of a stream. Bytes in place of text: a bad character must not cost the message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RpcError {
    /// Absent in an end-of-input record.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub message: Option<Bytes>,
}

impl Bounded for PersistentConnectionRequest {
    const NAME: &'static str = "unary frame";
    const RULES: &'static [Rule] = &[];
}

impl Bounded for RpcError {
    const NAME: &'static str = "stream error record";
    const RULES: &'static [Rule] = &[];
}
