//! The tools of a chat request, and which of them must be called.

use corolla_domain::model::{Calls, Grammar, Otherwise, Tool};
use serde_json::Value;

use crate::{
    error::Fault,
    fields::{Fields, kind},
    openai::unsupported,
};

/// Tools of one request, and calls of one message.
pub(super) const MAX_TOOLS: usize = 128;
/// Longest description of a tool, and longest schema of its arguments, in bytes.
const MAX_TEXT: usize = 64 << 10;
/// Longest name of a tool.
pub(super) const MAX_NAME: usize = 64;

/// What the model may, must or must not call.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Those that the model is told of.
    pub(super) offered: Vec<Tool>,
    /// Whether one of them wants its calls to be held to its schema.
    strict: bool,
    several: bool,
    must: Must,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Must {
    #[default]
    Nothing,
    CallAny,
    Call(String),
}

impl Tools {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, Fault> {
        let several = fields.flag("parallel_tool_calls")?.unwrap_or(true);
        let (offered, strict) = offered(fields.get("tools"))?;
        let may = Self { offered, strict, several, must: Must::Nothing };
        let name = "tool_choice";
        let must = match fields.get(name) {
            None => return Ok(may),
            Some(Value::String(choice)) => match choice.as_str() {
                "none" => return Ok(Self::default()),
                "auto" => return Ok(may),
                "required" => Must::CallAny,
                other => {
                    let message = format!("{name} must be none, auto, required or a function, not {other:.40}");
                    return Err(Fault::invalid(name, message));
                }
            },
            Some(value @ Value::Object(_)) => {
                must_be_function(name, value)?;
                Must::Call(self::name("tool_choice.function.name", &value["function"]["name"])?)
            }
            Some(other) => {
                let message = format!("{name} must be a string or an object, not {}", kind(other));
                return Err(Fault::invalid(name, message));
            }
        };
        if let Must::Call(wanted) = &must
            && !may.offered.iter().any(|tool| tool.name == *wanted)
        {
            return Err(Fault::invalid(name, format!("{name} names {wanted}, which is not among tools")));
        }
        if may.offered.is_empty() {
            return Err(Fault::invalid(name, format!("{name} needs tools beside it")));
        }
        Ok(Self { must, ..may })
    }

    /// What the text must be, where `format` is what it must be if it calls nothing.
    pub(super) fn grammar(&self, format: Option<Grammar>) -> Result<Option<Grammar>, Fault> {
        if self.offered.is_empty() {
            return Ok(format);
        }
        let otherwise = match (&self.must, format) {
            (Must::Nothing, None) if !self.strict && self.several => return Ok(None),
            (Must::Nothing, None) => Otherwise::Words,
            (Must::Nothing, Some(Grammar::JsonSchema(schema))) => Otherwise::Json(schema),
            (Must::Nothing, Some(_)) => Otherwise::Json("{\"type\":\"object\"}".to_owned()),
            (_, None) => Otherwise::Never,
            (_, Some(_)) => {
                let message = "response_format cannot be kept where tool_choice makes the reply a call; leave one out";
                return Err(Fault::invalid("response_format", message));
            }
        };
        let (tools, several) = match &self.must {
            Must::Call(name) => (self.offered.iter().filter(|tool| tool.name == *name).cloned().collect(), false),
            _ => (self.offered.clone(), self.several),
        };
        Ok(Some(Grammar::Calls(Calls { tools, several, otherwise })))
    }
}

/// The tools, and whether one of them is strict.
fn offered(value: Option<&Value>) -> Result<(Vec<Tool>, bool), Fault> {
    let wrong = |message: String| Fault::invalid("tools", message);
    let list = match value {
        None => return Ok((Vec::new(), false)),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(format!("tools must be a list, not {}", kind(other)))),
    };
    if list.len() > MAX_TOOLS {
        return Err(wrong(format!("tools must hold at most {MAX_TOOLS} functions, got {}", list.len())));
    }
    let (mut tools, mut any_strict) = (Vec::<Tool>::with_capacity(list.len()), false);
    for (index, value) in list.iter().enumerate() {
        let (tool, strict) = one(&format!("tools[{index}]"), value)?;
        if tools.iter().any(|earlier| earlier.name == tool.name) {
            return Err(wrong(format!("tools has two functions named {}", tool.name)));
        }
        tools.push(tool);
        any_strict |= strict;
    }
    Ok((tools, any_strict))
}

fn one(at: &str, value: &Value) -> Result<(Tool, bool), Fault> {
    must_be_function(at, value)?;
    let at = format!("{at}.function");
    let Value::Object(members) = &value["function"] else {
        return Err(Fault::invalid(&at, format!("{at} must be an object, not {}", kind(&value["function"]))));
    };
    let members = Fields(members);
    let name = name(&format!("{at}.name"), members.get("name").unwrap_or(&Value::Null))?;
    let within =
        |member: &str, fault: Fault| Fault::invalid(&format!("{at}.{member}"), format!("{at}.{}", fault.message));
    let description = members.text("description").map_err(|fault| within("description", fault))?.map(str::to_owned);
    let strict = members.flag("strict").map_err(|fault| within("strict", fault))?.unwrap_or(false);
    let parameters = match members.get("parameters") {
        None => None,
        Some(schema @ Value::Object(_)) => Some(schema.to_string()),
        Some(other) => {
            let at = format!("{at}.parameters");
            return Err(Fault::invalid(&at, format!("{at} must be an object, a JSON schema, not {}", kind(other))));
        }
    };
    for (member, text) in [("description", &description), ("parameters", &parameters)] {
        if let Some(length) = text.as_ref().map(String::len).filter(|length| *length > MAX_TEXT) {
            let at = format!("{at}.{member}");
            return Err(Fault::invalid(&at, format!("{at} has {length} bytes, at most {MAX_TEXT} are taken")));
        }
    }
    Ok((Tool { name, description, parameters }, strict))
}

