//! Requests to block servers and what comes back (§6). Builders return messages; [`super::frame`] puts them on a stream.

use bytes::Bytes;
use corolla_domain::model::Hidden;

use super::{
    WireError,
    msgpack::{EXT_DESCRIPTOR, Fields, Limits, Value},
    proto::{self, Compression, ExpertInfo, ExpertRequest, ExpertResponse, ExpertUid, Tensor},
    tensor::{self, Dtype},
};

/// Protocol of [`info_request`]: unary.
pub const RPC_INFO: &str = "TransformerConnectionHandler.rpc_info";
/// Protocol of [`forward_request`]: unary, up to [`MAX_UNARY_FORWARD`] bytes of input.
pub const RPC_FORWARD: &str = "TransformerConnectionHandler.rpc_forward";
/// Protocol of [`forward_pieces`]: streaming.
pub const RPC_FORWARD_STREAM: &str = "TransformerConnectionHandler.rpc_forward_stream";
/// Protocol of [`step_request`]: streaming.
pub const RPC_INFERENCE: &str = "TransformerConnectionHandler.rpc_inference";
/// Input beyond which forward must be streamed (§6.4).
pub const MAX_UNARY_FORWARD: usize = 1 << 20;

/// Bytes of a reply besides its elements; a stock one has some 40.
const REPLY_ROOM: usize = 64 << 10;

const WHAT: &str = "rpc_info";
/// Three in a stock server; more only where a model takes more arguments.
const MOST_DESCRIPTORS: usize = 16;

/// Asks a server about itself; with a block's uid, about its tensors too.
#[must_use]
pub fn info_request(uid: &str) -> Bytes {
    proto::encode(&ExpertUid { uid: uid.to_owned() })
}

/// A server's answer to [`info_request`] (§6.2).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RpcInfo {
    /// Its Petals version; absent in the oldest.
    pub version: Option<String>,
    /// Whether it is a DHT client: behind NAT.
    pub dht_client_mode: Option<bool>,
    /// Tokens its cache can still take, for one block, K and V together.
    pub cache_tokens_available: Option<u64>,
    /// Arguments of `rpc_inference`; empty where no uid was asked about.
    pub inference_schema: Vec<Descriptor>,
    /// Arguments of `rpc_forward`; empty where no uid was asked about.
    pub forward_schema: Vec<Descriptor>,
    /// Results of both; empty where no uid was asked about.
    pub outputs_schema: Vec<Descriptor>,
}

/// One tensor of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Sides; `None` for one that varies.
    pub size: Vec<Option<u64>>,
    /// Element type; `None` where the server leaves it open.
    pub dtype: Option<Dtype>,
    /// Codec the server answers in.
    pub compression: Compression,
}

impl RpcInfo {
    /// The codec to send hidden states in: that of the first argument of inference.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.inference_schema.first().map_or(Compression::None, |d| d.compression)
    }

    /// The type the server computes in.
    #[must_use]
    pub fn dtype(&self) -> Option<Dtype> {
        self.inference_schema.first().and_then(|d| d.dtype)
    }

    /// Size of a hidden state.
    #[must_use]
    pub fn width(&self) -> Option<u64> {
        self.inference_schema.first().and_then(|d| d.size.last().copied().flatten())
    }
}

/// Reads the reply to [`info_request`].
///
/// # Errors
/// Where anything known is of the wrong type.
pub fn parse_info(reply: Bytes) -> Result<RpcInfo, WireError> {
    let info: ExpertInfo = proto::decode(reply)?;
    let limits = Limits { bytes: 256 << 10, values: 4096, depth: 16 };
    let map = Value::decode_within(&info.serialized_info, limits)?;
    let fields = Fields::of(WHAT, &map)?;
    let text = |v: &Value| v.as_text().filter(|t| t.len() <= 256).map(str::to_owned);
    let args = |v: &Value| descriptors(v.items()?.first()?);
    Ok(RpcInfo {
        version: fields.get("version", text)?,
        dht_client_mode: fields.get("dht_client_mode", Value::as_bool)?,
        cache_tokens_available: fields.get("cache_tokens_available", |v| u64::try_from(v.as_int()?).ok())?,
        inference_schema: fields.get("inference_schema", args)?.unwrap_or_default(),
        forward_schema: fields.get("forward_schema", args)?.unwrap_or_default(),
        outputs_schema: fields.get("outputs_schema", descriptors)?.unwrap_or_default(),
    })
}

