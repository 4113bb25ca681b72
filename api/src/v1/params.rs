//! The parameters of a `/api/v1` request, wherever they stand: query string, form, or JSON object.

use bytes::Bytes;
use poem::{Body, FromRequest, Request, RequestBody, web::Multipart};
use serde_json::{Map, Value};

use super::python::{self, NotInt, echo, repr};
use crate::{body, error::Fault, settings::ApiSettings};

/// Parameters in the order of their rank: the query string first, then the body. The first of a name counts.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, Result<String, String>)>);

impl Params {
    /// Parameters of the query string alone.
    pub(crate) fn from_query(request: &Request) -> Self {
        Self(urlencoded(request.uri().query().unwrap_or_default().as_bytes()))
    }

    /// Parameters of query string and body. A body of another media type is passed over, as it always was.
    ///
    /// The outer error is one of HTTP (length, time), the inner one of content.
    pub(crate) async fn from_request(
        request: &Request,
        body: Body,
        settings: &ApiSettings,
    ) -> Result<Result<Self, Fault>, Fault> {
        let mut params = Self::from_query(request);
        let bytes = body::read(request.headers(), body, settings).await?;
        let more = match body::media_type(request.headers()).as_deref() {
            Some("application/x-www-form-urlencoded") => Ok(urlencoded(&bytes)),
            Some("multipart/form-data") => multipart(request, bytes).await,
            Some("application/json") if !bytes.is_empty() => json(&bytes),
            _ => Ok(Vec::new()),
        };
        Ok(more.map(|more| {
            params.0.extend(more);
            params
        }))
    }

    /// The members of a JSON object.
    pub(crate) fn from_members(members: Map<String, Value>) -> Self {
        Self(pairs(members))
    }

    /// The text of that name; `None` where it is absent.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        match self.0.iter().find(|(given, _)| given == name) {
            None => Ok(None),
            Some((_, Ok(text))) => Ok(Some(text)),
            Some((_, Err(why))) => Err(Fault::invalid(name, format!("{name} {why}"))),
        }
    }

    /// The integer of that name.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, Fault> {
        self.text(name)?.map(|text| to_int(name, text)).transpose()
    }

    /// The number of that name.
    pub(crate) fn float(&self, name: &str) -> Result<Option<f32>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match python::float(text) {
            #[allow(clippy::cast_possible_truncation, reason = "sampling computes in f32")]
            Some(value) => Ok(Some(value as f32)),
            None => Err(Fault::invalid(name, format!("could not convert string to float: {}", repr(&echo(text))))),
        }
    }

    /// The switch of that name: an integer (on unless 0), or `true` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let word = text.trim();
        if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") {
            return Ok(Some(word.eq_ignore_ascii_case("true")));
        }
        match to_int(name, text) {
            Ok(value) => Ok(Some(value != 0)),
            Err(fault) => Err(fault),
        }
    }
}

fn to_int(name: &str, text: &str) -> Result<i64, Fault> {
    python::int(text).map_err(|why| match why {
        NotInt::Malformed => {
            Fault::invalid(name, format!("invalid literal for int() with base 10: {}", repr(&echo(text))))
        }
        NotInt::Huge => Fault::invalid(name, format!("{name} is out of range: {}", echo(text.trim()))),
    })
}

/// `value` as a number of things.
pub(crate) fn to_count(name: &str, value: i64) -> Result<usize, Fault> {
    usize::try_from(value).map_err(|_| Fault::invalid(name, format!("{name} must not be negative, got {value}")))
}

type Pairs = Vec<(String, Result<String, String>)>;

fn urlencoded(text: &[u8]) -> Pairs {
    text.split(|byte| *byte == b'&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let end = piece.iter().position(|byte| *byte == b'=');
            let (name, value) = (&piece[..end.unwrap_or(piece.len())], end.map_or(&[][..], |end| &piece[end + 1..]));
            (String::from_utf8_lossy(&unescape(name)).into_owned(), utf8(unescape(value)))
        })
        .collect()
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        format!("is not valid UTF-8: the fault is at byte {} of its value", error.utf8_error().valid_up_to())
    })
}

