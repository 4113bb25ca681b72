//! The numbers that describe a model, from `config.json` or from GGUF metadata, checked where they enter.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use corolla_domain::ports::PortError;
use corolla_gguf::Gguf;
use serde_json::Value;

use crate::fault::{bad_file, unreadable};

/// A configuration longer than this is none.
const MAX_JSON: u64 = 16 << 20;

/// Settings of one model. The getters take every name a setting goes by; the first one that is there counts. A null in
/// JSON is as good as nothing.
pub(crate) struct Settings<'a> {
    file: PathBuf,
    source: Source<'a>,
}

enum Source<'a> {
    Json(Value),
    Gguf(&'a Gguf),
}

impl<'a> Settings<'a> {
    /// The settings in a JSON file.
    pub(crate) fn from_json(file: &Path) -> Result<Self, PortError> {
        let len = std::fs::metadata(file).map_err(|e| unreadable(file, e))?.len();
        if len > MAX_JSON {
            return Err(bad_file(file, format!("is {len} bytes long, no configuration is longer than {MAX_JSON}")));
        }
        let text = std::fs::read(file).map_err(|e| unreadable(file, e))?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|e| bad_file(file, format!("is no intact JSON ({e}); fetch it again")).with_source(e))?;
        if !json.is_object() {
            return Err(bad_file(file, "holds no JSON object; fetch it again"));
        }
        Ok(Self { file: file.to_owned(), source: Source::Json(json) })
    }

    /// The settings in a GGUF file's metadata.
    pub(crate) fn from_gguf(file: &Path, gguf: &'a Gguf) -> Self {
        Self { file: file.to_owned(), source: Source::Gguf(gguf) }
    }

    /// Settings in an object within these; none where it is not there.
    pub(crate) fn within(&self, key: &str) -> Option<Settings<'static>> {
        match &self.source {
            Source::Json(json) => json
                .get(key)
                .filter(|value| value.is_object())
                .map(|value| Settings { file: self.file.clone(), source: Source::Json(value.clone()) }),
            Source::Gguf(_) => None,
        }
    }

    /// Whether they come from a GGUF file.
    pub(crate) fn are_gguf(&self) -> bool {
        matches!(self.source, Source::Gguf(_))
    }

    /// `fault` in the file the settings come from.
    pub(crate) fn fault(&self, fault: impl Display) -> PortError {
        bad_file(&self.file, fault)
    }

    /// A count from 1 to `most`.
    pub(crate) fn size(&self, keys: &[&str], most: usize) -> Result<Option<usize>, PortError> {
        for key in keys {
            let number = match &self.source {
                Source::Json(json) => match json.get(key) {
                    None | Some(Value::Null) => continue,
                    Some(value) => value.as_u64(),
                },
                Source::Gguf(gguf) => match gguf.metadata().get(*key) {
                    None => continue,
                    Some(_) => gguf.u64(key).or_else(|| uniform(&gguf.ints(key)?)),
                },
            };
            let number = number.and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=most).contains(n));
            return match number {
                Some(number) => Ok(Some(number)),
                None => Err(self.fault(format!("{key} is not one whole number from 1 to {most}"))),
            };
        }
        Ok(None)
    }

    /// A count from 1 to `most` that must be there.
    pub(crate) fn required(&self, keys: &[&str], most: usize) -> Result<usize, PortError> {
        self.size(keys, most)?.ok_or_else(|| self.fault(format!("{} is missing", self.own(keys))))
    }

    /// A finite number above 0.
    pub(crate) fn number(&self, keys: &[&str]) -> Result<Option<f64>, PortError> {
        for key in keys {
            let number = match &self.source {
                Source::Json(json) => match json.get(key) {
                    None | Some(Value::Null) => continue,
                    Some(value) => value.as_f64(),
                },
                Source::Gguf(gguf) => match gguf.metadata().get(*key) {
                    None => continue,
                    Some(_) => gguf.f32(key).map(f64::from),
                },
            };
            return match number.filter(|n| n.is_finite() && *n > 0.0) {
                Some(number) => Ok(Some(number)),
                None => Err(self.fault(format!("{key} is no number above 0"))),
            };
        }
        Ok(None)
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, PortError> {
        let Source::Json(json) = &self.source else { return Ok(None) };
        match json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.fault(format!("{key} is neither true nor false"))),
        }
    }

    /// A text.
    pub(crate) fn text(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| match &self.source {
            Source::Json(json) => json.get(key).and_then(Value::as_str),
            Source::Gguf(gguf) => gguf.str(key),
        })
    }

    /// One token id or several.
    pub(crate) fn tokens(&self, key: &str) -> Vec<u32> {
        let of = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match &self.source {
            Source::Json(json) => match json.get(key) {
                Some(Value::Array(several)) => several.iter().filter_map(of).collect(),
                Some(one) => of(one).into_iter().collect(),
                None => Vec::new(),
            },
            Source::Gguf(gguf) => gguf.u64(key).and_then(|n| u32::try_from(n).ok()).into_iter().collect(),
        }
    }

    /// Those of `keys` that this kind of file would use, for a message.
    fn own(&self, keys: &[&str]) -> String {
        let own = keys.iter().filter(|key| key.contains('.') == self.are_gguf());
        own.copied().collect::<Vec<_>>().join(" or ")
    }
}

/// The one number that all entries share.
fn uniform(numbers: &[i64]) -> Option<u64> {
    let first = numbers.first()?;
    numbers.iter().all(|n| n == first).then_some(*first)?.try_into().ok()
}
