//! Reads the GGUF container (versions 2 and 3, little-endian): header, metadata and tensor directory. The numbers of
//! the tensors stay where they are; callers get checked byte ranges.
//!
//! Whatever the bytes are, parsing them ends in a value or an error: every count is compared with the bytes left before
//! memory is set aside for it, so a file makes this crate use at most a small multiple of the file's own size.
//!
//! Source: the specification at `ggml-org/ggml`, `docs/gguf.md`.

mod error;
mod reader;
mod tensor;
mod value;

use std::collections::{BTreeMap, btree_map};

pub use error::GgufError;
pub use tensor::{Layout, TensorInfo, layout};
pub use value::{Array, Numbers, Strings, Value};

use reader::Reader;
use tensor::Entry;

/// Alignment of the data section where `general.alignment` does not say.
const DEFAULT_ALIGNMENT: usize = 32;
/// The specification's limit on keys, in bytes.
const MAX_KEY: usize = 65_535;
/// The least a key and its value can take.
const LEAST_PAIR: usize = 8 + 4 + 1;

/// What stands before the data of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    metadata: BTreeMap<String, Value>,
    /// In the file's order.
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, by name.
    by_name: Vec<usize>,
}

impl Gguf {
    /// Reads a whole file, for example a mapped one: only the part before the data is touched.
    ///
    /// # Errors
    /// Names the part of the file that is cut short, contradicts the format or is not supported.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        Self::parse_head(bytes, bytes.len())
    }

    /// Reads the first bytes of a file that is `len` bytes long, for callers that need no tensor data.
    ///
    /// # Errors
    /// As [`Gguf::parse`]; [`GgufError::Truncated`] also where `bytes` ends before the data section begins: try again
    /// with more of the file.
    pub fn parse_head(bytes: &[u8], len: usize) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes);
        if reader.take(4, "the magic").ok() != Some(b"GGUF") {
            return Err(GgufError::Magic);
        }
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(GgufError::Version(version));
        }
        let tensors = reader.count(tensor::LEAST_ENTRY, "the number of tensors")?;
        let pairs = reader.count(LEAST_PAIR, "the number of metadata keys")?;
        let metadata = read_metadata(&mut reader, pairs)?;
        let alignment = alignment(&metadata)?;
        let entries = (0..tensors).map(|_| Entry::read(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        let base = reader.at().checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        let tensors =
            entries.into_iter().map(|entry| entry.place(base, alignment, len)).collect::<Result<Vec<_>, _>>()?;
        let by_name = sort_by_name(&tensors)?;
        Ok(Self { metadata, tensors, by_name })
    }

    /// All keys and values.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// An integer of any width that is not negative.
    #[must_use]
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            Value::Uint(n) => Some(*n),
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A floating-point number.
    #[must_use]
    pub fn f32(&self, key: &str) -> Option<f32> {
        match self.metadata.get(key)? {
            Value::Float(n) => Some(*n as f32),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// A string.
    #[must_use]
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An array of strings.
    #[must_use]
    pub fn strings(&self, key: &str) -> Option<&Strings> {
        match self.metadata.get(key)? {
            Value::Array(Array::Strings(strings)) => Some(strings),
            _ => None,
        }
    }

    /// An array of floating-point numbers.
    #[must_use]
    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        let of = |value| if let Value::Float(n) = value { Some(n as f32) } else { None };
        self.numbers(key)?.iter().map(of).collect()
    }

    /// An array of integers of any width that all fit.
    #[must_use]
    pub fn ints(&self, key: &str) -> Option<Vec<i64>> {
        let of = |value| match value {
            Value::Int(n) => Some(n),
            Value::Uint(n) => i64::try_from(n).ok(),
            _ => None,
        };
        self.numbers(key)?.iter().map(of).collect()
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> + '_ {
        self.tensors.iter()
    }

    /// The tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.by_name.binary_search_by(|index| self.tensors[*index].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[found]])
    }

    fn numbers(&self, key: &str) -> Option<&Numbers> {
        match self.metadata.get(key)? {
            Value::Array(Array::Numbers(numbers)) => Some(numbers),
            _ => None,
        }
    }
}

fn read_metadata(reader: &mut Reader<'_>, pairs: usize) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let key = reader.string("the metadata keys")?;
        if key.len() > MAX_KEY {
            return Err(GgufError::malformed("the metadata keys", format!("a key of {} bytes", key.len())));
        }
        let value = Value::read(reader, key)?;
        match metadata.entry(key.to_owned()) {
            btree_map::Entry::Vacant(free) => free.insert(value),
            btree_map::Entry::Occupied(_) => return Err(GgufError::malformed(key, "the key stands there twice")),
        };
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize, GgufError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Uint(n)) if n.is_power_of_two() => {
            usize::try_from(*n).map_err(|_| GgufError::malformed(KEY, format!("{n} is too large")))
        }
        Some(other) => Err(GgufError::malformed(KEY, format!("{other:.60?} is no power of two"))),
    }
}

fn sort_by_name(tensors: &[TensorInfo]) -> Result<Vec<usize>, GgufError> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by(|a, b| tensors[*a].name.cmp(&tensors[*b].name));
    for pair in order.windows(2) {
        if tensors[pair[0]].name == tensors[pair[1]].name {
            return Err(GgufError::malformed(format!("tensor {}", tensors[pair[0]].name), "it stands there twice"));
        }
    }
    Ok(order)
}