/// Undoes `+` and `%XX`; a lone `%` stays.
fn unescape(text: &[u8]) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], hex(text.get(at + 1)), hex(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                #[allow(clippy::cast_possible_truncation, reason = "two hexadecimal digits are a byte")]
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    out
}

/// Text fields of a multipart form; files are no parameters.
async fn multipart(request: &Request, bytes: Bytes) -> Result<Pairs, Fault> {
    let broken = |why: String| Fault::invalid("body", format!("the multipart form cannot be read: {why}"));
    let mut body = RequestBody::new(Body::from_bytes(bytes));
    let mut form = Multipart::from_request(request, &mut body).await.map_err(|error| broken(error.to_string()))?;
    let mut pairs = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| broken(error.to_string()))? {
        let Some(name) = field.name().map(str::to_owned) else { continue };
        if field.file_name().is_some() {
            continue;
        }
        let value = field.bytes().await.map_err(|error| broken(error.to_string()))?;
        pairs.push((name, utf8(value)));
    }
    Ok(pairs)
}

/// Members of a JSON object; `null` is absent.
fn json(bytes: &[u8]) -> Result<Pairs, Fault> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Fault::invalid("body", format!("the body is not valid JSON: {error}")))?;
    let Value::Object(members) = value else {
        return Err(Fault::invalid("body", "the JSON body must be an object"));
    };
    Ok(pairs(members))
}

fn pairs(members: Map<String, Value>) -> Pairs {
    let pair = |(name, value): (String, Value)| match value {
        Value::Null => None,
        Value::String(text) => Some((name, Ok(text))),
        Value::Bool(_) | Value::Number(_) => Some((name, Ok(value.to_string()))),
        Value::Array(_) => Some((name, Err("must be a single value, not a list".to_owned()))),
        Value::Object(_) => Some((name, Err("must be a single value, not an object".to_owned()))),
    };
    members.into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Params {
        Params(urlencoded(text.as_bytes()))
    }

    #[test]
    fn the_first_value_of_a_name_counts_and_empty_is_not_absent() {
        let params = params("a=1&a=2&b=&c&=x&&d=%20y+z%zz");
        assert_eq!(params.text("a").unwrap(), Some("1"));
        assert_eq!(params.text("b").unwrap(), Some(""));
        assert_eq!(params.text("c").unwrap(), Some(""));
        assert_eq!(params.text("d").unwrap(), Some(" y z%zz"));
        assert_eq!(params.text("e").unwrap(), None);
    }

    #[test]
    fn a_value_that_is_no_utf8_is_named_where_it_is_used() {
        let params = params("inputs=ok%ff&n=1");
        assert_eq!(params.int("n").unwrap(), Some(1));
        let fault = params.text("inputs").unwrap_err();
        assert_eq!(fault.message, "inputs is not valid UTF-8: the fault is at byte 2 of its value");
    }

    #[test]
    fn switches_take_numbers_and_words() {
        for (text, on) in [("f=1", true), ("f=-1", true), ("f=0", false), ("f=True", true), ("f=false", false)] {
            assert_eq!(params(text).flag("f").unwrap(), Some(on), "{text}");
        }
        assert!(params("f=").flag("f").is_err());
        assert!(params("f=yes").flag("f").is_err());
    }

    #[test]
    fn a_json_object_is_as_good_as_a_form() {
        let params = Params(json(br#"{"a": 5, "b": true, "c": "x", "d": null, "e": [1], "f": 1.5}"#).unwrap());
        assert_eq!(params.int("a").unwrap(), Some(5));
        assert_eq!(params.flag("b").unwrap(), Some(true));
        assert_eq!(params.text("c").unwrap(), Some("x"));
        assert_eq!(params.text("d").unwrap(), None);
        assert_eq!(params.text("e").unwrap_err().message, "e must be a single value, not a list");
        assert_eq!(params.float("f").unwrap(), Some(1.5));
        assert!(json(b"[1]").is_err());
        assert!(json(b"{").is_err());
    }
}
