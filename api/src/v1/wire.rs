//! The bytes of a `/api/v1` answer: compact JSON, keys in alphabetical order, ASCII only, a newline at the end.

use poem::{Response, http::StatusCode};

use super::python::repr;
use crate::error::Fault;

/// One value of an answer.
pub(crate) enum Value<'a> {
    Bool(bool),
    Text(&'a str),
    /// JSON text, keys as they are.
    Json(&'a str),
    Null,
}

/// An answer with `fields`, which stand in alphabetical order.
pub(crate) fn answer(fields: &[(&str, Value<'_>)]) -> Response {
    debug_assert!(fields.is_sorted_by_key(|(name, _)| *name), "keys are alphabetical");
    respond(write(fields, Style::Compact))
}

fn respond(object: String) -> Response {
    Response::builder().status(StatusCode::OK).content_type("application/json").body(object + "\n")
}

/// How the parts of an object are set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without spaces.
    Compact,
    /// With a space after each comma and colon.
    Spaced,
}

/// An object with those fields, in ASCII.
pub(crate) fn write(fields: &[(&str, Value<'_>)], style: Style) -> String {
    let (comma, colon) = if style == Style::Compact { (",", ":") } else { (", ", ": ") };
    let mut body = String::from("{");
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            body.push_str(comma);
        }
        push_text(&mut body, name);
        body.push_str(colon);
        match value {
            Value::Bool(true) => body.push_str("true"),
            Value::Bool(false) => body.push_str("false"),
            Value::Text(text) => push_text(&mut body, text),
            Value::Json(text) => text.chars().for_each(|c| push_ascii(&mut body, c)),
            Value::Null => body.push_str("null"),
        }
    }
    body.push('}');
    body
}

/// A handled failure; `outputs` is what was produced before it, so that nothing is lost.
pub(crate) fn failure(fault: &Fault, outputs: Option<&str>) -> Response {
    respond(failed(fault, outputs, Style::Compact))
}

/// The same as an object.
pub(crate) fn failed(fault: &Fault, outputs: Option<&str>, style: Style) -> String {
    let traceback = traceback(fault);
    let mut fields = vec![("ok", Value::Bool(false))];
    fields.extend(outputs.map(|text| ("outputs", Value::Text(text))));
    fields.push(("traceback", Value::Text(&traceback)));
    write(&fields, style)
}

/// `ErrorType: message`. A `KeyError` shows its message quoted, as clients of old expect.
pub(crate) fn traceback(fault: &Fault) -> String {
    match fault.legacy {
        "KeyError" => format!("KeyError: {}", repr(&fault.message)),
        legacy => format!("{legacy}: {}", fault.message),
    }
}

/// `text` as a JSON string in ASCII; characters beyond 16 bits become surrogate pairs.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c => push_ascii(out, c),
        }
    }
    out.push('"');
}

/// A character of a JSON text, escaped where it is not printable ASCII.
fn push_ascii(out: &mut String, c: char) {
    if matches!(c, ' '..='~') {
        return out.push(c);
    }
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_compact_ascii_and_ends_with_a_newline() {
        let response = answer(&[
            ("ok", Value::Bool(true)),
            ("outputs", Value::Text("é\u{7f} \"a\"\\\n\u{1}😀")),
            ("route", Value::Json("{\"why\":\"ü\"}")),
            ("z", Value::Null),
        ]);
        assert_eq!(response.content_type(), Some("application/json"));
        let body = response.into_body().into_string().await.unwrap();
        assert_eq!(
            body,
            "{\"ok\":true,\"outputs\":\"\\u00e9\\u007f \\\"a\\\"\\\\\\n\\u0001\\ud83d\\ude00\",\"route\":{\"why\":\"\\u00fc\"},\"z\":null}\n"
        );
        let back: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(back["outputs"], "é\u{7f} \"a\"\\\n\u{1}😀");
    }

    #[test]
    fn a_key_error_quotes_its_message() {
        let fault =
            Fault { legacy: "KeyError", ..Fault::new(StatusCode::NOT_FOUND, "session_gone", "Session 'x' is gone") };
        assert_eq!(traceback(&fault), "KeyError: \"Session 'x' is gone\"");
    }
}
