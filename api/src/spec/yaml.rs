//! A small YAML writer: block style, a fixed order of keys, so that the committed description reads well and only
//! changes where its content does.

use std::fmt::Write as _;

use serde_json::Value;

/// Keys that come first, in this order; all others follow alphabetically.
const FIRST: [&str; 21] = [
    "openapi",
    "info",
    "servers",
    "security",
    "tags",
    "paths",
    "components",
    "title",
    "version",
    "operationId",
    "summary",
    "name",
    "in",
    "url",
    "description",
    "required",
    "type",
    "format",
    "parameters",
    "requestBody",
    "responses",
];

/// `value` as a YAML document.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

fn rank(key: &str) -> (usize, &str) {
    (FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len()), key)
}

/// Writes a collection that has members, each on its own line at `depth`.
fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| rank(key));
            for (key, value) in members {
                let _ = write!(out, "{:depth$}{}:", "", scalar(key));
                after(out, value, depth + 2);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(out, "{:depth$}-", "");
                match item {
                    Value::Object(members) if !members.is_empty() => {
                        let mut inner = String::new();
                        block(&mut inner, item, depth + 2);
                        out.push(' ');
                        out.push_str(inner.trim_start());
                    }
                    _ => after(out, item, depth + 2),
                }
            }
        }
        other => after(out, other, depth),
    }
}

/// Writes what follows a `key:` or a `-`.
fn after(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if members.is_empty() => out.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Object(_) | Value::Array(_) => {
            out.push('\n');
            block(out, value, depth);
        }
        Value::String(text)
            if text.contains('\n') && !text.contains(['\r', '\t']) && !text.starts_with([' ', '\n']) =>
        {
            let keep = match text.len() - text.trim_end_matches('\n').len() {
                0 => "-",
                1 => "",
                _ => "+",
            };
            let _ = writeln!(out, " |{keep}");
            for line in text.trim_end_matches('\n').split('\n') {
                let _ = if line.is_empty() { writeln!(out) } else { writeln!(out, "{:depth$}{line}", "") };
            }
            let extra = (text.len() - text.trim_end_matches('\n').len()).saturating_sub(1);
            out.push_str(&"\n".repeat(extra));
        }
        Value::String(text) => {
            let _ = writeln!(out, " {}", scalar(text));
        }
        other => {
            let _ = writeln!(out, " {other}");
        }
    }
}

/// A text on one line: plain where that cannot be misread, else in double quotes, which JSON and YAML share.
fn scalar(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-/.$ (),;'`<>=+".contains(c);
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '$')
        && !text.ends_with(' ')
        && text.chars().all(word)
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_reads_like_yaml() {
        let value = json!({
            "zeta": {}, "paths": {"/a": [{"name": "x", "b": [1, [2]]}, "no", []]}, "openapi": "3.0.0",
            "text": "one\n\ntwo", "quoted": "a: b", "200": null, "kept": "x\n",
        });
        let expected = "openapi: \"3.0.0\"\npaths:\n  /a:\n    - name: x\n      b:\n        - 1\n        -\n          - 2\n    - \"no\"\n    - []\n\
            \"200\": null\nkept: |\n  x\nquoted: \"a: b\"\ntext: |-\n  one\n\n  two\nzeta: {}\n";
        assert_eq!(write(&value), expected);
    }
}
