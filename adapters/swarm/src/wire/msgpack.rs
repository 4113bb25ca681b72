//! hivemind's dialect of msgpack (§3.3): the standard one, with tuples and two more types as extensions.
//!
//! [`Value::decode`] walks the bytes once to count values and depth, so that what `rmpv` builds afterwards is bounded.

use std::borrow::Cow;

use bytes::Bytes;
use rmpv::ValueRef;

use super::WireError;

const WHAT: &str = "msgpack";

/// Extension code of a tuple: its payload is an array.
pub const EXT_TUPLE: i8 = 0x40;
/// Extension code of a DHT dictionary (§3.5).
pub const EXT_DICTIONARY: i8 = 0x50;
/// Extension code of a tensor descriptor (§6.2).
pub const EXT_DESCRIPTOR: i8 = 0x51;

/// What a decoder takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub bytes: usize,
    /// Values in all; one takes about 40 bytes in memory and as little as one on the wire.
    pub values: usize,
    /// Arrays, maps and tuples inside each other.
    pub depth: usize,
}

impl Default for Limits {
    /// 4 MiB (a unary frame), 100,000 values (a dictionary of 10,000 servers has 50,000), depth 32 (rpc_info has 9).
    fn default() -> Self {
        Self { bytes: super::frame::MAX_UNARY, values: 100_000, depth: 32 }
    }
}

/// A value. Lists and tuples differ on the wire; [`Value::items`] reads either.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Python's `None`.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A whole number that fits an i64.
    Int(i64),
    /// A whole number beyond an i64.
    Big(u64),
    /// A float of 32 or 64 bits; written with 64.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Bytes),
    /// A list.
    Array(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A map, in the order written.
    Map(Vec<(Value, Value)>),
    /// Another extension and its payload, unread.
    Ext(i8, Bytes),
}

impl Value {
    /// Reads exactly one value, within the default [`Limits`].
    ///
    /// # Errors
    /// Where the bytes are not one value, or break a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::decode_within(bytes, Limits::default())
    }

    /// Reads exactly one value.
    ///
    /// # Errors
    /// Where the bytes are not one value, or break a limit.
    pub fn decode_within(bytes: &[u8], limits: Limits) -> Result<Self, WireError> {
        WireError::cap(WHAT, bytes.len(), limits.bytes)?;
        let mut budget = limits.values;
        read(bytes, limits.depth, &mut budget)
    }

    /// The value in the shortest form, as Python's `msgpack` writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing into a Vec cannot fail, and `write_value` has no other error.
        let written = rmpv::encode::write_value(&mut bytes, &self.to_rmpv());
        debug_assert!(written.is_ok());
        bytes
    }

    /// A map of texts, in the order given.
    #[must_use]
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (Self::Text(key.into()), value)).collect())
    }

    /// The value of a text key in a map; the last one where there are several, as in Python.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().rev().find(|(k, _)| k.as_text() == Some(key)).map(|(_, value)| value)
    }

    /// Elements of a list or a tuple.
    #[must_use]
    pub fn items(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Entries of a map.
    #[must_use]
    pub fn entries(&self) -> Option<&[(Self, Self)]> {
        if let Self::Map(entries) = self { Some(entries) } else { None }
    }

    /// A text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// A strict float: a whole number is none.
    #[must_use]
    pub fn as_float(&self) -> Option<f64> {
        if let Self::Float(number) = self { Some(*number) } else { None }
    }

    /// A strict whole number: a float is none.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(is) = self { Some(*is) } else { None }
    }

    /// Whether this is Python's `None`.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    fn to_rmpv(&self) -> rmpv::Value {
        let all = |items: &[Self]| items.iter().map(Self::to_rmpv).collect();
        match self {
            Self::Nil => rmpv::Value::Nil,
            Self::Bool(is) => rmpv::Value::Boolean(*is),
            Self::Int(number) => rmpv::Value::from(*number),
            Self::Big(number) => rmpv::Value::from(*number),
            Self::Float(number) => rmpv::Value::F64(*number),
            Self::Text(text) => rmpv::Value::from(text.as_str()),
            Self::Bytes(bytes) => rmpv::Value::Binary(bytes.to_vec()),
            Self::Array(items) => rmpv::Value::Array(all(items)),
            Self::Tuple(items) => rmpv::Value::Ext(EXT_TUPLE, Self::Array(items.clone()).encode()),
            Self::Map(entries) => {
                rmpv::Value::Map(entries.iter().map(|(key, value)| (key.to_rmpv(), value.to_rmpv())).collect())
            }
            Self::Ext(code, payload) => rmpv::Value::Ext(*code, payload.to_vec()),
        }
    }
}

