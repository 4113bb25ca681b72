//! Calls of tools in the text of a reply, found while it is written and kept out of what is shown.

use corolla_domain::model::CallForm;
use serde_json::{Deserializer, Value};

/// A function that the model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// A JSON object.
    pub(super) arguments: String,
}

/// What became certain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Text around calls.
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
}

/// Reads one reply. What only looks like a call, but is none of an offered tool, stays text.
#[derive(Debug)]
pub(super) struct Scanner {
    form: CallForm,
    /// Names of the offered tools; without any, all is text.
    names: Vec<String>,
    /// Text that may be the beginning of a call, or the space before one.
    held: String,
    /// Whether no text was given out and no call was found so far.
    untouched: bool,
    /// Whether there was one.
    called: bool,
}

/// What stands where a call may stand.
enum Read {
    /// Calls, in so many bytes.
    Calls(Vec<Call>, usize),
    /// The beginning of a call, perhaps.
    More,
    /// Something else.
    Text,
}

impl Scanner {
    pub(super) fn new(form: CallForm, names: Vec<String>) -> Self {
        Self { form, names, held: String::new(), untouched: true, called: false }
    }

    /// Takes more of the reply.
    pub(super) fn push(&mut self, fresh: &str) -> Found {
        if self.names.is_empty() {
            return Found { text: fresh.to_owned(), calls: Vec::new() };
        }
        self.held += fresh;
        self.advance(false)
    }

    /// Takes the end of the reply, gives out all that is left, and begins anew.
    pub(super) fn finish(&mut self, fresh: &str) -> Found {
        if self.names.is_empty() {
            return self.push(fresh);
        }
        self.held += fresh;
        let mut found = self.advance(true);
        if self.called {
            found.text.truncate(found.text.trim_end().len());
        }
        *self = Self::new(self.form, std::mem::take(&mut self.names));
        found
    }

    fn advance(&mut self, end: bool) -> Found {
        let mut found = Found::default();
        while let Some((before, inner)) = self.opening() {
            match self.read(&self.held[inner..], end) {
                Read::Calls(calls, used) => {
                    found.text += self.held[..before].trim_end();
                    self.held.drain(..inner + used);
                    self.called = true;
                    found.calls.extend(calls);
                    self.untouched = false;
                }
                Read::More => {
                    self.release(before, false, &mut found);
                    return found;
                }
                Read::Text => {
                    // Where nothing stands before calls, one can only be the whole.
                    let to = if self.form.opening().is_empty() { self.held.len() } else { inner };
                    found.text.extend(self.held.drain(..to));
                    self.untouched = false;
                }
            }
        }
        let certain = self.held.len() - if end { 0 } else { self.beginning() };
        self.release(certain, end, &mut found);
        found
    }

    /// Where the next call may begin, and where its JSON would.
    fn opening(&self) -> Option<(usize, usize)> {
        match self.form {
            CallForm::Bare => (self.untouched && !self.held.trim_start().is_empty()).then_some((0, 0)),
            CallForm::Tagged | CallForm::Listed => {
                let mark = self.form.opening();
                self.held.find(mark).map(|at| (at, at + mark.len()))
            }
        }
    }

    /// How many bytes at the end may be the beginning of a mark.
    fn beginning(&self) -> usize {
        let mark = self.form.opening();
        (1..mark.len()).rev().find(|len| self.held.ends_with(&mark[..*len])).unwrap_or(0)
    }

    /// Gives out the text before `at`; space at its end waits for what follows it.
    fn release(&mut self, at: usize, end: bool, found: &mut Found) {
        let at = if end { at } else { self.held[..at].trim_end().len() };
        self.untouched &= at == 0;
        found.text.extend(self.held.drain(..at));
    }

    fn read(&self, rest: &str, end: bool) -> Read {
        match self.form {
            CallForm::Tagged => self.tagged(rest, end),
            CallForm::Listed => self.listed(rest, end),
            CallForm::Bare => self.bare(rest, end),
        }
    }

    /// One object, then the closing mark, which a reply that ends there may lack.
    fn tagged(&self, rest: &str, end: bool) -> Read {
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        let call = match next(&mut values, end) {
            Ok(value) => self.call(&value),
            Err(other) => return other,
        };
        let after = rest[values.byte_offset()..].trim_start();
        let close = self.form.closing();
        match call {
            Some(call) if after.starts_with(close) => Read::Calls(vec![call], rest.len() - after.len() + close.len()),
            Some(call) if end && after.is_empty() => Read::Calls(vec![call], rest.len()),
            Some(_) if !end && close.starts_with(after) => Read::More,
            _ => Read::Text,
        }
    }

    /// A list of objects, or one.
    fn listed(&self, rest: &str, end: bool) -> Read {
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        let list = match next(&mut values, end) {
            Ok(Value::Array(list)) => list,
            Ok(value) => vec![value],
            Err(other) => return other,
        };
        let calls: Option<Vec<Call>> = list.iter().map(|value| self.call(value)).collect();
        match calls {
            Some(calls) if !calls.is_empty() => Read::Calls(calls, values.byte_offset()),
            _ => Read::Text,
        }
    }

    /// The whole reply is one object, or several with semicolons between them.
    fn bare(&self, rest: &str, end: bool) -> Read {
        let (mut calls, mut at) = (Vec::new(), 0);
        loop {
            let left = rest[at..].trim_start_matches(|c: char| c.is_whitespace() || (at > 0 && c == ';'));
            if left.is_empty() {
                return if end && !calls.is_empty() { Read::Calls(calls, rest.len()) } else { Read::More };
            }
            let mut values = Deserializer::from_str(left).into_iter::<Value>();
            match next(&mut values, end).map(|value| self.call(&value)) {
                Ok(Some(call)) => calls.push(call),
                Ok(None) => return Read::Text,
                Err(other) => return other,
            }
            at = rest.len() - left.len() + values.byte_offset();
        }
    }

    fn call(&self, value: &Value) -> Option<Call> {
        let name = value["name"].as_str().filter(|name| self.names.iter().any(|offered| offered == name))?;
        let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
            Some(arguments @ Value::Object(_)) => arguments.to_string(),
            None => "{}".to_owned(),
            Some(_) => return None,
        };
        Some(Call { name: name.to_owned(), arguments })
    }
}

/// The next object or list, or what stands in its place.
fn next(values: &mut impl Iterator<Item = serde_json::Result<Value>>, end: bool) -> Result<Value, Read> {
    match values.next() {
        Some(Ok(value @ (Value::Object(_) | Value::Array(_)))) => Ok(value),
        None if !end => Err(Read::More),
        Some(Err(error)) if error.is_eof() && !end => Err(Read::More),
        _ => Err(Read::Text),
    }
}

#[cfg(test)]
mod tests;