fn descriptors(list: &Value) -> Option<Vec<Descriptor>> {
    let items = list.items().filter(|items| items.len() <= MOST_DESCRIPTORS)?;
    items.iter().map(descriptor).collect()
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    let Value::Ext(EXT_DESCRIPTOR, payload) = value else { return None };
    let map = Value::decode_within(payload, Limits { bytes: 4096, values: 128, depth: 4 }).ok()?;
    let side = |v: &Value| if v.is_nil() { Some(None) } else { u64::try_from(v.as_int()?).ok().map(Some) };
    let dtype = match map.get("dtype") {
        None | Some(Value::Nil) => None,
        Some(name) => Some(Dtype::from_name(name.as_text()?.trim_start_matches("torch.")).ok()?),
    };
    Some(Descriptor {
        size: map.get("size")?.items()?.iter().map(side).collect::<Option<_>>()?,
        dtype,
        compression: map.get("compression").map_or(Some(0), Value::as_int)?.try_into().ok()?,
    })
}

/// Metadata of one step of `rpc_inference` (§6.6).
#[derive(Debug, Clone, Copy, Default)]
pub struct StepMetadata<'a> {
    /// Names this session at this server.
    pub session_id: &'a str,
    /// Names the logical step, the same for all servers of the chain.
    pub step_id: &'a str,
    /// In the first message only.
    pub open: Option<Open<'a>>,
    /// Sets the cache to this length first. Servers before July 2024 silently ignore it.
    pub start_from_position: Option<usize>,
    /// Where the server shall push its output (§6.7); `Some` of nothing is what a server writes in a last push.
    pub next_servers: Option<&'a [NextServer]>,
    /// Written by servers on what they push.
    pub pushed: bool,
}

/// What the first message of a session says besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open<'a> {
    /// Positions to set aside.
    pub max_length: usize,
    /// Adapter to compute with.
    pub active_adapter: Option<&'a str>,
    /// Seconds to wait for room in the cache; the server refuses at once without it.
    pub alloc_timeout: Option<f64>,
}

/// A server to push to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextServer {
    /// Its peer id in base58.
    pub peer: String,
    /// Our session there.
    pub session_id: String,
    /// First block to run.
    pub start: usize,
    /// The block after the last.
    pub end: usize,
}

impl StepMetadata<'_> {
    /// The msgpack map, keys in the reference's order.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut map = vec![("session_id", self.session_id.into()), ("step_id", self.step_id.into())];
        if let Some(open) = self.open {
            map.push(("max_length", Value::from(open.max_length)));
            map.push(("points", Value::Float(0.0)));
            map.push(("active_adapter", open.active_adapter.map_or(Value::Nil, Value::from)));
            map.extend(open.alloc_timeout.map(|seconds| ("alloc_timeout", Value::Float(seconds))));
        }
        if let Some(servers) = self.next_servers {
            map.push(("next_servers", Value::Array(servers.iter().map(NextServer::value).collect())));
        }
        map.push(("args_structure", args_structure(3)));
        map.extend(self.start_from_position.map(|position| ("start_from_position", Value::from(position))));
        map.extend(self.pushed.then_some(("pushed", Value::Bool(true))));
        Value::map(map).encode().into()
    }
}

impl NextServer {
    fn value(&self) -> Value {
        let [peer, session] = [&self.peer, &self.session_id].map(|text| Value::from(text.as_str()));
        Value::Tuple(vec![peer, session, self.start.into(), self.end.into()])
    }
}

