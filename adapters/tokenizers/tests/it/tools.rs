//! Tools reach every template: in the shapes that those expect which know of them, in words of our own for others.

use std::{fs, path::Path};

use corolla_domain::{
    model::{Answered, CallForm, Chat, Message, Role, TokenId, Tool, ToolCall},
    ports::Tokenizer,
};
use corolla_tokenizers::HfTokenizer;
use serde::Deserialize;
use serde_json::Value;

use crate::templates::folder;

#[derive(Deserialize)]
struct Golden {
    tool_cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    tools: Option<Vec<Value>>,
    messages: Vec<Value>,
    text: String,
}

fn with_template(template: &str) -> HfTokenizer {
    let folder = folder();
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    corolla_tokenizers::load(folder.path()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A tool from OpenAI's shape.
fn tool(value: &Value) -> Tool {
    let function = &value["function"];
    Tool {
        name: text(&function["name"]),
        description: function["description"].as_str().map(str::to_owned),
        parameters: Some(function["parameters"].to_string()),
    }
}

/// A message from that shape.
fn message(value: &Value) -> Message {
    let role = match value["role"].as_str().unwrap() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => Role::Tool,
    };
    let call = |call: &Value| ToolCall {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]),
        arguments: call["function"]["arguments"].to_string(),
    };
    let answers = value["tool_call_id"]
        .as_str()
        .map(|id| Answered { id: id.to_owned(), name: value["name"].as_str().map(str::to_owned) });
    let tool_calls = value["tool_calls"].as_array().into_iter().flatten().map(call).collect();
    Message { tool_calls, answers, ..Message::new(role, text(&value["content"])) }
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates.json");
    serde_json::from_slice::<Golden>(&fs::read(path).unwrap()).unwrap().tool_cases
}

fn chat(case: &Case) -> Chat {
    let tools = case.tools.iter().flatten().map(tool).collect();
    Chat { messages: case.messages.iter().map(message).collect(), tools }
}

#[test]
fn templates_of_each_family_render_as_jinja_does() {
    for case in cases() {
        let tokenizer = with_template(&case.template);
        let form = match case.name.as_str() {
            "tagged" => CallForm::Tagged,
            "bare" => CallForm::Bare,
            _ => CallForm::Listed,
        };
        assert_eq!(tokenizer.call_form(), form);
        assert_eq!(tokenizer.chat_prompt(&chat(&case)).unwrap(), case.text, "{}", case.name);
    }
}

const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}";

#[test]
fn a_template_without_tools_is_given_words() {
    let tokenizer = with_template(PLAIN);
    assert_eq!(tokenizer.call_form(), CallForm::Tagged);
    let talk = chat(&cases()[0]);
    let prompt = tokenizer.chat_prompt(&talk).unwrap();
    let weather = "{\"name\": \"weather\", \"description\": \"The weather \\\"outside\\\".\", \"parameters\": {\"type\": \"object\", ";
    assert!(prompt.starts_with("<system>Be kind.\n\nYou may call functions."), "{prompt}");
    assert!(prompt.contains(weather) && prompt.contains("{\"name\": \"now\", "), "{prompt}");
    let rest = "<user>How warm is it in Rome?\n\
        <assistant><tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Řím\", \"days\": 2}}\n</tool_call>\n\
        <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n\
        <user><tool_response>\n{\"degrees\": 21}\n</tool_response>\n<tool_response>\nnoon\n</tool_response>\n";
    assert!(prompt.ends_with(rest), "{prompt}");
    let fresh = Chat { messages: vec![Message::new(Role::User, "Hi")], ..talk };
    assert!(tokenizer.chat_prompt(&fresh).unwrap().starts_with("<system>You may call functions."));
    let without = Chat { tools: Vec::new(), ..fresh };
    assert_eq!(tokenizer.chat_prompt(&without).unwrap(), "<user>Hi\n");
}

#[test]
fn a_template_of_its_own_for_tools_is_used_for_them_alone() {
    let folder = folder();
    let named = |name: &str, template: &str| serde_json::json!({"name": name, "template": template});
    let tools = "T{% for t in tools %}{{ t.function.name }}{% endfor %}<tool_call>";
    let config = serde_json::json!({"chat_template": [named("default", PLAIN), named("tool_use", tools)]});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = corolla_tokenizers::load(folder.path()).unwrap();
    let talk = chat(&cases()[0]);
    assert_eq!(tokenizer.chat_prompt(&talk).unwrap(), "Tweathernow<tool_call>");
    let without = Chat { messages: vec![Message::new(Role::User, "Hi")], tools: Vec::new() };
    assert_eq!(tokenizer.chat_prompt(&without).unwrap(), "<user>Hi\n");
}

#[tokio::test]
async fn what_stands_around_a_call_is_text_even_where_it_is_a_special_token() {
    let folder = folder();
    let path = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let id = json["model"]["vocab"].as_object().unwrap().len() as u32;
    let added = serde_json::json!({"id": id, "content": "[TOOL_CALLS]", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    json["added_tokens"].as_array_mut().unwrap().push(added);
    fs::write(&path, json.to_string()).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{{ tools }}[TOOL_CALLS] [").unwrap();
    let listed = corolla_tokenizers::load(folder.path()).unwrap();
    assert_eq!(listed.encode("[TOOL_CALLS]", false).await.unwrap(), [TokenId(id)]);
    assert_eq!(listed.decode(&[TokenId(id)], true).unwrap(), "[TOOL_CALLS]");
    fs::write(folder.path().join("chat_template.jinja"), PLAIN).unwrap();
    let plain = corolla_tokenizers::load(folder.path()).unwrap();
    assert_eq!(plain.decode(&[TokenId(id)], true).unwrap(), "", "other models leave it out");
}
