//! The public description: what the operations say of themselves, completed with examples, as YAML.

mod examples;
mod guards;
pub(crate) mod meta;
mod newer;
mod tidy;
mod yaml;

use std::{collections::BTreeMap, sync::Arc};

use corolla_domain::session::SessionService;
use poem_openapi::{LicenseObject, OpenApi, OpenApiService, Tags};
use serde_json::Value;

use crate::{
    models::Models,
    openai::{chat::Chat, completions::Completions, embeddings::Embeddings, models::ModelCards},
    operation::Operations,
    settings::ApiSettings,
    swarm::SwarmView,
    v1::V1,
    v2::V2,
};

/// Areas of the description.
#[derive(Tags)]
pub(crate) enum Tag {
    /// Text generation and sessions with plain forms: the API of the first clients, kept as it was and extended.
    #[oai(rename = "v1")]
    V1,
    /// A session and its replies over one WebSocket, as the first chat page spoke it.
    #[oai(rename = "v2")]
    V2,
    /// Chat in the shape that OpenAI's clients speak, streamed or in one piece.
    #[oai(rename = "chat")]
    Chat,
    /// Texts continued, in the shape that OpenAI's clients speak, streamed or in one piece.
    #[oai(rename = "completions")]
    Completions,
    /// Texts as vectors, in the shape that OpenAI's clients speak.
    #[oai(rename = "embeddings")]
    Embeddings,
    /// Which models there are, whether they can answer, and who runs their blocks.
    #[oai(rename = "models")]
    Models,
    /// For those who run the server: liveness, readiness, counters.
    #[oai(rename = "operations")]
    Operations,
}

/// Everything that is described.
pub(crate) type Everything = (V1, V2, Chat, Completions, Embeddings, ModelCards, Models, SwarmView, Operations);

const ABOUT: &str = "A chat page and an HTTP endpoint for large language models, on this machine or over a swarm.";

/// All operations, ready to serve.
pub(crate) fn operations(service: Arc<SessionService>, settings: Arc<ApiSettings>) -> Everything {
    (
        V1 { service: service.clone(), settings: settings.clone() },
        V2::new(service.clone(), settings.clone()),
        Chat { service: service.clone(), settings: settings.clone() },
        Completions { service: service.clone(), settings: settings.clone() },
        Embeddings { service: service.clone(), settings: settings.clone() },
        ModelCards::new(service.clone()),
        Models { service: service.clone() },
        SwarmView { service: service.clone(), settings: settings.clone() },
        Operations { service, settings },
    )
}

/// The document as data.
pub(crate) fn document(version: &str) -> Value {
    let mut document: Value = serde_json::from_str(&raw(version)).unwrap_or_default();
    tidy::complete(&mut document);
    examples::complete(&mut document);
    guards::complete(&mut document);
    document
}

/// The document as YAML. Needs no running service, and is the same each time.
pub(crate) fn yaml(version: &str) -> String {
    yaml::write(&document(version))
}

/// The same as OpenAPI 3.1.
pub(crate) fn yaml_3_1(version: &str) -> String {
    yaml::write(&newer::derive(document(version)))
}

/// The interactive page for the document; everything it needs is inside.
pub(crate) fn page(version: &str) -> String {
    let service = described(version);
    let complete = document(version).to_string().replace("</", "<\\/");
    service.scalar_html().replacen(&service.spec(), &complete, 1).replacen("<title>Scalar</title>", TITLE, 1).replacen(
        "id=\"api-reference\"",
        CONFIGURATION,
        1,
    )
}

const TITLE: &str = r#"<title>Corolla API</title><link rel="icon" href="logo.svg" type="image/svg+xml">"#;
/// Without the fonts that it would fetch from elsewhere.
const CONFIGURATION: &str = r#"id="api-reference" data-configuration='{"withDefaultFonts":false}'"#;

fn raw(version: &str) -> String {
    described(version).spec()
}

/// Paths and the methods they answer to, for the `Allow` header.
pub(crate) fn methods() -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in Everything::meta().into_iter().flat_map(|api| api.paths) {
        let methods = found.entry(path.path).or_default();
        for operation in path.operations {
            methods.push(operation.method.to_string());
            if operation.method == "GET" {
                methods.push("HEAD".to_owned());
            }
        }
    }
    found.into_iter().map(|(path, methods)| (path, methods.join(", "))).collect()
}

