//! What a block server reads and writes (§6): requests as callers send them, and what it says of itself.

use std::ops::Range;

use bytes::Bytes;

use super::{
    WireError,
    inference::NextServer,
    msgpack::{EXT_DESCRIPTOR, Fields, Limits, Value},
    proto::{self, Compression, ExpertInfo},
    tensor::Dtype,
};

/// Protocol of pushes between servers: unary.
pub const RPC_PUSH: &str = "TransformerConnectionHandler.rpc_push";
/// Protocol of gradients: unary.
pub const RPC_BACKWARD: &str = "TransformerConnectionHandler.rpc_backward";
/// Protocol of gradients in pieces: streaming.
pub const RPC_BACKWARD_STREAM: &str = "TransformerConnectionHandler.rpc_backward_stream";

const WHAT: &str = "metadata";
/// Most bytes of a uid list: a few hundred blocks of a long prefix.
const MOST_UIDS: usize = 128 << 10;
/// Most bytes of a name that a caller gives to a session or a step: a UUID's text.
const MOST_NAME: usize = 128;
/// Servers that an output may travel on to.
const MOST_NEXT: usize = 64;
/// Arguments of a call.
const MOST_ARGS: usize = 16;
/// Metadata: a few names, and a line for each server of the route.
const METADATA: Limits = Limits { bytes: 64 << 10, values: 2048, depth: 12 };
/// The positions a forward pass takes, as a schema states them. Nobody reads it.
const SCHEMA_LENGTH: usize = 2048;

/// What a caller says besides tensors (§6.1, §6.6).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CallMetadata {
    /// The caller's name for its session.
    pub session_id: Option<String>,
    /// The step's name.
    pub step_id: Option<String>,
    /// Positions to set aside; in the first message.
    pub max_length: Option<i64>,
    /// Seconds to wait for room in the cache.
    pub alloc_timeout: f64,
    /// An adapter to compute with; empty texts count as none.
    pub active_adapter: Option<String>,
    /// For each argument in order, which tensor it is.
    pub arguments: Option<Vec<usize>>,
    /// Sets the cache to this length first.
    pub start_from_position: Option<i64>,
    /// Where the output is to be pushed.
    pub next_servers: Vec<NextServer>,
    /// Whether a server sent this.
    pub pushed: bool,
    /// The codec of each result.
    pub output_compression: Option<Vec<Compression>>,
}

impl CallMetadata {
    /// Reads metadata; empty bytes are an empty map, unknown keys are skipped.
    ///
    /// # Errors
    /// Where anything known is of the wrong type or too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let map = Value::decode_within(bytes, METADATA)?;
        let fields = Fields::of(WHAT, &map)?;
        let name = |v: &Value| v.as_text().filter(|text| text.len() <= MOST_NAME).map(str::to_owned);
        let number = |v: &Value| v.as_float().or_else(|| v.as_int().map(|n| n as f64)).filter(|n| n.is_finite());
        let codecs = |v: &Value| {
            let items = v.items().filter(|items| items.len() <= MOST_ARGS)?;
            items.iter().map(|v| Compression::try_from(v.as_int()?).ok()).collect()
        };
        let servers = |v: &Value| v.items().filter(|items| items.len() <= MOST_NEXT)?.iter().map(next_server).collect();
        if map.get("points").is_some_and(|points| number(points).is_none()) {
            return Err(fields.wrong("points must be a number"));
        }
        Ok(Self {
            session_id: fields.get("session_id", name)?,
            step_id: fields.get("step_id", name)?,
            max_length: fields.get("max_length", Value::as_int)?,
            alloc_timeout: fields.get("alloc_timeout", number)?.unwrap_or(0.0).max(0.0),
            active_adapter: fields.get("active_adapter", name)?.filter(|name| !name.is_empty()),
            arguments: fields.get("args_structure", arguments)?,
            start_from_position: fields.get("start_from_position", Value::as_int)?,
            next_servers: fields.get("next_servers", servers)?.unwrap_or_default(),
            pushed: fields.get("pushed", Value::as_bool)?.unwrap_or_default(),
            output_compression: fields.get("output_compression", codecs)?,
        })
    }

    /// The tensors of a call in the order of its arguments.
    ///
    /// # Errors
    /// Where an argument is a tensor that did not come.
    pub fn arrange<T: Clone>(&self, tensors: Vec<T>) -> Result<Vec<T>, WireError> {
        let Some(arguments) = &self.arguments else { return Ok(tensors) };
        let tensor = |nth: &usize| tensors.get(*nth).cloned();
        arguments
            .iter()
            .map(tensor)
            .collect::<Option<_>>()
            .ok_or_else(|| WireError::malformed(WHAT, "args_structure has no such tensor"))
    }
}

