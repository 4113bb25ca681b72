//! Short words for the parts of the description that are written by hand.

use poem::http::Method;
use poem_openapi::{
    Tags as _,
    registry::{
        MetaDiscriminatorObject, MetaHeader, MetaMediaType, MetaOperation, MetaOperationParam, MetaParamIn, MetaPath,
        MetaRequest, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef,
    },
    types::Type,
};
use serde_json::Value;

use super::Tag;

/// A member of an object: its name, and what it holds.
pub(crate) type Member = (&'static str, MetaSchema);

/// A text.
pub(crate) fn text(description: &'static str) -> MetaSchema {
    MetaSchema { description: Some(description), ..MetaSchema::new("string") }
}

/// An integer from `minimum` on.
pub(crate) fn integer(minimum: i32, description: &'static str) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        minimum: Some(f64::from(minimum)),
        ..MetaSchema::new_with_format("integer", "int64")
    }
}

/// A number within bounds.
pub(crate) fn number(minimum: f64, maximum: f64, description: &'static str) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        minimum: Some(minimum),
        maximum: Some(maximum),
        ..MetaSchema::new_with_format("number", "float")
    }
}

/// A number above `bound` and up to `maximum`.
pub(crate) fn above(bound: f64, maximum: f64, description: &'static str) -> MetaSchema {
    MetaSchema { exclusive_minimum: Some(true), ..number(bound, maximum, description) }
}

/// True or false.
pub(crate) fn boolean(description: &'static str) -> MetaSchema {
    MetaSchema { description: Some(description), ..MetaSchema::new("boolean") }
}

/// A list of `items`.
pub(crate) fn list(items: MetaSchemaRef, description: &'static str) -> MetaSchema {
    MetaSchema { description: Some(description), items: Some(Box::new(items)), ..MetaSchema::new("array") }
}

/// One of several shapes.
pub(crate) fn one_of(shapes: Vec<MetaSchemaRef>, description: &'static str) -> MetaSchema {
    MetaSchema { description: Some(description), one_of: shapes, ..MetaSchema::ANY }
}

/// One of several named shapes: `property` tells by its value which.
pub(crate) fn one_of_by(
    property: &'static str,
    shapes: &[(&'static str, &'static str)],
    description: &'static str,
) -> MetaSchema {
    let place = |(value, shape): &(&str, &str)| ((*value).to_owned(), format!("#/components/schemas/{shape}"));
    MetaSchema {
        discriminator: Some(MetaDiscriminatorObject {
            property_name: property,
            mapping: shapes.iter().map(place).collect(),
        }),
        ..one_of(shapes.iter().map(|(_, shape)| named(shape)).collect(), description)
    }
}

/// With a default.
pub(crate) fn or(schema: MetaSchema, default: impl Into<Value>) -> MetaSchema {
    MetaSchema { default: Some(default.into()), ..schema }
}

/// An object with those members, of which `required` must be there.
pub(crate) fn object(
    description: &'static str,
    required: Vec<&'static str>,
    members: impl IntoIterator<Item = Member>,
) -> MetaSchema {
    MetaSchema {
        description: Some(description),
        required,
        properties: members.into_iter().map(|(name, schema)| (name, inline(schema))).collect(),
        ..MetaSchema::new("object")
    }
}

/// A schema where it stands.
pub(crate) fn inline(schema: MetaSchema) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(schema))
}

/// A schema by name.
pub(crate) fn named(name: &str) -> MetaSchemaRef {
    MetaSchemaRef::Reference(name.to_owned())
}

/// A parameter in the query string.
pub(crate) fn query((name, schema): Member) -> MetaOperationParam {
    MetaOperationParam {
        name: name.to_owned(),
        description: schema.description.map(str::to_owned),
        schema: inline(MetaSchema { description: None, ..schema }),
        in_type: MetaParamIn::Query,
        required: false,
        deprecated: false,
        explode: true,
        style: None,
    }
}

/// A body in one of several media types.
pub(crate) fn body(description: &'static str, required: bool, media: &[(&'static str, &str)]) -> MetaRequest {
    MetaRequest {
        description: Some(description),
        required,
        content: media
            .iter()
            .map(|(content_type, schema)| MetaMediaType { content_type, schema: named(schema) })
            .collect(),
    }
}

/// A response with a JSON body.
pub(crate) fn json(status: u16, description: &'static str, schema: &str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: "application/json", schema: named(schema) }],
        headers: Vec::new(),
    }
}

/// A header of a response.
pub(crate) fn header(name: &str, description: &str) -> MetaHeader {
    MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: false,
        deprecated: false,
        schema: String::schema_ref(),
    }
}

/// What is said of an operation.
pub(crate) struct Operation {
    pub(crate) path: &'static str,
    pub(crate) method: Method,
    pub(crate) tag: Tag,
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) params: Vec<MetaOperationParam>,
    pub(crate) request: Option<MetaRequest>,
    pub(crate) responses: Vec<MetaResponse>,
}

/// A path with one operation.
pub(crate) fn operation(it: Operation) -> MetaPath {
    let operation = MetaOperation {
        method: it.method,
        tags: vec![it.tag.name()],
        summary: Some(it.summary),
        description: Some(it.description),
        external_docs: None,
        params: it.params,
        request: it.request,
        responses: MetaResponses { responses: it.responses },
        deprecated: false,
        security: Vec::new(),
        operation_id: Some(it.id),
        code_samples: Vec::new(),
    };
    MetaPath { path: it.path.to_owned(), operations: vec![operation] }
}
