//! Calls of tools as a grammar in Lark's notation, as `llguidance` reads it.

use std::fmt::Write;

use corolla_domain::{
    model::{CallForm, Calls, Otherwise, Tool},
    ports::PortError,
};
use serde_json::{Value, json};

use crate::grammar::{plain, schema};

/// Calls that one reply may consist of: a small model that has begun to repeat itself comes to an end.
const MOST: usize = 16;

/// The grammar of `calls`, written in `form`.
pub(crate) fn lark(calls: &Calls, form: CallForm) -> Result<String, PortError> {
    let mut rules = start(calls, form);
    let mut rule = |name: &str, body: &str| writeln!(rules, "{name}: {body}");
    let (schemas, key) = (schemas(calls)?, format!("\"{}\"", form.arguments()));
    let written = (|| {
        for (index, tool) in calls.tools.iter().enumerate() {
            // In pieces as small as those of JSON, so that other JSON may stand in the same place.
            let pieces = ["{", "\"name\"", ": ", &format!("\"{}\"", tool.name), ", ", &key, ": "].map(literal);
            rule(&format!("object_{index}"), &format!("{} arguments_{index} \"}}\"", pieces.join(" ")))?;
        }
        let objects: Vec<String> = (0..calls.tools.len()).map(|index| format!("object_{index}")).collect();
        rule("object", &objects.join(" | "))?;
        for (index, (_, schema)) in schemas.into_iter().enumerate() {
            let name = if index < calls.tools.len() { format!("arguments_{index}") } else { "answer".to_owned() };
            rule(&name, &format!("%json {}", plain(schema)))?;
        }
        Ok::<(), std::fmt::Error>(())
    })();
    written.map_err(|error| PortError::internal("the grammar cannot be written").with_source(error))?;
    Ok(rules)
}

/// Every schema of the grammar with its name for people, those of the tools first.
pub(crate) fn schemas(calls: &Calls) -> Result<Vec<(String, Value)>, PortError> {
    let mut all = Vec::new();
    for tool in &calls.tools {
        let what = format!("the schema of the tool {}", tool.name);
        let schema = arguments(tool, &what)?;
        all.push((what, schema));
    }
    if let Otherwise::Json(text) = &calls.otherwise {
        all.push(("the JSON schema".to_owned(), schema("the JSON schema", text)?));
    }
    Ok(all)
}

/// What a tool's arguments are: an object, with no others than its schema names where that leaves it open.
fn arguments(tool: &Tool, what: &str) -> Result<Value, PortError> {
    let mut schema = match &tool.parameters {
        None => json!({}),
        Some(text) => schema(what, text)?,
    };
    let Value::Object(members) = &mut schema else {
        return Err(PortError::invalid(format!("{what} must be an object")));
    };
    let elsewhere =
        ["additionalProperties", "unevaluatedProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"];
    if !elsewhere.iter().any(|name| members.contains_key(*name)) {
        members.entry("properties").or_insert_with(|| json!({}));
        members.insert("additionalProperties".to_owned(), json!(false));
    }
    members.entry("type").or_insert_with(|| json!("object"));
    Ok(schema)
}

/// How a text begins and goes on, in terms of `object` (a call's JSON) and `answer` (other JSON).
fn start(calls: &Calls, form: CallForm) -> String {
    let several = if calls.several { MOST - 1 } else { 0 };
    let more = |between: &str, what: &str| {
        if several == 0 { String::new() } else { format!(" ({} {what}){{0,{several}}}", literal(between)) }
    };
    let (open, close) = (form.opening(), form.closing());
    let (all, inner) = match form {
        CallForm::Tagged => {
            let whole = format!("{} inner{}", literal(open), more("\n", &format!("{} inner", literal(open))));
            (whole, format!("\"\\n\" object {}", literal(&format!("\n{close}"))))
        }
        CallForm::Listed => {
            (format!("{} inner", literal(open)), format!("/ ?/ \"[\" object{} \"]\"", more(", ", "object")))
        }
        CallForm::Bare => ("inner".to_owned(), "object".to_owned()),
    };
    let start = match (&calls.otherwise, form) {
        (Otherwise::Never, _) => "calls".to_owned(),
        (Otherwise::Json(_), _) => "calls | answer".to_owned(),
        // Words that begin as JSON does would be taken for a call.
        (Otherwise::Words, CallForm::Bare) => "calls | OTHER\nOTHER: /([^{ \\n\\t](.|\\n)*)?/".to_owned(),
        (Otherwise::Words, _) => {
            let repeated =
                if several > 0 && form == CallForm::Tagged { format!("{{0,{MOST}}}") } else { "?".to_owned() };
            let mark = pattern(open);
            format!(
                "(before inner){repeated} AFTER\nbefore[lazy]: /(.|\\n)*{mark}/\nAFTER: /(.|\\n)*/ & ~/(.|\\n)*{mark}(.|\\n)*/"
            )
        }
    };
    let calls = if start.contains("calls") { format!("calls: {all}\n") } else { String::new() };
    format!("start: {start}\n{calls}inner: {inner}\n")
}

/// A text in the grammar's notation.
fn literal(text: &str) -> String {
    json!(text).to_string()
}

