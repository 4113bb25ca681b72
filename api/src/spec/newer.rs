//! The description as OpenAPI 3.1, derived from that of 3.0 by the rules in which the two differ.

use serde_json::{Map, Value, json};

/// Members that hold data, not schemas.
const DATA: [&str; 5] = ["default", "enum", "example", "examples", "value"];

/// A description in 3.0 as one in 3.1.
pub(super) fn derive(mut document: Value) -> Value {
    walk(&mut document);
    document["openapi"] = json!("3.1.0");
    document
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                // A property may have such a name; then it is a schema, whose kind is said.
                let property = member.get("type").is_some_and(Value::is_string);
                if property || !DATA.contains(&name.as_str()) {
                    walk(member);
                }
            }
            bounds(members);
            nullable(members);
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        _ => {}
    }
}

/// In 3.1 an exclusive bound is the number itself.
fn bounds(schema: &mut Map<String, Value>) {
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        let Some(Value::Bool(yes)) = schema.get(exclusive) else { continue };
        let number = if *yes { schema.remove(bound) } else { None };
        schema.remove(exclusive);
        if let Some(number) = number {
            schema.insert(exclusive.to_owned(), number);
        }
    }
}

/// In 3.1 null is a type like others.
fn nullable(schema: &mut Map<String, Value>) {
    let Some(Value::Bool(yes)) = schema.get("nullable") else { return };
    let yes = *yes;
    schema.remove("nullable");
    if !yes {
        return;
    }
    if let Some(Value::Array(choices)) = schema.get_mut("enum")
        && !choices.contains(&Value::Null)
    {
        choices.push(Value::Null);
    }
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
        return;
    }
    for list in ["oneOf", "anyOf"] {
        if let Some(Value::Array(shapes)) = schema.get_mut(list) {
            shapes.push(json!({"type": "null"}));
            return;
        }
    }
    let told: Vec<_> =
        ["description", "default", "deprecated"].iter().filter_map(|name| schema.remove_entry(*name)).collect();
    let shape = Value::Object(std::mem::take(schema));
    schema.extend(told);
    schema.insert("anyOf".to_owned(), json!([shape, {"type": "null"}]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_rewritten_and_nothing_else() {
        let old = json!({
            "openapi": "3.0.0",
            "components": {"schemas": {"A": {"type": "object", "properties": {
                "a": {"type": "string", "nullable": true},
                "b": {"description": "b", "allOf": [{"$ref": "#/components/schemas/A"}], "nullable": true},
                "c": {"oneOf": [{"type": "string"}], "nullable": true},
                "d": {"type": "number", "minimum": 0.0, "exclusiveMinimum": true, "maximum": 1.0, "exclusiveMaximum": false},
                "e": {"type": "string", "enum": ["x"], "nullable": true},
                "f": {"type": "string", "enum": ["x", null], "nullable": true},
                "nullable": {"type": "boolean", "nullable": false},
                "value": {"type": "string", "nullable": true},
            }, "example": {"nullable": true}}}},
        });
        let new = derive(old);
        assert_eq!(new["openapi"], "3.1.0");
        let properties = &new["components"]["schemas"]["A"]["properties"];
        assert_eq!(properties["a"], json!({"type": ["string", "null"]}));
        let either = json!([{"allOf": [{"$ref": "#/components/schemas/A"}]}, {"type": "null"}]);
        assert_eq!(properties["b"], json!({"description": "b", "anyOf": either}));
        assert_eq!(properties["c"], json!({"oneOf": [{"type": "string"}, {"type": "null"}]}));
        assert_eq!(properties["d"], json!({"type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0}));
        for name in ["e", "f"] {
            assert_eq!(properties[name], json!({"type": ["string", "null"], "enum": ["x", null]}), "{name}");
        }
        assert_eq!(properties["nullable"], json!({"type": "boolean"}));
        assert_eq!(properties["value"], json!({"type": ["string", "null"]}));
        assert_eq!(new["components"]["schemas"]["A"]["example"], json!({"nullable": true}));
    }

    #[test]
    fn nothing_of_the_older_dialect_is_left() {
        fn look(value: &Value) {
            if let Value::Object(members) = value {
                for (name, member) in members {
                    assert!(!(name == "nullable" && member.is_boolean()), "{value}");
                    assert!(!(name.starts_with("exclusive") && member.is_boolean()), "{value}");
                    if !DATA.contains(&name.as_str()) {
                        look(member);
                    }
                }
            }
            value.as_array().into_iter().flatten().for_each(look);
        }
        look(&derive(crate::spec::document("1.2.3")));
    }
}
