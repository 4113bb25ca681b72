//! Values of the metadata: numbers, strings, and arrays of them kept as compactly as in the file.

use crate::{GgufError, reader::Reader};

/// Arrays within arrays: no model needs more than two.
const MAX_DEPTH: usize = 4;

/// A value of the metadata. Numbers are widened to the largest type of their kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `u8`, `u16`, `u32` or `u64`.
    Uint(u64),
    /// `i8`, `i16`, `i32` or `i64`.
    Int(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// Several values of one type.
    Array(Array),
}

/// Several values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Numbers or truth values.
    Numbers(Numbers),
    /// Strings.
    Strings(Strings),
    /// Arrays of their own.
    Nested(Vec<Self>),
}

/// Numbers of one type, as wide as in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    scalar: Scalar,
    bytes: Vec<u8>,
}

impl Numbers {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.scalar.size()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Each as a [`Value`], in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.bytes.chunks_exact(self.scalar.size()).map(|bytes| self.scalar.value(bytes))
    }
}

/// Strings in one piece of memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    /// Each of them, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &str> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// A number or truth value of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

/// What the number in front of a value says about it.
enum Kind {
    Scalar(Scalar),
    String,
    Array,
}

impl Kind {
    /// Numbers of the specification, `enum gguf_metadata_value_type`.
    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self, GgufError> {
        Ok(match reader.u32(key)? {
            0 => Self::Scalar(Scalar::U8),
            1 => Self::Scalar(Scalar::I8),
            2 => Self::Scalar(Scalar::U16),
            3 => Self::Scalar(Scalar::I16),
            4 => Self::Scalar(Scalar::U32),
            5 => Self::Scalar(Scalar::I32),
            6 => Self::Scalar(Scalar::F32),
            7 => Self::Scalar(Scalar::Bool),
            8 => Self::String,
            9 => Self::Array,
            10 => Self::Scalar(Scalar::U64),
            11 => Self::Scalar(Scalar::I64),
            12 => Self::Scalar(Scalar::F64),
            other => return Err(GgufError::malformed(key, format!("there is no value type {other}"))),
        })
    }
}

impl Scalar {
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of exactly [`Scalar::size`] bytes.
    fn value(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let raw = u64::from_le_bytes(wide);
        let unused = 64 - 8 * bytes.len();
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Uint(raw),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => Value::Int((raw << unused).cast_signed() >> unused),
            Self::F32 => Value::Float(f32::from_bits((raw & 0xffff_ffff) as u32).into()),
            Self::F64 => Value::Float(f64::from_bits(raw)),
            Self::Bool => Value::Bool(raw != 0),
        }
    }
}

impl Value {
    /// Reads a type and a value of it.
    pub(crate) fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self, GgufError> {
        match Kind::read(reader, key)? {
            Kind::Scalar(scalar) => {
                let bytes = reader.take(scalar.size(), key)?;
                check_bools(scalar, bytes, key)?;
                Ok(scalar.value(bytes))
            }
            Kind::String => Ok(Self::Text(reader.string(key)?.to_owned())),
            Kind::Array => Ok(Self::Array(Array::read(reader, key, 1)?)),
        }
    }
}

impl Array {
    fn read(reader: &mut Reader<'_>, key: &str, depth: usize) -> Result<Self, GgufError> {
        match Kind::read(reader, key)? {
            Kind::Scalar(scalar) => {
                let count = reader.count(scalar.size(), key)?;
                let bytes = reader.take(count * scalar.size(), key)?;
                check_bools(scalar, bytes, key)?;
                Ok(Self::Numbers(Numbers { scalar, bytes: bytes.to_vec() }))
            }
            Kind::String => {
                let count = reader.count(8, key)?;
                let mut strings = Strings { text: String::new(), ends: Vec::with_capacity(count) };
                for _ in 0..count {
                    strings.text.push_str(reader.string(key)?);
                    strings.ends.push(strings.text.len());
                }
                Ok(Self::Strings(strings))
            }
            Kind::Array if depth == MAX_DEPTH => {
                Err(GgufError::malformed(key, format!("arrays are nested deeper than {MAX_DEPTH}")))
            }
            Kind::Array => {
                let count = reader.count(12, key)?;
                let mut arrays = Vec::with_capacity(count);
                for _ in 0..count {
                    arrays.push(Self::read(reader, key, depth + 1)?);
                }
                Ok(Self::Nested(arrays))
            }
        }
    }
}

/// The specification allows no truth values but 0 and 1.
fn check_bools(scalar: Scalar, bytes: &[u8], key: &str) -> Result<(), GgufError> {
    if scalar == Scalar::Bool && bytes.iter().any(|b| *b > 1) {
        return Err(GgufError::malformed(key, "a truth value is neither 0 nor 1"));
    }
    Ok(())
}
