//! JSON as Python's `json.dumps` writes it, which chat templates were made with: a space after commas and colons.

use std::io;

use serde::Serialize;
use serde_json::{
    Value,
    ser::{CharEscape, Formatter, Serializer},
};

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// Spaces of each level; one line where `None`.
    pub(crate) indent: Option<usize>,
    /// Whether characters beyond ASCII are escaped.
    pub(crate) ascii: bool,
    /// Whether keys are sorted.
    pub(crate) sorted: bool,
}

/// The longest text written: a value may hold itself many times over.
const MAX_TEXT: usize = 8 * 1024 * 1024;

pub(crate) fn write(value: &impl Serialize, style: Style) -> Result<String, serde_json::Error> {
    let text = write_as_given(value, style)?;
    if !style.sorted {
        return Ok(text);
    }
    write_as_given(&sorted(serde_json::from_str(&text)?), style)
}

fn write_as_given(value: &impl Serialize, style: Style) -> Result<String, serde_json::Error> {
    let mut bounded = Bounded { bytes: Vec::new() };
    let layout = Layout { style, depth: 0, empty: false };
    value.serialize(&mut Serializer::with_formatter(&mut bounded, layout))?;
    String::from_utf8(bounded.bytes).map_err(serde::ser::Error::custom)
}

/// Memory that ends at [`MAX_TEXT`].
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + part.len() > MAX_TEXT {
            return Err(io::Error::other(format!("the JSON is longer than {MAX_TEXT} bytes")));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// With the keys of every object in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(pairs.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

struct Layout {
    style: Style,
    depth: usize,
    empty: bool,
}

impl Layout {
    fn open<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(out)?;
        }
        self.empty = false;
        out.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        match (first, self.style.indent) {
            (true, _) => {}
            (false, Some(_)) => out.write_all(b",")?,
            (false, None) => out.write_all(b", ")?,
        }
        self.line(out)
    }

    fn line<W: ?Sized + io::Write>(&self, out: &mut W) -> io::Result<()> {
        match self.style.indent {
            None => Ok(()),
            Some(width) => write!(out, "\n{:1$}", "", self.depth * width),
        }
    }
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if !self.style.ascii {
            return out.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => out.write_all(&[byte])?,
                _ => write!(out, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(out, escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_has_pythons_spaces() {
        let value = serde_json::json!({"b": [1, "žluť \"<\n", null, true], "a": {}, "c": []});
        let said = write(&value, Style { sorted: true, ..Style::default() }).unwrap();
        assert_eq!(said, r#"{"a": {}, "b": [1, "žluť \"<\n", null, true], "c": []}"#);
        let said = write(&"ž😀", Style { ascii: true, ..Style::default() }).unwrap();
        assert_eq!(said, r#""\u017e\ud83d\ude00""#);
    }

    #[test]
    fn indented_as_python_does() {
        let value = serde_json::json!({"a": [1, {"x": []}]});
        let said = write(&value, Style { indent: Some(2), ..Style::default() }).unwrap();
        assert_eq!(said, "{\n  \"a\": [\n    1,\n    {\n      \"x\": []\n    }\n  ]\n}");
    }
}
