//! Tools in a chat: as templates that know of them expect them, and in words of our own for those that do not.

use corolla_domain::model::{CallForm, Chat, Message, Role, Tool, ToolCall};
use serde_json::{Map, Value, json};

use crate::python_json;

/// Letters and digits that Mistral's templates take for the id of a call.
const LISTED_ID: usize = 9;

/// How calls stand in replies to what `template` writes; `None` where it writes no tools, or has replies come in a form
/// that is not read here.
pub(crate) fn form(template: &str) -> Option<CallForm> {
    let has = |mark| template.contains(mark);
    match () {
        () if !has("tools") => None,
        () if has(CallForm::Tagged.opening()) => Some(CallForm::Tagged),
        // With [ARGS], names stand outside of the JSON.
        () if has(CallForm::Listed.opening()) => (!has("[ARGS]")).then_some(CallForm::Listed),
        () if has("\"parameters\": ") && (has("ipython") || has("<|python_tag|>")) => Some(CallForm::Bare),
        () => None,
    }
}

/// Whether tools play a part in it.
pub(crate) fn concern(chat: &Chat) -> bool {
    let about = |message: &Message| message.role == Role::Tool || !message.tool_calls.is_empty();
    !chat.tools.is_empty() || chat.messages.iter().any(about)
}

/// A tool in OpenAI's shape, which templates expect.
pub(crate) fn tool(tool: &Tool) -> Value {
    json!({"type": "function", "function": function(tool)})
}

fn function(tool: &Tool) -> Value {
    let mut members = Map::from_iter([("name".to_owned(), json!(tool.name))]);
    if let Some(description) = &tool.description {
        members.insert("description".to_owned(), json!(description));
    }
    let schema = tool.parameters.as_deref().map(parsed);
    members.insert("parameters".to_owned(), schema.unwrap_or_else(|| json!({"type": "object", "properties": {}})));
    Value::Object(members)
}

/// A message as templates expect it that write calls in `form`.
pub(crate) fn message(message: &Message, form: Option<CallForm>) -> Value {
    let id = |id: &str| if form == Some(CallForm::Listed) { listed_id(id) } else { id.to_owned() };
    let mut members = Map::from_iter([
        ("role".to_owned(), json!(role(message.role))),
        ("content".to_owned(), json!(message.content)),
    ]);
    if !message.tool_calls.is_empty() {
        let call = |it: &ToolCall| {
            let function = json!({"name": it.name, "arguments": parsed(&it.arguments)});
            json!({"id": id(&it.id), "type": "function", "function": function})
        };
        members.insert("tool_calls".to_owned(), message.tool_calls.iter().map(call).collect());
    }
    if let Some(answers) = &message.answers {
        members.insert("tool_call_id".to_owned(), json!(id(&answers.id)));
        if let Some(name) = &answers.name {
            members.insert("name".to_owned(), json!(name));
        }
    }
    Value::Object(members)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

/// The last nine letters and digits of an id: those of one id are the same each time.
fn listed_id(id: &str) -> String {
    let kept: Vec<char> = id.chars().filter(char::is_ascii_alphanumeric).collect();
    let tail: String = kept[kept.len().saturating_sub(LISTED_ID)..].iter().collect();
    format!("{tail:0>LISTED_ID$}")
}

/// JSON, or the text itself where it is none.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

/// The same chat without tools: what they are and how to call them stands in the system's message, calls in the
/// assistant's, and what they returned in the user's.
pub(crate) fn in_words(chat: &Chat) -> Result<Vec<Message>, serde_json::Error> {
    let mut told: Vec<Message> = Vec::with_capacity(chat.messages.len() + 1);
    let mut answering = false;
    for message in &chat.messages {
        let was_answering = std::mem::replace(&mut answering, message.role == Role::Tool);
        match (message.role, told.last_mut()) {
            (Role::Tool, Some(last)) if was_answering => {
                last.content.push('\n');
                last.content += &answer(message);
            }
            (Role::Tool, _) => told.push(Message::new(Role::User, answer(message))),
            _ => told.push(Message::new(message.role, with_calls(message)?)),
        }
    }
    if chat.tools.is_empty() {
        return Ok(told);
    }
    let words = instruction(&chat.tools)?;
    match told.first_mut().filter(|first| first.role == Role::System) {
        Some(system) => system.content = format!("{}\n\n{words}", system.content),
        None => told.insert(0, Message::new(Role::System, words)),
    }
    Ok(told)
}

fn instruction(tools: &[Tool]) -> Result<String, serde_json::Error> {
    let (open, close) = (CallForm::Tagged.opening(), CallForm::Tagged.closing());
    let rows = tools.iter().map(|tool| python_json::write(&function(tool), python_json::Style::default()));
    let rows = rows.collect::<Result<Vec<_>, _>>()?.join("\n");
    Ok(format!(
        "You may call functions. Each line between <tools> and </tools> describes one, with the JSON schema of its \
         arguments:\n<tools>\n{rows}\n</tools>\nTo call a function, write its name and its arguments as JSON between \
         {open} and {close}:\n{open}\n{{\"name\": \"...\", \"arguments\": {{...}}}}\n{close}\nWhat it returns comes \
         between <tool_response> and </tool_response>."
    ))
}

fn with_calls(message: &Message) -> Result<String, serde_json::Error> {
    let (open, close) = (CallForm::Tagged.opening(), CallForm::Tagged.closing());
    let mut parts = Vec::new();
    if !message.content.is_empty() || message.tool_calls.is_empty() {
        parts.push(message.content.clone());
    }
    for call in &message.tool_calls {
        let call = json!({"name": call.name, "arguments": parsed(&call.arguments)});
        parts.push(format!("{open}\n{}\n{close}", python_json::write(&call, python_json::Style::default())?));
    }
    Ok(parts.join("\n"))
}

fn answer(message: &Message) -> String {
    format!("<tool_response>\n{}\n</tool_response>", message.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_nine_letters_and_digits_stay_themselves() {
        assert_eq!(listed_id("abc123XYZ"), "abc123XYZ");
        assert_eq!(listed_id("call_0123456789abcdef"), "789abcdef");
        assert_eq!(listed_id("ž-1"), "000000001");
    }

    #[test]
    fn the_form_is_read_off_the_template() {
        for (template, expected) in [
            ("{{ messages }}", None),
            ("{% if tools %}<tool_call>{% endif %}", Some(CallForm::Tagged)),
            ("<tool_call>", None),
            ("{% if tools %}[TOOL_CALLS] [{% endif %}", Some(CallForm::Listed)),
            ("{% if tools %}[TOOL_CALLS]f[ARGS]{}{% endif %}", None),
            ("{% if tools %}Environment: ipython{\"name\": f, \"parameters\": {}}{% endif %}", Some(CallForm::Bare)),
            ("{% if tools %}{{ tools }}{% endif %}", None),
        ] {
            assert_eq!(form(template), expected, "{template}");
        }
    }
}
