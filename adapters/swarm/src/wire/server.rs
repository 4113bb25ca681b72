//! What Petals servers publish about themselves (§4), and the names they publish it under.

use std::{collections::BTreeMap, ops::Range};

use super::{
    WireError,
    msgpack::{Fields, Limits, Value},
};

const WHAT: &str = "server record";
/// Most bytes of a text in a record: it may end in a table on a terminal.
const MOST_TEXT: usize = 256;
/// Most adapters or pings kept of one server.
const MOST_ITEMS: usize = 4096;
/// One record: a few hundred bytes, plus 60 for each ping.
const LIMITS: Limits = Limits { bytes: 512 << 10, values: 10_000, depth: 8 };

/// The key of the registry of models (§4.3); its subkeys are prefixes.
pub const MODELS_KEY: &str = "_petals.models";

/// Whether a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerState {
    /// It said goodbye.
    Offline,
    /// It loads its blocks.
    Joining,
    /// It serves.
    Online,
}

/// A server about itself (§4.2).
#[derive(Debug, Clone, PartialEq)]
pub struct ServerRecord {
    /// Whether it answers.
    pub state: ServerState,
    /// Tokens a second, as announced; finite and not negative.
    pub throughput: f64,
    /// First block it serves.
    pub start_block: Option<usize>,
    /// The block after its last.
    pub end_block: Option<usize>,
    /// Its operator's name for it.
    pub public_name: Option<String>,
    /// Its Petals version.
    pub version: Option<String>,
    /// Tokens a second of its network.
    pub network_rps: Option<f64>,
    /// Tokens a second and block, without cache.
    pub forward_rps: Option<f64>,
    /// Steps of one token a second and block.
    pub inference_rps: Option<f64>,
    /// Adapters it has loaded.
    pub adapters: Vec<String>,
    /// `bfloat16`, `float16` or `float32`.
    pub torch_dtype: Option<String>,
    /// `none`, `int8` or `nf4`.
    pub quant_type: Option<String>,
    /// Whether it is reached through a relay.
    pub using_relay: Option<bool>,
    /// Room in its cache, K and V of every block counted apart (§8.4).
    pub cache_tokens_left: Option<u64>,
    /// Round trips in seconds to servers of the blocks after its own; may be infinite.
    pub next_pings: BTreeMap<String, f64>,
}

impl ServerRecord {
    /// A record without extras, as Petals 1.1 wrote it.
    #[must_use]
    pub fn new(state: ServerState, throughput: f64) -> Self {
        Self {
            state,
            throughput,
            start_block: None,
            end_block: None,
            public_name: None,
            version: None,
            network_rps: None,
            forward_rps: None,
            inference_rps: None,
            adapters: Vec::new(),
            torch_dtype: None,
            quant_type: None,
            using_relay: None,
            cache_tokens_left: None,
            next_pings: BTreeMap::new(),
        }
    }

    /// Reads a record, as strictly as the reference does: a number of the wrong sort costs the record.
    ///
    /// # Errors
    /// Where anything known is of the wrong type or out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let value = Value::decode_within(bytes, LIMITS)?;
        let (state, throughput, extra) = match value.items() {
            Some([state, throughput]) => (state, throughput, &Value::Nil),
            Some([state, throughput, extra]) => (state, throughput, extra),
            _ => return Err(WireError::malformed(WHAT, "not a tuple of two or three")),
        };
        let state = match state.as_int() {
            Some(0) => ServerState::Offline,
            Some(1) => ServerState::Joining,
            Some(2) => ServerState::Online,
            _ => return Err(WireError::malformed(WHAT, "state")),
        };
        let throughput =
            throughput.as_float().and_then(rate).ok_or_else(|| WireError::malformed(WHAT, "throughput"))?;
        let mut record = Self::new(state, throughput);
        if !extra.is_nil() {
            record.read_extra(extra)?;
        }
        Ok(record)
    }

    fn read_extra(&mut self, extra: &Value) -> Result<(), WireError> {
        let fields = Fields::of(WHAT, extra)?;
        let text = |v: &Value| v.as_text().filter(|t| t.len() <= MOST_TEXT).map(str::to_owned);
        let index = |v: &Value| v.as_int().and_then(|n| usize::try_from(n).ok());
        self.start_block = fields.get("start_block", index)?;
        self.end_block = fields.get("end_block", index)?;
        self.public_name = fields.get("public_name", text)?;
        self.version = fields.get("version", text)?;
        self.network_rps = fields.get("network_rps", |v| v.as_float().and_then(rate))?;
        self.forward_rps = fields.get("forward_rps", |v| v.as_float().and_then(rate))?;
        self.inference_rps = fields.get("inference_rps", |v| v.as_float().and_then(rate))?;
        self.torch_dtype = fields.get("torch_dtype", text)?;
        self.quant_type = fields.get("quant_type", text)?;
        self.using_relay = fields.get("using_relay", Value::as_bool)?;
        self.cache_tokens_left = fields.get("cache_tokens_left", |v| v.as_int().and_then(|n| u64::try_from(n).ok()))?;
        if let Some(adapters) = extra.get("adapters") {
            let items = adapters.items().filter(|a| a.len() <= MOST_ITEMS).ok_or_else(|| fields.wrong("adapters"))?;
            self.adapters = items.iter().map(text).collect::<Option<_>>().ok_or_else(|| fields.wrong("adapters"))?;
        }
        let pings = |v: &Value| v.entries().filter(|p| p.len() <= MOST_ITEMS).map(<[_]>::to_vec);
        for (peer, seconds) in fields.get("next_pings", pings)?.unwrap_or_default() {
            let peer = text(&peer).ok_or_else(|| fields.wrong("next_pings"))?;
            let seconds = seconds.as_float().filter(|s| *s >= 0.0).ok_or_else(|| fields.wrong("next_pings"))?;
            self.next_pings.insert(peer, seconds);
        }
        if self.start_block.zip(self.end_block).is_some_and(|(start, end)| start > end) {
            return Err(fields.wrong("its last block is before its first"));
        }
        Ok(())
    }

    /// The record as a server publishes it, keys in the reference's order. For peers of ours and for tests.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = |t: &Option<String>| t.as_deref().map_or(Value::Nil, Value::from);
        let float = |f: Option<f64>| f.map_or(Value::Nil, Value::Float);
        let mut extra = Vec::new();
        if let Some((start, end)) = self.start_block.zip(self.end_block) {
            extra.push(("start_block", Value::from(start)));
            extra.push(("end_block", Value::from(end)));
        }
        let adapters = self.adapters.iter().map(|a| Value::from(a.as_str())).collect();
        let pings = self.next_pings.iter().map(|(peer, seconds)| (peer.as_str(), Value::Float(*seconds)));
        extra.extend([
            ("public_name", text(&self.public_name)),
            ("version", text(&self.version)),
            ("network_rps", float(self.network_rps)),
            ("forward_rps", float(self.forward_rps)),
            ("inference_rps", float(self.inference_rps)),
            ("adapters", Value::Tuple(adapters)),
            ("torch_dtype", text(&self.torch_dtype)),
            ("quant_type", text(&self.quant_type)),
            ("using_relay", self.using_relay.map_or(Value::Nil, Value::Bool)),
            ("cache_tokens_left", self.cache_tokens_left.map_or(Value::Nil, |n| Value::from(n as usize))),
            ("next_pings", Value::map(pings)),
        ]);
        let state = Value::Int(self.state as i64);
        Value::Tuple(vec![state, Value::Float(self.throughput), Value::map(extra)]).encode()
    }
}

