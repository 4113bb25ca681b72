//! Numbers as the first clients of `/api/v1` write them: the conversions of Python's `int()` and `float()`.

/// Longest piece of a client's value that an error repeats, in characters.
const ECHO: usize = 80;

/// Why a text is no integer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotInt {
    /// Not written as one.
    Malformed,
    /// Written as one, but beyond 64 bits.
    Huge,
}

/// `int(text)`: a sign, decimal digits with single `_` between them, spaces around.
pub(crate) fn int(text: &str) -> Result<i64, NotInt> {
    let trimmed = text.trim();
    let (sign, digits) = match trimmed.strip_prefix(['+', '-']) {
        Some(rest) => (&trimmed[..1], rest),
        None => ("", trimmed),
    };
    let digits = plain_digits(digits).ok_or(NotInt::Malformed)?;
    format!("{sign}{digits}").parse().map_err(|_| NotInt::Huge)
}

/// `float(text)`: also `nan`, `inf` and `infinity` in any case, with a sign.
pub(crate) fn float(text: &str) -> Option<f64> {
    let trimmed = text.trim();
    let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    let named = ["nan", "inf", "infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    if named {
        return trimmed.parse().ok();
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let part = |text: &str| if text.is_empty() { Some(String::new()) } else { plain_digits(text) };
    let mut clean = format!("{}0{}.{}0", &trimmed[..trimmed.len() - unsigned.len()], part(whole)?, part(fraction)?);
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        clean.push('e');
        clean.push_str(&exponent[..exponent.len() - digits.len()]);
        clean.push_str(&plain_digits(digits)?);
    }
    clean.parse().ok()
}

/// Digits without their `_`, which may only stand singly and between digits.
fn plain_digits(text: &str) -> Option<String> {
    let fine = !text.is_empty()
        && text.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    fine.then(|| text.replace('_', ""))
}

/// `repr(text)`: quoted, with control characters and the quote escaped.
pub(crate) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A client's value, shortened so that an error stays readable.
pub(crate) fn echo(text: &str) -> String {
    match text.char_indices().nth(ECHO) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_python_reads_them() {
        for (text, value) in [("5", 5), (" 5\n", 5), ("+5", 5), ("-5", -5), ("1_000", 1000), ("007", 7), ("-0", 0)] {
            assert_eq!(int(text), Ok(value), "{text:?}");
        }
        for text in ["", " ", "1.0", "true", "0x10", "1e3", "_1", "1_", "1__0", "- 5", "--5", "5a", "½"] {
            assert_eq!(int(text), Err(NotInt::Malformed), "{text:?}");
        }
        assert_eq!(int("9223372036854775808"), Err(NotInt::Huge));
        assert_eq!(int(&"9".repeat(5000)), Err(NotInt::Huge));
    }

    #[test]
    fn floats_as_python_reads_them() {
        for (text, value) in [
            ("1", 1.0),
            (" .5 ", 0.5),
            ("5.", 5.0),
            ("1_0.2_5", 10.25),
            ("1e-3", 1e-3),
            ("-2E+2", -200.0),
            ("1e999", f64::INFINITY),
            ("-INF", f64::NEG_INFINITY),
            ("Infinity", f64::INFINITY),
        ] {
            assert_eq!(float(text), Some(value), "{text:?}");
        }
        assert!(float("nan").unwrap().is_nan());
        for text in ["", " ", ".", "e5", "1e", "1_", "_1", "1._5", "0x1p3", "1,5", "true", "1 2", "infin"] {
            assert_eq!(float(text), None, "{text:?}");
        }
    }

    #[test]
    fn texts_as_python_shows_them() {
        assert_eq!(repr("plain"), "'plain'");
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("it's \"it\""), "'it\\'s \"it\"'");
        assert_eq!(repr("a\nb\0"), "'a\\nb\\x00'");
    }

    #[test]
    fn a_long_value_is_shortened_at_a_character() {
        assert_eq!(echo(&"ä".repeat(ECHO)), "ä".repeat(ECHO));
        assert_eq!(echo(&"ä".repeat(ECHO + 1)), format!("{}…", "ä".repeat(ECHO)));
    }
}