/// A service that can only describe itself.
fn described(version: &str) -> OpenApiService<Description, ()> {
    OpenApiService::new(Description, "Corolla", version)
        .description(ABOUT)
        .license(LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/MIT.html"))
        .server("/")
}

/// [`Everything`] without anything behind it.
struct Description;

impl OpenApi for Description {
    fn meta() -> Vec<poem_openapi::registry::MetaApi> {
        Everything::meta()
    }

    fn register(registry: &mut poem_openapi::registry::Registry) {
        Everything::register(registry);
    }

    fn add_routes(
        self,
        _: &mut std::collections::HashMap<
            String,
            std::collections::HashMap<poem::http::Method, poem::endpoint::BoxEndpoint<'static>>,
        >,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_the_same_each_time() {
        assert_eq!(yaml("1.2.3"), yaml("1.2.3"));
    }

    #[test]
    fn every_operation_is_complete() {
        let document = document("1.2.3");
        let mut seen = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let at = format!("{method} {path}");
                let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{at} has no operationId"));
                assert!(seen.insert(id.to_owned()), "{id} stands twice");
                assert!(id.contains('-') && id.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{id}");
                for part in ["summary", "description", "tags", "responses"] {
                    assert!(operation.get(part).is_some(), "{at} has no {part}");
                }
                let statuses = operation["responses"].as_object().unwrap();
                let good = |status: &String| status.starts_with('2') || (path == "/api/v2/generate" && status == "101");
                assert!(statuses.keys().any(good), "{at} has no good answer");
                for (status, response) in statuses {
                    for (media, content) in response["content"].as_object().into_iter().flatten() {
                        let there = content.get("examples").is_some() || content.get("example").is_some();
                        assert!(there, "{at} {status} {media} has no example");
                    }
                }
                for (media, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                    assert!(content.get("examples").is_some(), "{at} request {media} has no example");
                }
            }
        }
    }

    /// Every `oneOf` of the description, with where it stands.
    fn unions(value: &Value, at: &str, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(members) => {
                if members.get("oneOf").is_some_and(Value::is_array) {
                    found.push((at.to_owned(), value.clone()));
                }
                members.iter().for_each(|(name, member)| unions(member, &format!("{at}/{name}"), found));
            }
            Value::Array(items) => items.iter().for_each(|item| unions(item, at, found)),
            _ => {}
        }
    }

    #[test]
    fn objects_that_a_member_tells_apart_say_so() {
        let document = document("1.2.3");
        let mut found = Vec::new();
        unions(&document, "", &mut found);
        let resolved = |shape: &Value| match shape["$ref"].as_str() {
            Some(target) => document.pointer(target.trim_start_matches('#')).unwrap().clone(),
            None => shape.clone(),
        };
        let mut told = 0;
        for (at, union) in found {
            let shapes = union["oneOf"].as_array().unwrap();
            let objects: Vec<Value> = shapes.iter().map(resolved).filter(|shape| shape["type"] == "object").collect();
            // An event is a piece or an error, of which no member has the same name: OpenAI's clients tell them apart.
            let stream = at.contains("text/event-stream");
            if objects.len() < 2 || stream {
                continue;
            }
            told += 1;
            let property = union["discriminator"]["propertyName"].as_str().unwrap_or_else(|| panic!("{at}: {union}"));
            let mapping = union["discriminator"]["mapping"].as_object().unwrap();
            assert_eq!(mapping.len(), shapes.len(), "{at}");
            for (value, target) in mapping {
                assert!(shapes.iter().any(|shape| shape["$ref"] == *target), "{at}: {target}");
                let shape = document.pointer(target.as_str().unwrap().trim_start_matches('#')).unwrap();
                let needed = shape["required"].as_array().unwrap();
                assert!(needed.contains(&Value::from(property)), "{at}: {target} may lack {property}");
                assert_eq!(shape["properties"][property]["enum"], serde_json::json!([value]), "{at}: {target}");
            }
        }
        assert!(told >= 2, "formats of replies, and frames of a socket");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, root: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(target)) = members.get("$ref") {
                        assert!(root.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    members.values().for_each(|member| walk(member, root));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, root)),
                _ => {}
            }
        }
        let document = document("1.2.3");
        walk(&document, &document);
    }
}