/// Reads `((b"__T0", …), {…})`: which tensor each positional argument is. What is no tensor is refused.
fn arguments(value: &Value) -> Option<Vec<usize>> {
    let [args, _kwargs] = value.items()? else { return None };
    let args = args.items().filter(|args| args.len() <= MOST_ARGS)?;
    let nth = |value: &Value| match value {
        Value::Bytes(mask) => std::str::from_utf8(mask.strip_prefix(b"__T")?).ok()?.parse().ok(),
        _ => None,
    };
    args.iter().map(nth).collect()
}

fn next_server(value: &Value) -> Option<NextServer> {
    let [peer, session, start, end] = value.items()? else { return None };
    let text = |v: &Value| v.as_text().filter(|text| text.len() <= MOST_NAME).map(str::to_owned);
    let block = |v: &Value| usize::try_from(v.as_int()?).ok();
    let server = NextServer { peer: text(peer)?, session_id: text(session)?, start: block(start)?, end: block(end)? };
    (server.start < server.end && server.end - server.start <= MOST_BLOCKS).then_some(server)
}

/// Blocks of one request.
const MOST_BLOCKS: usize = 4096;

/// The blocks that a request names: consecutive ones of `prefix`. `Err` has the uid that is none of them.
///
/// # Errors
/// The first uid that does not fit.
pub fn parse_uids(uids: &str, prefix: &str) -> Result<Range<usize>, String> {
    let shown = |uid: &str| uid.chars().take(MOST_NAME).collect::<String>();
    if uids.len() > MOST_UIDS {
        return Err(shown(uids));
    }
    let mut blocks: Option<Range<usize>> = None;
    for uid in uids.split(' ') {
        let index = uid.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        let index = index.filter(|index| index.bytes().all(|b| b.is_ascii_digit()) && index.len() <= 6);
        let index: usize = index.and_then(|index| index.parse().ok()).ok_or_else(|| shown(uid))?;
        blocks = match blocks {
            None => Some(index..index + 1),
            Some(range) if range.end == index => Some(range.start..index + 1),
            Some(_) => return Err(shown(uid)),
        };
    }
    blocks.ok_or_else(|| shown(uids))
}

/// The reply to `rpc_info` (§6.2): of a server that is reached directly, or is a client of the DHT, and how many positions of
/// one block its cache can still take; with `block`, the width and type of its tensors too.
#[must_use]
pub fn info_reply(version: &str, client_mode: bool, free_tokens: usize, block: Option<(usize, Dtype)>) -> Bytes {
    let mut map = vec![
        ("version", Value::from(version)),
        ("dht_client_mode", Value::Bool(client_mode)),
        ("cache_tokens_available", Value::from(free_tokens)),
    ];
    if let Some((width, dtype)) = block {
        let states = || descriptor(vec![Value::Nil, 1.into(), SCHEMA_LENGTH.into(), width.into()], dtype);
        let scalar = |dtype| descriptor(vec![Value::Nil], dtype);
        let call = |args: Vec<Value>| Value::Tuple(vec![Value::Tuple(args), Value::Map(Vec::new())]);
        map.extend([
            ("forward_schema", call(vec![states()])),
            ("outputs_schema", Value::Tuple(vec![states()])),
            ("keyword_names", Value::Tuple(Vec::new())),
            ("inference_schema", call(vec![states(), scalar(dtype), scalar(Dtype::I64)])),
        ]);
    }
    proto::encode(&ExpertInfo { serialized_info: Value::map(map).encode().into() })
}

/// A tensor's description, with exactly the keys that the reference's reader takes.
fn descriptor(size: Vec<Value>, dtype: Dtype) -> Value {
    let name = format!("torch.{}", dtype.name());
    let map = Value::map([
        ("size", Value::Tuple(size)),
        ("dtype", Value::from(name.as_str())),
        ("layout", Value::from("torch.strided")),
        ("requires_grad", Value::Bool(false)),
        ("pin_memory", Value::Bool(false)),
        ("compression", Value::Int(Compression::None.code().into())),
        ("device_type", Value::Nil),
        ("device_index", Value::Nil),
    ]);
    Value::Ext(EXT_DESCRIPTOR, map.encode().into())
}