/// Refuses tools and calls of other kinds than functions.
pub(super) fn must_be_function(at: &str, value: &Value) -> Result<(), Fault> {
    let Value::Object(members) = value else {
        return Err(Fault::invalid(at, format!("{at} must be an object, not {}", kind(value))));
    };
    let type_at = format!("{at}.type");
    match members.get("type") {
        Some(Value::String(kind)) if kind == "function" => Ok(()),
        Some(Value::String(kind)) => {
            Err(unsupported(&type_at, format!("{type_at}: {kind:.40} is not supported, only function")))
        }
        _ => Err(Fault::invalid(&type_at, format!("{type_at} must be function"))),
    }
}

/// The name of a function.
pub(super) fn name(at: &str, value: &Value) -> Result<String, Fault> {
    let fits = |name: &str| {
        (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    match value.as_str().filter(|name| fits(name)) {
        Some(name) => Ok(name.to_owned()),
        None => {
            let message = format!("{at} must be a name of at most {MAX_NAME} letters, digits, underscores and hyphens");
            Err(Fault::invalid(at, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Tools, Fault> {
        Tools::read(&Fields(body.as_object().unwrap()))
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    fn grammar(extra: &Value, format: Option<Grammar>) -> Result<Option<Grammar>, Fault> {
        let mut body = json!({"tools": [tool("a"), tool("b")]});
        for (name, value) in extra.as_object().unwrap() {
            body[name] = value.clone();
        }
        read(&body)?.grammar(format)
    }

    fn calls(extra: &Value) -> Option<(Vec<String>, bool, Otherwise)> {
        let Some(Grammar::Calls(calls)) = grammar(extra, None).unwrap() else { return None };
        Some((calls.tools.into_iter().map(|tool| tool.name).collect(), calls.several, calls.otherwise))
    }

    #[test]
    fn a_choice_becomes_a_grammar() {
        let both = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(calls(&json!({})), None);
        assert_eq!(calls(&json!({"tool_choice": "auto", "parallel_tool_calls": true})), None);
        assert_eq!(calls(&json!({"tool_choice": "required"})), Some((both(), true, Otherwise::Never)));
        let one = json!({"tool_choice": "required", "parallel_tool_calls": false});
        assert_eq!(calls(&one), Some((both(), false, Otherwise::Never)));
        let named = json!({"tool_choice": {"type": "function", "function": {"name": "b"}}});
        assert_eq!(calls(&named), Some((vec!["b".to_owned()], false, Otherwise::Never)));
        assert_eq!(calls(&json!({"parallel_tool_calls": false})), Some((both(), false, Otherwise::Words)));
        let mut strict = tool("c");
        strict["function"]["strict"] = json!(true);
        assert_eq!(calls(&json!({"tools": [strict]})), Some((vec!["c".to_owned()], true, Otherwise::Words)));
    }

    #[test]
    fn none_hides_the_tools_and_json_may_take_the_place_of_a_call() {
        assert!(read(&json!({"tools": [tool("a")], "tool_choice": "none"})).unwrap().offered.is_empty());
        let Some(Grammar::Calls(calls)) = grammar(&json!({}), Some(Grammar::JsonObject)).unwrap() else { panic!() };
        assert_eq!(calls.otherwise, Otherwise::Json("{\"type\":\"object\"}".to_owned()));
        let refused = grammar(&json!({"tool_choice": "required"}), Some(Grammar::JsonObject)).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("response_format"));
        assert_eq!(read(&json!({})).unwrap().grammar(Some(Grammar::JsonObject)).unwrap(), Some(Grammar::JsonObject));
    }

    #[test]
    fn faults_name_the_member() {
        let function = |members: Value| json!({"tools": [{"type": "function", "function": members}]});
        let many: Vec<Value> = (0..=MAX_TOOLS).map(|nth| tool(&format!("f{nth}"))).collect();
        for (body, at) in [
            (json!({"tools": "x"}), "tools"),
            (json!({"tools": many}), "tools"),
            (json!({"tools": [tool("a"), tool("a")]}), "tools"),
            (json!({"tools": [1]}), "tools[0]"),
            (json!({"tools": [{"function": {"name": "f"}}]}), "tools[0].type"),
            (json!({"tools": [{"type": "custom"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (function(json!({})), "tools[0].function.name"),
            (function(json!({"name": "a.b"})), "tools[0].function.name"),
            (function(json!({"name": "x".repeat(65)})), "tools[0].function.name"),
            (function(json!({"name": "f", "description": 1})), "tools[0].function.description"),
            (function(json!({"name": "f", "description": "x".repeat(MAX_TEXT + 1)})), "tools[0].function.description"),
            (function(json!({"name": "f", "strict": "yes"})), "tools[0].function.strict"),
            (function(json!({"name": "f", "parameters": []})), "tools[0].function.parameters"),
            (json!({"tools": [tool("a")], "tool_choice": "maybe"}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": 1}), "tool_choice"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": {"type": "function"}}), "tool_choice.function.name"),
            (json!({"tools": [tool("a")], "tool_choice": tool("b")}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": {"type": "allowed_tools"}}), "tool_choice.type"),
            (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
        ] {
            assert_eq!(read(&body).unwrap_err().param.as_deref(), Some(at), "{body:.200}");
        }
    }
}
