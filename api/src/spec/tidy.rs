//! Says the same in words that every tool reads, where the macros choose others.

use serde_json::{Map, Value, json};

/// Rewrites them.
pub(super) fn complete(document: &mut Value) {
    name_json_plainly(document);
    let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    refer_plainly(document, &schemas);
    let schemas = document["components"]["schemas"].as_object_mut().into_iter().flatten();
    for (_, schema) in schemas.filter(|(name, _)| name.ends_with("Request")) {
        null_is_absent(schema);
    }
}

/// As OpenAI's clients may send null for a member that they leave out, the description allows it.
fn null_is_absent(request: &mut Value) {
    let required = request["required"].clone();
    let is_required = |name: &str| required.as_array().is_some_and(|names| names.iter().any(|it| it == name));
    for (name, member) in request.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        null_is_absent(member);
        if is_required(name) {
            continue;
        }
        // Beside a type, as the older dialect wants it.
        let shape = ["/oneOf/0", "/anyOf/0"].into_iter().find(|at| member.pointer(at).is_some());
        let place = if member.get("type").is_some() { Some(member) } else { member.pointer_mut(shape.unwrap_or("")) };
        if let Some(place) = place.filter(|place| place.get("type").is_some()) {
            place["nullable"] = json!(true);
            // It is one of the listed values only where it is listed.
            if let Some(Value::Array(values)) = place.get_mut("enum") {
                values.push(Value::Null);
            }
        }
    }
}

/// JSON has no charset parameter (RFC 8259); the macros write one.
fn name_json_plainly(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(content) = members.remove("application/json; charset=utf-8") {
                members.insert("application/json".to_owned(), content);
            }
            members.values_mut().for_each(name_json_plainly);
        }
        Value::Array(items) => items.iter_mut().for_each(name_json_plainly),
        _ => {}
    }
}

/// A reference with a description of its own is written as all of two things, the second of which is the description once
/// more. One of objects keeps its description; one of anything else is a reference and nothing more, since tools take
/// "all of" for joined objects.
fn refer_plainly(value: &mut Value, schemas: &Map<String, Value>) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(|member| refer_plainly(member, schemas));
            let nullable = members.contains_key("nullable");
            let Some(Value::Array(parts)) = members.get_mut("allOf") else { return };
            let described =
                |part: &Value| part.as_object().is_some_and(|it| it.len() == 1 && it.contains_key("description"));
            parts.retain(|part| !described(part));
            let [part] = &parts[..] else { return };
            let Some(target) = part["$ref"].as_str().map(str::to_owned) else { return };
            let name = target.trim_start_matches("#/components/schemas/");
            let object = schemas.get(name).is_some_and(|schema| schema["type"] == "object");
            if !object && !nullable {
                *value = json!({"$ref": target});
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer_plainly(item, schemas)),
        _ => {}
    }
}