/// The shape of a call with `tensors` positional arguments (§6.3).
#[must_use]
pub fn args_structure(tensors: usize) -> Value {
    let args = (0..tensors).map(|i| Value::Bytes(format!("__T{i}").into())).collect();
    Value::Tuple(vec![Value::Tuple(args), Value::Map(Vec::new())])
}

/// One step of `rpc_inference`: hidden states for the blocks of `uids` ([`super::server::block_uids`]). `hypo_ids`
/// reorders the rows of the cache before the step.
#[must_use]
pub fn step_request(uids: &str, hidden: Tensor, hypo_ids: Option<&[i64]>, metadata: Bytes) -> ExpertRequest {
    let hypo_ids = hypo_ids.map_or_else(|| tensor::dummy(Dtype::I64), tensor::encode_i64);
    let tensors = vec![hidden, tensor::dummy(Dtype::F32), hypo_ids];
    ExpertRequest { uid: uids.to_owned(), tensors, metadata }
}

/// The message that ends a session and frees its cache: nothing at all (§6.6).
#[must_use]
pub fn close_request() -> Bytes {
    proto::encode(&ExpertRequest::default())
}

/// A computation without cache (§6.4).
#[must_use]
pub fn forward_request(uids: &str, hidden: Tensor, active_adapter: Option<&str>) -> ExpertRequest {
    let metadata = Value::map([
        ("points", Value::Float(0.0)),
        ("active_adapter", active_adapter.map_or(Value::Nil, Value::from)),
        ("args_structure", args_structure(2)),
    ]);
    let tensors = vec![hidden, tensor::dummy(Dtype::F32)];
    ExpertRequest { uid: uids.to_owned(), tensors, metadata: metadata.encode().into() }
}

/// A request cut for the streaming form: one piece of a tensor in each message (§5.4).
#[must_use]
pub fn forward_pieces(request: &ExpertRequest, chunk: usize) -> Vec<ExpertRequest> {
    let pieces = request.tensors.iter().flat_map(|t| tensor::split(t, chunk));
    pieces.map(|piece| ExpertRequest { tensors: vec![piece], ..request.clone() }).collect()
}

/// Most bytes of an honest reply to a step over this tensor: its elements in the widest layout a server writes (§5.2),
/// and 64 KiB for everything else.
#[must_use]
pub fn most_reply(sent: &Tensor) -> usize {
    let elements = sent.size.iter().try_fold(1usize, |n, side| n.checked_mul(*side as usize));
    elements.and_then(|n| n.checked_mul(4)?.checked_add(REPLY_ROOM)).unwrap_or(usize::MAX)
}

/// Reads the reply to a step or a forward pass over `sent`: hidden states of the same shape, in the server's type. They
/// may share the reply's memory; who keeps them should copy them.
///
/// # Errors
/// Where it is not exactly one tensor of that shape, or any of its numbers is not finite.
pub fn parse_hidden(reply: Bytes, sent: &Hidden) -> Result<Hidden, WireError> {
    let response: ExpertResponse = proto::decode(reply)?;
    hidden_of(&response.tensors, sent)
}

/// As [`parse_hidden`], for tensors put together by [`tensor::Joiner`].
///
/// # Errors
/// As [`parse_hidden`].
pub fn hidden_of(tensors: &[Tensor], sent: &Hidden) -> Result<Hidden, WireError> {
    let [tensor] = tensors else {
        return Err(WireError::malformed("reply", format!("{} tensors in place of one", tensors.len())));
    };
    let wanted = [sent.batch(), sent.seq(), sent.width()];
    if tensor.size.len() != 3 || tensor.size.iter().zip(wanted).any(|(side, wanted)| *side as usize != wanted) {
        return Err(WireError::malformed("reply", format!("shape {:?} in place of {wanted:?}", tensor.size)));
    }
    let elements = wanted.iter().product();
    let hidden = tensor::decode(tensor, tensor::Limits { elements })?.to_hidden()?;
    if !hidden.is_finite() {
        return Err(WireError::malformed("reply", "hidden states that are not finite"));
    }
    Ok(hidden)
}
