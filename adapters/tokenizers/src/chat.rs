//! Chat templates: Jinja as the `transformers` library renders it, within bounds.

use std::fmt::Write;

use corolla_domain::{
    model::{CallForm, Chat},
    ports::{FaultKind, PortError},
};
use minijinja::{
    Environment, Error, ErrorKind, State, Value, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::{python_json, tools};

/// Work a rendering may do: instructions, and the bytes it makes at 64 for one, so about 128 MB in all; an honest template
/// needs about 50 for a message. Lists are joined by `+` without being counted: a model's template is trusted so far.
const FUEL: u64 = 2_000_000;
/// Calls within calls; honest templates need fewer than ten.
const RECURSION: usize = 100;
/// Longest template read, and longest list or map printed; honest ones have a few kilobytes.
const MAX_TEMPLATE: usize = 1024 * 1024;
/// The names of the two templates.
const NAMES: [&str; 2] = ["chat", "tools"];

/// The templates that come with a model.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sources {
    /// For any chat.
    pub(crate) chat: Option<String>,
    /// For chats with tools, where it is another one.
    pub(crate) tools: Option<String>,
}

/// How a model wants a conversation written.
pub(crate) enum Template {
    /// Ready to render.
    Ready { environment: Box<Environment<'static>>, chat: Writer, tools: Option<Writer>, around: Around },
    /// The reason why there is none.
    Missing(String),
}

/// One template, by name, and how it has calls of tools written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer {
    name: &'static str,
    form: Option<CallForm>,
}

/// The texts of the tokens that begin and end a conversation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Around {
    pub(crate) bos: Option<String>,
    pub(crate) eos: Option<String>,
}

impl Template {
    pub(crate) fn new(sources: &Sources, around: Around) -> Self {
        let Some(template) = &sources.chat else {
            return Self::Missing(
                "the model has no chat template; send plain text instead, or use a model trained for chat".to_owned(),
            );
        };
        let mut environment = Box::new(environment());
        let mut add = |name: &'static str, template: &str| {
            if template.len() > MAX_TEMPLATE {
                return Err(format!("the model's chat template is longer than {MAX_TEMPLATE} bytes"));
            }
            let added = environment.add_template_owned(name, without_training_marks(template));
            added.map_err(|fault| format!("the model's chat template cannot be used: {}", sentence(&fault)))?;
            Ok(Writer { name, form: tools::form(template) })
        };
        let tools = sources.tools.as_deref().map(|template| add(NAMES[1], template)).transpose();
        match (add(NAMES[0], template), tools) {
            (Ok(chat), Ok(tools)) => Self::Ready { environment, chat, tools, around },
            (Err(reason), _) | (_, Err(reason)) => Self::Missing(reason),
        }
    }

    /// How it has calls of tools written.
    pub(crate) fn form(&self) -> CallForm {
        let form = match self {
            Self::Ready { chat, tools, .. } => tools.as_ref().unwrap_or(chat).form,
            Self::Missing(_) => None,
        };
        form.unwrap_or(CallForm::Tagged)
    }

    pub(crate) fn prompt(&self, chat: &Chat) -> Result<String, PortError> {
        let (environment, writer, around) = match self {
            Self::Ready { environment, chat: plain, tools, around } => {
                let apart = tools.as_ref().filter(|_| tools::concern(chat));
                (environment, apart.unwrap_or(plain), around)
            }
            Self::Missing(reason) => return Err(PortError::new(FaultKind::Unsupported, reason.clone())),
        };
        let told;
        let (messages, tools): (_, Option<Value>) = if writer.form.is_none() && tools::concern(chat) {
            told = tools::in_words(chat)
                .map_err(|fault| PortError::invalid(format!("the tools cannot be written: {fault}")))?;
            (&told, None)
        } else {
            let tools = || chat.tools.iter().map(tools::tool).map(Serde).map(Value::from).collect();
            (&chat.messages, (!chat.tools.is_empty()).then(tools))
        };
        let message = |message| Value::from(Serde(tools::message(message, writer.form)));
        let or_undefined = |token: &Option<String>| token.as_ref().map_or(Value::UNDEFINED, Value::from);
        let Around { bos, eos } = around;
        let variables = context! {
            messages => messages.iter().map(message).collect::<Value>(),
            tools => tools.unwrap_or(Value::from(())),
            documents => Value::from(()),
            bos_token => or_undefined(bos),
            eos_token => or_undefined(eos),
            add_generation_prompt => true,
        };
        let rendered = environment.get_template(writer.name).and_then(|template| template.render(variables));
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
