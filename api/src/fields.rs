//! Reading the members of a JSON object, with errors that name the member.

use serde_json::{Map, Value};

use crate::error::Fault;

/// The members of a request. `null` is the same as absent.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The member of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The text of that name.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        self.read(name, "a string", Value::as_str)
    }

    /// The switch of that name.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// The number of that name.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f32>, Fault> {
        self.read(name, "a number", |value| value.as_f64().map(nearest))
    }

    /// The integer of that name that counts something; as in the description, one of 64 bits with a sign.
    pub(crate) fn count(&self, name: &str) -> Result<Option<usize>, Fault> {
        let count = |value: &Value| value.as_i64().and_then(|n| n.try_into().ok());
        self.read(name, "an integer from 0 to 9223372036854775807", count)
    }

    /// The integer of that name, all 64 bits of it; as in the description, one with a sign.
    pub(crate) fn bits(&self, name: &str) -> Result<Option<u64>, Fault> {
        let bits = |value: &Value| value.as_i64().map(i64::cast_unsigned);
        self.read(name, "an integer from -9223372036854775808 to 9223372036854775807", bits)
    }

    fn read<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Fault> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Fault::invalid(name, format!("{name} must be {what}, not {}", kind(value))))
    }
}

/// Sampling computes in f32. What is not zero does not become zero, so that it stays above or below a bound that is.
#[allow(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn nearest(number: f64) -> f32 {
    let rounded = number as f32;
    let lost = number != 0.0 && rounded.abs() < f32::MIN_POSITIVE;
    if lost { f32::MIN_POSITIVE.copysign(rounded) } else { rounded }
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(number) => format!("{number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