/// The expression that is that text.
fn pattern(text: &str) -> String {
    let escaped =
        |c: char| if c.is_ascii_alphanumeric() || "_<>".contains(c) { c.to_string() } else { format!("\\{c}") };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use corolla_domain::{model::Grammar, ports::Constraint};

    use super::*;
    use crate::grammar::tests::{grammars, takes};

    fn tool(name: &str, parameters: Option<Value>) -> Tool {
        let parameters = parameters.map(|schema| schema.to_string());
        Tool { name: name.to_owned(), description: None, parameters }
    }

    fn tools() -> Vec<Tool> {
        let city = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"],
            "$defs": {"city": {"type": "string", "maxLength": 9}}});
        vec![tool("weather", Some(city)), tool("now", None)]
    }

    fn compile(form: CallForm, several: bool, otherwise: Otherwise) -> Box<dyn Constraint> {
        let calls = Grammar::Calls(Calls { tools: tools(), several, otherwise });
        Box::new(grammars().compile(&calls, form).unwrap())
    }

    const WEATHER: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
    const NOW: &str = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

    #[tokio::test]
    async fn a_call_that_must_be_is_one_of_an_offered_tool_with_its_arguments() {
        let grammar = compile(CallForm::Tagged, false, Otherwise::Never);
        for right in [WEATHER, NOW] {
            assert!(takes(grammar.anew(), right).await, "{right}");
        }
        for wrong in [
            "",
            "It is warm.",
            &format!("{NOW}\n{NOW}"),
            &format!("Well: {NOW}"),
            &NOW.replace("now", "later"),
            &NOW.replace("{}", "{\"city\": \"Rome\"}"),
            &WEATHER.replace("Rome", "Constantinople"),
            &WEATHER.replace("\"Rome\"", "\"Rome\", \"country\": \"IT\""),
            &NOW[..NOW.len() - 1],
        ] {
            assert!(!takes(grammar.anew(), wrong).await, "{wrong}");
        }
        let several = compile(CallForm::Tagged, true, Otherwise::Never);
        assert!(takes(several.anew(), &[WEATHER, NOW, NOW].join("\n")).await);
        assert!(!takes(several.anew(), &[NOW; MOST + 1].join("\n")).await);
    }

    #[tokio::test]
    async fn other_families_write_calls_their_way() {
        let bare = compile(CallForm::Bare, true, Otherwise::Never);
        assert!(takes(bare.anew(), "{\"name\": \"now\", \"parameters\": {}}").await);
        assert!(!takes(bare.anew(), NOW).await);
        let listed = compile(CallForm::Listed, true, Otherwise::Never);
        let call = "{\"name\": \"now\", \"arguments\": {}}";
        for right in [format!("[TOOL_CALLS] [{call}, {call}]"), format!("[TOOL_CALLS][{call}]")] {
            assert!(takes(listed.anew(), &right).await, "{right}");
        }
        assert!(!takes(listed.anew(), &format!("[TOOL_CALLS] [{call}")).await);
    }

    #[tokio::test]
    async fn a_call_that_may_be_is_a_right_one_once_it_is_begun() {
        let open = compile(CallForm::Tagged, true, Otherwise::Words);
        for right in ["", "It is < warm.\n", NOW, &format!("Well:\n{NOW}"), &format!("{NOW}\n{WEATHER}\nDone.")] {
            assert!(takes(open.anew(), right).await, "{right}");
        }
        for wrong in
            ["<tool_call>", &NOW.replace("now", "later"), &format!("Well: {}", NOW.replace("{}", "{\"a\": 1}"))]
        {
            assert!(!takes(open.anew(), wrong).await, "{wrong}");
        }
        let one = compile(CallForm::Tagged, false, Otherwise::Words);
        assert!(takes(one.anew(), &format!("Well: {NOW} Done.")).await);
        assert!(!takes(one.anew(), &format!("{NOW}\n{NOW}")).await);
        let listed = compile(CallForm::Listed, true, Otherwise::Words);
        assert!(takes(listed.anew(), "[1, 2] is a list").await);
        assert!(takes(listed.anew(), "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}]").await);
        assert!(!takes(listed.anew(), "[TOOL_CALLS] [1]").await);
        let bare = compile(CallForm::Bare, true, Otherwise::Words);
        for right in ["", "Warm {very}", "{\"name\": \"now\", \"parameters\": {}}"] {
            assert!(takes(bare.anew(), right).await, "{right}");
        }
        assert!(!takes(bare.anew(), "{\"name\": \"later\", \"parameters\": {}}").await);
    }

    #[tokio::test]
    async fn json_may_take_the_place_of_a_call() {
        let schema = json!({"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"],
            "additionalProperties": false});
        for (form, call) in [(CallForm::Tagged, NOW), (CallForm::Bare, "{\"name\": \"now\", \"parameters\": {}}")] {
            let grammar = compile(form, false, Otherwise::Json(schema.to_string()));
            assert!(takes(grammar.anew(), "{\"warm\": true}").await);
            assert!(takes(grammar.anew(), call).await);
            assert!(!takes(grammar.anew(), "Warm").await);
        }
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_named() {
        let tools = vec![tool("fine", None), tool("odd", Some(json!({"$ref": "#/nowhere"})))];
        let calls = Grammar::Calls(Calls { tools, several: false, otherwise: Otherwise::Never });
        let refused = grammars().compile(&calls, CallForm::Tagged).err().unwrap();
        assert!(refused.to_string().contains("the schema of the tool odd cannot be used: "), "{refused}");
    }
}