/// A model as the registry has it (§4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    /// Blocks of the model, at least 1.
    pub num_blocks: usize,
    /// Where its checkpoint is.
    pub repository: Option<String>,
}

impl ModelRecord {
    /// Reads a record.
    ///
    /// # Errors
    /// Where anything is of the wrong type or out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let value = Value::decode_within(bytes, LIMITS)?;
        let fields = Fields::of("model record", &value)?;
        let blocks = |v: &Value| v.as_int().and_then(|n| usize::try_from(n).ok()).filter(|n| *n >= 1);
        let num_blocks = fields.get("num_blocks", blocks)?.ok_or_else(|| fields.wrong("num_blocks"))?;
        let text = |v: &Value| v.as_text().filter(|t| t.len() <= MOST_TEXT).map(str::to_owned);
        Ok(Self { num_blocks, repository: fields.get("repository", text)? })
    }

    /// The record as a server publishes it. For peers of ours and for tests.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let repository = self.repository.as_deref().map_or(Value::Nil, Value::from);
        Value::map([("num_blocks", Value::from(self.num_blocks)), ("repository", repository)]).encode()
    }
}

/// The key of a block's record, and its uid in requests (§4.1).
#[must_use]
pub fn block_key(prefix: &str, index: usize) -> String {
    format!("{prefix}.{index}")
}

/// Uids of consecutive blocks as a request names them.
#[must_use]
pub fn block_uids(prefix: &str, blocks: Range<usize>) -> String {
    blocks.map(|index| block_key(prefix, index)).collect::<Vec<_>>().join(" ")
}

/// Refuses a prefix that cannot stand in a key: empty, or with a dot or white space.
///
/// # Errors
/// `Malformed` that says why.
pub fn check_prefix(prefix: &str) -> Result<(), WireError> {
    if prefix.is_empty() || prefix.contains(|c: char| c == '.' || c.is_whitespace()) {
        return Err(WireError::malformed("DHT prefix", format!("{prefix:?} is empty or has a dot or a space")));
    }
    WireError::cap("DHT prefix", prefix.len(), MOST_TEXT)
}

/// The prefix of a model by the rule of its family (§4.1): `model_type` and repository as Hugging Face writes them.
/// `None` for a family without a rule.
#[must_use]
pub fn default_prefix(model_type: &str, repository: &str) -> Option<String> {
    let dashed = repository.replace('.', "-");
    let last = dashed.rsplit('/').next().unwrap_or(&dashed);
    match model_type {
        "bloom" if dashed.ends_with("-petals") => Some(dashed),
        "bloom" => Some(format!("{dashed}-petals")),
        "llama" if last.ends_with("-hf") => Some(last.to_owned()),
        "llama" => Some(format!("{last}-hf")),
        "falcon" => Some(last.to_owned()),
        "mixtral" => Some(dashed),
        _ => None,
    }
}

/// A rate is finite and not negative.
fn rate(number: f64) -> Option<f64> {
    (number.is_finite() && number >= 0.0).then_some(number)
}
