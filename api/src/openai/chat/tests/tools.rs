//! Tools, against a model that says what its script says.

use corolla_domain::model::{CallForm, Calls, Grammar, Otherwise, Role, Tool};
use serde_json::{Value, json};

use super::{ask, events, fault};
use crate::stage::{Script, Stage};

const CALLS: &str = "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n\
                     <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

fn tools() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([
        {"type": "function", "function": {"name": "weather", "description": "How it is outside.", "parameters": city}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn with(extra: &Value) -> Value {
    let mut body = json!({"tools": tools()});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

async fn choices(stage: &Stage, extra: &Value) -> Vec<Value> {
    let (status, body) = ask(stage, extra).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["choices"].as_array().unwrap().clone()
}

fn grammar(script: &Script) -> Calls {
    let Some(Grammar::Calls(calls)) = script.grammars.lock().unwrap().last().cloned() else { panic!("no grammar") };
    calls
}

/// Checks the two calls, whatever their ids; returns those.
fn ids(calls: &Value) -> Vec<String> {
    let expected = [("weather", "{\"city\":\"Rome\"}"), ("now", "{}")];
    let calls = calls.as_array().unwrap();
    assert_eq!(calls.len(), expected.len());
    let id = |(call, (name, arguments)): (&Value, (&str, &str))| {
        assert_eq!(call["type"], "function");
        assert_eq!(call["function"], json!({"name": name, "arguments": arguments}));
        let id = call["id"].as_str().unwrap();
        assert!(id.starts_with("call_") && id.len() > 20, "{id}");
        id.to_owned()
    };
    calls.iter().zip(expected).map(id).collect()
}

#[tokio::test]
async fn calls_leave_the_text_and_are_told_apart() {
    let (stage, script) = Stage::saying(CALLS, CallForm::Tagged);
    let choices = choices(&stage, &with(&json!({"n": 2}))).await;
    let mut all = Vec::new();
    for choice in &choices {
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(choice["message"]["content"], "Let me see.");
        all.extend(ids(&choice["message"]["tool_calls"]));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "every call has an id of its own");
    let parameters = tools()[0]["function"]["parameters"].to_string();
    let weather = Tool {
        name: "weather".to_owned(),
        description: Some("How it is outside.".to_owned()),
        parameters: Some(parameters),
    };
    let now = Tool { name: "now".to_owned(), description: None, parameters: None };
    assert_eq!(script.chats.lock().unwrap().last().unwrap().tools, [weather, now], "the template is told of them");
    assert!(script.grammars.lock().unwrap().is_empty(), "auto needs no grammar");
}

#[tokio::test]
async fn a_stream_gives_words_and_then_each_call_whole() {
    let (stage, _) = Stage::saying(CALLS, CallForm::Tagged);
    let (_, body) = ask(&stage, &with(&json!({"stream": true, "n": 2}))).await;
    let pieces: Vec<Value> = events(&body).iter().filter_map(|piece| serde_json::from_str(piece).ok()).collect();
    for index in 0..2 {
        let own: Vec<&Value> =
            pieces.iter().map(|piece| &piece["choices"][0]).filter(|choice| choice["index"] == index).collect();
        let text: String = own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "Let me see.");
        let calls: Vec<Value> =
            own.iter().filter_map(|choice| choice["delta"]["tool_calls"].as_array()).flatten().cloned().collect();
        assert_eq!(calls.iter().map(|call| call["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
        ids(&Value::Array(calls));
        assert_eq!(own.last().unwrap()["finish_reason"], "tool_calls");
        assert!(own.len() > 5, "words come as they are written");
    }
}

#[tokio::test]
async fn nothing_but_a_call_has_no_content() {
    for (form, words) in [
        (CallForm::Tagged, "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>"),
        (CallForm::Bare, "{\"name\": \"now\", \"parameters\": {}}"),
        (CallForm::Listed, "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}]"),
    ] {
        let (stage, _) = Stage::saying(words, form);
        let choice = &choices(&stage, &with(&json!({}))).await[0];
        assert_eq!(choice["message"]["content"], Value::Null, "{form:?}");
        assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "now");
        for without in [json!({}), with(&json!({"tool_choice": "none"}))] {
            let choice = &choices(&stage, &without).await[0];
            assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(words), &json!("stop")));
            assert_eq!(choice["message"].get("tool_calls"), None);
        }
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_or_of_nobody_stays_text() {
    let (stage, _) = Stage::saying(CALLS, CallForm::Tagged);
    let choice = &choices(&stage, &with(&json!({"max_tokens": 40}))).await[0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(CALLS[..40]), &json!("length")));
    let only_now = json!({"tools": [tools()[1]]});
    let choice = &choices(&stage, &only_now).await[0];
    let kept = &CALLS[..CALLS.rfind("\n<tool_call>").unwrap()];
    assert_eq!(choice["message"]["content"], kept);
    assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_choice_reaches_the_grammar() {
    let (stage, script) = Stage::saying(CALLS, CallForm::Tagged);
    choices(&stage, &with(&json!({"tool_choice": "required"}))).await;
    let calls = grammar(&script);
    assert_eq!((calls.tools.len(), calls.several, calls.otherwise), (2, true, Otherwise::Never));
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "now"}}});
    choices(&stage, &with(&named)).await;
    let calls = grammar(&script);
    assert_eq!((calls.tools.len(), calls.several, calls.otherwise), (1, false, Otherwise::Never));
}

#[tokio::test]
async fn what_a_tool_returned_goes_on_in_a_session() {
    let (stage, script) = Stage::saying(CALLS, CallForm::Tagged);
    let session = stage.service.open(None, None).await.unwrap().simple().to_string();
    let user = json!({"role": "user", "content": "Weather?"});
    let first = json!({"session_id": session, "messages": [user]});
    let said = choices(&stage, &with(&first)).await[0]["message"].clone();
    let id = said["tool_calls"][0]["id"].clone();
    let returned = json!({"role": "tool", "tool_call_id": id, "content": "warm"});
    let second = json!({"session_id": session, "messages": [user, said, returned]});
    choices(&stage, &with(&second)).await;
    let chats = script.chats.lock().unwrap();
    let [_, asked, returned] = chats.last().unwrap().messages.as_slice() else { panic!("three messages") };
    assert_eq!((asked.content.as_str(), asked.tool_calls[0].name.as_str()), ("Let me see.", "weather"));
    assert_eq!(returned.role, Role::Tool);
    let answers = returned.answers.as_ref().unwrap();
    assert_eq!((Some(answers.id.as_str()), answers.name.as_deref()), (id.as_str(), Some("weather")));
}

#[tokio::test]
async fn faults_name_the_tool() {
    let stage = Stage::new();
    let odd = json!({"tools": [{"type": "function", "function": {"name": "a b"}}]});
    let (status, error) = fault(&stage, &odd).await;
    let at = json!("tools[0].function.name");
    assert_eq!((status.as_u16(), &error["code"], &error["param"]), (400, &json!("invalid_parameter"), &at));
    let (status, error) = fault(&stage, &json!({"tool_choice": "required"})).await;
    assert_eq!((status.as_u16(), &error["message"]), (400, &json!("tool_choice needs tools beside it")));
}
