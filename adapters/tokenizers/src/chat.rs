//! Chat templates: Jinja as the `transformers` library renders it, within bounds.

use std::fmt::Write;

use corolla_domain::{
    model::{Message, Role},
    ports::{FaultKind, PortError},
};
use minijinja::{Environment, Error, ErrorKind, State, Value, context, syntax::SyntaxConfig, value::Kwargs};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::python_json;

/// Work a rendering may do: instructions, and the bytes it makes at 64 for one, so about 128 MB in all; an honest template
/// needs about 50 for a message. Lists are joined by `+` without being counted: a model's template is trusted so far.
const FUEL: u64 = 2_000_000;
/// Calls within calls; honest templates need fewer than ten.
const RECURSION: usize = 100;
/// Longest template read, and longest list or map printed; honest ones have a few kilobytes.
const MAX_TEMPLATE: usize = 1024 * 1024;
const NAME: &str = "chat";

/// How a model wants a conversation written.
pub(crate) enum Chat {
    /// Ready to render.
    Template { environment: Box<Environment<'static>>, bos: Option<String>, eos: Option<String> },
    /// The reason why there is none.
    None(String),
}

impl Chat {
    pub(crate) fn new(template: Option<&str>, bos: Option<String>, eos: Option<String>) -> Self {
        let Some(template) = template else {
            return Self::None(
                "the model has no chat template; send plain text instead, or use a model trained for chat".to_owned(),
            );
        };
        if template.len() > MAX_TEMPLATE {
            return Self::None(format!("the model's chat template is longer than {MAX_TEMPLATE} bytes"));
        }
        let mut environment = Box::new(environment());
        match environment.add_template_owned(NAME, without_training_marks(template)) {
            Ok(()) => Self::Template { environment, bos, eos },
            Err(fault) => Self::None(format!("the model's chat template cannot be used: {}", sentence(&fault))),
        }
    }

    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<String, PortError> {
        let (environment, bos, eos) = match self {
            Self::Template { environment, bos, eos } => (environment, bos, eos),
            Self::None(reason) => return Err(PortError::new(FaultKind::Unsupported, reason.clone())),
        };
        let or_undefined = |token: &Option<String>| token.as_ref().map_or(Value::UNDEFINED, Value::from);
        let variables = context! {
            messages => messages.iter().map(message).collect::<Value>(),
            tools => Value::from(()),
            documents => Value::from(()),
            bos_token => or_undefined(bos),
            eos_token => or_undefined(eos),
            add_generation_prompt => true,
        };
        let rendered = environment.get_template(NAME).and_then(|template| template.render(variables));
        rendered.map_err(|fault| match fault.kind() {
            ErrorKind::OutOfFuel => {
                PortError::new(FaultKind::Unsupported, "the model's chat template takes too long for these messages")
            }
            _ => PortError::invalid(format!("the chat template refuses the messages: {}", sentence(&fault))),
        })
    }
}

/// The environment of `transformers`: blocks trimmed, no escaping, Python's methods, loop controls, three functions.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.add_function("raise_exception", |said: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, said))
    });
    environment.add_filter("tojson", to_json);
    environment.set_formatter(|out, state, value| match python_name(value) {
        Some(name) => Ok(out.write_str(name)?),
        None if value.as_object().is_some() => Ok(out.write_str(&container(value)?)?),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment
}

/// The text of a list or map, which may hold itself many times over.
fn container(value: &Value) -> Result<String, Error> {
    let mut bounded = Bounded(String::new());
    match write!(bounded, "{value}") {
        Ok(()) => Ok(bounded.0),
        Err(_) => Err(Error::new(ErrorKind::OutOfFuel, "a value to be printed is too long")),
    }
}

/// Text that ends at [`MAX_TEMPLATE`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        if self.0.len() + part.len() > MAX_TEMPLATE {
            return Err(std::fmt::Error);
        }
        self.0.push_str(part);
        Ok(())
    }
}

fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    Value::from_pairs([("role", role), ("content", &message.content)])
}

/// Python's spelling of the constants where Jinja's differs.
fn python_name(value: &Value) -> Option<&'static str> {
    if value.is_none() {
        return Some("None");
    }
    match bool::try_from(value.clone()) {
        Ok(true) if value.kind() == minijinja::value::ValueKind::Bool => Some("True"),
        Ok(false) if value.kind() == minijinja::value::ValueKind::Bool => Some("False"),
        _ => None,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the signature of filters")]
fn to_json(_: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let _: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    let style = python_json::Style {
        indent: indent.map(|width| width.min(16)),
        ascii: ascii.unwrap_or(false),
        sorted: sorted.unwrap_or(false),
    };
    python_json::write(value, style).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// `{% generation %}` marks what a model is trained on and changes nothing in the text.
fn without_training_marks(template: &str) -> String {
    let mut kept = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        kept.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match word {
            "generation" => kept.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => kept.push_str(&tag.replace("endgeneration", "endif")),
            _ => kept.push_str(tag),
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// What went wrong, without the template around it.
fn sentence(fault: &Error) -> String {
    let line = fault.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("{}{line}", fault.detail().map_or_else(|| fault.kind().to_string(), str::to_owned))
}