/// A map whose values are read by their keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Value,
    /// What it is, for errors.
    what: &'static str,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// Where `map` is none.
    pub(super) fn of(what: &'static str, map: &'a Value) -> Result<Self, WireError> {
        let fields = Self { map, what };
        map.entries().map(|_| fields).ok_or_else(|| fields.wrong("not a map"))
    }

    /// An optional value: absent and nil are `None`.
    ///
    /// # Errors
    /// Where `read` refuses it.
    pub(super) fn get<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, WireError> {
        match self.map.get(key) {
            None | Some(Value::Nil) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(format!("{key} of the wrong type"))),
        }
    }

    /// Why the map is refused.
    pub(super) fn wrong(&self, why: impl Into<Cow<'static, str>>) -> WireError {
        WireError::malformed(self.what, why)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        i64::try_from(number).map_or(Self::Big(number as u64), Self::Int)
    }
}

/// Reads one value that fills `bytes`.
fn read(bytes: &[u8], depth: usize, budget: &mut usize) -> Result<Value, WireError> {
    let mut rest = bytes;
    skip(&mut rest, depth, budget)?;
    if !rest.is_empty() {
        return Err(WireError::malformed(WHAT, format!("{} bytes after the value", rest.len())));
    }
    // `skip` has measured the depth; rmpv counts one level more than once
    let value = rmpv::decode::read_value_ref(&mut &bytes[..]).map_err(|e| WireError::malformed(WHAT, e.to_string()))?;
    convert(value, depth, budget)
}

/// Turns what `rmpv` read into ours; tuples are read from their payload.
fn convert(value: ValueRef<'_>, depth: usize, budget: &mut usize) -> Result<Value, WireError> {
    let inside = depth.saturating_sub(1);
    Ok(match value {
        ValueRef::Nil => Value::Nil,
        ValueRef::Boolean(is) => Value::Bool(is),
        ValueRef::Integer(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Big(number),
            (None, None) => return Err(WireError::malformed(WHAT, "whole number out of range")),
        },
        ValueRef::F32(number) => Value::Float(f64::from(number)),
        ValueRef::F64(number) => Value::Float(number),
        ValueRef::String(text) => match text.into_str() {
            Some(text) => Value::Text(text.to_owned()),
            None => return Err(WireError::malformed(WHAT, "text that is not UTF-8")),
        },
        ValueRef::Binary(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        ValueRef::Array(items) => Value::Array(convert_all(items, inside, budget)?),
        ValueRef::Map(entries) => {
            let mut map = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                map.push((convert(key, inside, budget)?, convert(value, inside, budget)?));
            }
            Value::Map(map)
        }
        ValueRef::Ext(EXT_TUPLE, payload) => match read(payload, inside, budget)? {
            Value::Array(items) => Value::Tuple(items),
            _ => return Err(WireError::malformed(WHAT, "tuple without an array inside")),
        },
        ValueRef::Ext(code, payload) => Value::Ext(code, Bytes::copy_from_slice(payload)),
    })
}

fn convert_all(items: Vec<ValueRef<'_>>, depth: usize, budget: &mut usize) -> Result<Vec<Value>, WireError> {
    items.into_iter().map(|item| convert(item, depth, budget)).collect()
}

/// Walks over one value, counting. Nothing is allocated, and it goes no deeper than `depth`.
fn skip(rest: &mut &[u8], depth: usize, budget: &mut usize) -> Result<(), WireError> {
    *budget = budget.checked_sub(1).ok_or_else(|| WireError::malformed(WHAT, "more values than this decoder takes"))?;
    let marker = take(rest, 1)?[0];
    let (items, bytes) = match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
        0x80..=0x8f => (2 * u64::from(marker & 0x0f), 0),
        0x90..=0x9f => (u64::from(marker & 0x0f), 0),
        0xa0..=0xbf => (0, u64::from(marker & 0x1f)),
        0xc1 => return Err(WireError::malformed(WHAT, "the marker that is never used")),
        0xc4 | 0xd9 => (0, number(rest, 1)?),
        0xc5 | 0xda => (0, number(rest, 2)?),
        0xc6 | 0xdb => (0, number(rest, 4)?),
        0xc7 => (0, number(rest, 1)? + 1),
        0xc8 => (0, number(rest, 2)? + 1),
        0xc9 => (0, number(rest, 4)? + 1),
        0xcc | 0xd0 => (0, 1),
        0xcd | 0xd1 => (0, 2),
        0xca | 0xce | 0xd2 => (0, 4),
        0xcb | 0xcf | 0xd3 => (0, 8),
        0xd4..=0xd8 => (0, 1 + (1 << (marker - 0xd4))),
        0xdc => (number(rest, 2)?, 0),
        0xdd => (number(rest, 4)?, 0),
        0xde => (2 * number(rest, 2)?, 0),
        0xdf => (2 * number(rest, 4)?, 0),
    };
    take(rest, bytes)?;
    if items > 0 {
        let inside = depth.checked_sub(1).ok_or_else(|| WireError::malformed(WHAT, "nested too deeply"))?;
        for _ in 0..items {
            skip(rest, inside, budget)?;
        }
    }
    Ok(())
}

/// A big-endian number of `width` bytes.
fn number(rest: &mut &[u8], width: u64) -> Result<u64, WireError> {
    Ok(take(rest, width)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

/// Takes `length` bytes off the front of `rest`.
fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], WireError> {
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (head, tail) = split.ok_or(WireError::truncated(WHAT))?;
    *rest = tail;
    Ok(head)
}
