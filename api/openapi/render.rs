//! Writes types and operations down as OpenAPI 3 and as OpenAPI 2.

use serde_json::{Map as Json, Value, json};

use super::definitions::{Definitions, gvk_json, target};
use super::operations::{Operation, PARAMETERS, Parameter, Path};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Edition {
    V2,
    V3,
}

impl Edition {
    fn reference(self, name: &str) -> String {
        match self {
            Edition::V2 => format!("#/definitions/{name}"),
            Edition::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

pub(super) fn document(
    edition: Edition,
    version: &str,
    definitions: Definitions,
    paths: &[Path],
) -> Value {
    let schemas: Json<String, Value> = definitions
        .into_iter()
        .map(|(name, schema)| {
            let schema = special(&name, &schema, edition).unwrap_or_else(|| place(schema, edition));
            (name, schema)
        })
        .collect();
    let paths: Json<String, Value> =
        paths.iter().map(|it| (it.path.clone(), path(it, edition))).collect();
    let scheme = json!({
        "description": "Bearer Token authentication",
        "in": "header", "name": "authorization", "type": "apiKey",
    });
    let info = json!({"title": "Kubernetes", "version": version});
    match edition {
        Edition::V3 => json!({
            "openapi": "3.0.0",
            "info": info,
            "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": {"BearerToken": scheme}},
        }),
        Edition::V2 => json!({
            "swagger": "2.0",
            "info": info,
            "paths": paths,
            "definitions": schemas,
            "securityDefinitions": {"BearerToken": scheme},
            "security": [{"BearerToken": []}],
        }),
    }
}

/// Types that are not what a schema can say in both editions.
fn special(name: &str, schema: &Value, edition: Edition) -> Option<Value> {
    let description = schema["description"].clone();
    let v3 = edition == Edition::V3;
    Some(match name.strip_prefix("io.k8s.")?.rsplit_once('.')?.1 {
        "Quantity" if v3 => {
            json!({"description": description, "oneOf": [{"type": "string"}, {"type": "number"}]})
        }
        "Quantity" => json!({"description": description, "type": "string"}),
        "IntOrString" if v3 => json!({
            "description": description, "format": "int-or-string",
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        }),
        "IntOrString" => {
            json!({"description": description, "type": "string", "format": "int-or-string"})
        }
        "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray" => json!({"description": description}),
        _ => return None,
    })
}

/// A schema wherever one may stand.
fn place(schema: Value, edition: Edition) -> Value {
    let Value::Object(map) = schema else { return schema };
    let mut out = Json::new();
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                let reference = target(&reference).map(|name| edition.reference(name));
                Value::from(reference)
            }
            ("properties" | "patternProperties" | "definitions", Value::Object(inner)) => {
                let each = inner.into_iter().map(|(name, schema)| (name, place(schema, edition)));
                Value::Object(each.collect())
            }
            ("items" | "additionalProperties" | "not", inner) => place(inner, edition),
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                list.into_iter().map(|schema| place(schema, edition)).collect()
            }
            (_, value) => value,
        };
        out.insert(key, value);
    }
    match edition {
        Edition::V3 => {
            // Beside a reference nothing counts there: what is said of the place goes round it.
            if out.len() > 1
                && let Some(reference) = out.remove("$ref")
            {
                out.insert("allOf".into(), json!([{"$ref": reference}]));
            }
        }
        Edition::V2 => narrow(&mut out),
    }
    Value::Object(out)
}

/// Takes away what OpenAPI 2 cannot say, as upstream does: kubectl's reader insists.
fn narrow(schema: &mut Json<String, Value>) {
    for key in ["allOf", "anyOf", "oneOf", "not"] {
        schema.remove(key);
    }
    let is = |schema: &Json<String, Value>, key: &str| schema.get(key) == Some(&Value::Bool(true));
    if is(schema, "nullable") {
        for key in ["nullable", "type", "items", "properties"] {
            schema.remove(key);
        }
    }
    if is(schema, "x-kubernetes-preserve-unknown-fields") {
        schema.remove("items");
        schema.remove("properties");
    }
}

fn path(path: &Path, edition: Edition) -> Value {
    let mut out: Json<String, Value> =
        path.operations.iter().map(|it| (it.method.to_owned(), operation(it, edition))).collect();
    out.insert("parameters".into(), parameters(&path.parameters, edition).into());
    Value::Object(out)
}

fn parameters(names: &[&str], edition: Edition) -> Vec<Value> {
    let known = |name: &&str| PARAMETERS.iter().find(|parameter| parameter.name == *name);
    names.iter().filter_map(known).map(|it| parameter(it, edition)).collect()
}

fn parameter(parameter: &Parameter, edition: Edition) -> Value {
    let mut out = json!({
        "name": parameter.name, "in": parameter.place, "description": parameter.description,
    });
    if parameter.place == "path" {
        out["required"] = true.into();
    }
    match edition {
        Edition::V3 => out["schema"] = json!({"type": parameter.kind, "uniqueItems": true}),
        Edition::V2 => {
            out["type"] = parameter.kind.into();
            out["uniqueItems"] = true.into();
        }
    }
    out
}

fn operation(operation: &Operation, edition: Edition) -> Value {
    let mut out = json!({
        "operationId": operation.id,
        "description": operation.description,
        "tags": [operation.tag],
    });
    if let Some(gvk) = &operation.gvk {
        out["x-kubernetes-action"] = operation.action.into();
        out["x-kubernetes-group-version-kind"] = gvk_json(gvk);
    }
    let mut list = parameters(operation.parameters, edition);
    let answer = match &operation.answer {
        Some(name) => json!({"$ref": edition.reference(name)}),
        None => json!({"type": "string"}),
    };
    match edition {
        Edition::V3 => {
            if let Some(body) = &operation.body {
                let schema = json!({"schema": {"$ref": edition.reference(&body.type_name)}});
                out["requestBody"] = json!({"content": contents(body.consumes, &schema)});
                if body.required {
                    out["requestBody"]["required"] = true.into();
                }
            }
            let content = contents(operation.produces, &json!({"schema": answer}));
            out["responses"] = responses(operation, "content", &content);
        }
        Edition::V2 => {
            let consumes = operation.body.as_ref().map_or(&["*/*"][..], |body| body.consumes);
            out["consumes"] = consumes.into();
            out["produces"] = operation.produces.into();
            out["schemes"] = json!(["https"]);
            if let Some(body) = &operation.body {
                let mut parameter = json!({
                    "in": "body", "name": "body",
                    "schema": {"$ref": edition.reference(&body.type_name)},
                });
                if body.required {
                    parameter["required"] = true.into();
                }
                list.insert(0, parameter);
            }
            out["responses"] = responses(operation, "schema", &answer);
        }
    }
    if !list.is_empty() {
        out["parameters"] = list.into();
    }
    out
}

fn contents(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|it| ((*it).to_owned(), schema.clone())).collect::<Json<_, _>>().into()
}

fn responses(operation: &Operation, key: &str, value: &Value) -> Value {
    let mut out = json!({"401": {"description": "Unauthorized"}});
    for (code, description) in operation.statuses {
        let mut response = json!({"description": description});
        response[key] = value.clone();
        out[code.to_string()] = response;
    }
    out
}
