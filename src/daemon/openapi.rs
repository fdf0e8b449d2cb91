//! The description of the API over HTTP, made of the verbs' types, so that it can't fall behind them. Only tests are made of
//! this file: `WRITE_DOCS=1 cargo test --lib openapi` writes docs/openapi.json, which the daemon answers with.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::api::Verb;

const FILE: &str = "docs/openapi.json";

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Verb>().to_value();
    let verbs = schema["oneOf"].as_array().expect("an enum is one of its variants");
    let paths: Map<String, Value> = verbs.iter().map(path).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Windlass",
            "version": "1",
            "description": "The control socket of `windlass serve`, `control.sock` in the state folder, speaks HTTP/1.1 \
                beside its own protocol: one request a connection. Only the daemon's own user can connect.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "on the unix socket control.sock" }],
        "paths": paths,
        "components": { "schemas": { "Outcome": outcome(), "Failure": failure(), "Line": line() } },
    })
}

/// Returns the path of one verb, and what it is asked by and answers.
fn path(verb: &Value) -> (String, Value) {
    let properties = &verb["properties"];
    let name = properties["verb"]["const"].as_str().expect("a variant has its name");
    let args = properties.get("args").cloned().unwrap_or_else(|| json!({ "type": "object" }));
    let must = args["required"].as_array().is_some_and(|all| !all.is_empty());
    let answer = |description: &str, schema: &str| {
        let of = |schema: &str| json!({ "schema": { "$ref": format!("#/components/schemas/{schema}") } });
        let mut content = json!({ "application/json": of(schema) });
        if schema == "Outcome" {
            content["application/x-ndjson"] = of("Line");
        }
        json!({ "description": description, "content": content })
    };
    let body = json!({ "required": must, "content": { "application/json": { "schema": args } } });
    let what = verb["description"].as_str().unwrap_or_default().replace('\n', " ");
    let done = "It is done. With `Accept: application/x-ndjson` the answer begins at once and has lines: what is told \
        meanwhile, then the result or the error.";
    let operation = json!({
        "operationId": name,
        "summary": what,
        "requestBody": body,
        "responses": {
            "200": answer(done, "Outcome"),
            "default": answer("It is not done, or not known to be.", "Failure"),
        },
    });
    (format!("/v1/{name}"), json!({ "post": operation }))
}

fn outcome() -> Value {
    json!({
        "type": "object",
        "required": ["value", "notes", "degraded"],
        "properties": {
            "value": { "description": "What the command prints with --json: docs/reference.md has the fields." },
            "notes": { "type": "array", "items": { "type": "string" }, "description": "Sentences for people." },
            "degraded": { "type": "boolean", "description": "It is done, but something needs attention." },
        },
    })
}

fn failure() -> Value {
    json!({
        "type": "object",
        "required": ["kind", "message"],
        "properties": {
            "kind": { "type": "string", "description": "One word, such as `not_found`, `exists`, `owned` or `unavailable`." },
            "message": { "type": "string", "description": "What happened, to what, and what can be done." },
        },
    })
}

fn line() -> Value {
    let progress = json!({
        "type": "object",
        "properties": {
            "doing": { "type": "string" },
            "done": { "type": "integer" },
            "total": { "type": "integer", "description": "0: not known." },
        },
    });
    json!({
        "oneOf": [
            { "type": "object", "required": ["progress"], "properties": { "progress": progress } },
            { "type": "object", "required": ["says"], "properties": { "says": { "type": "string" } } },
            { "type": "object", "required": ["result"], "properties": { "result": { "$ref": "#/components/schemas/Outcome" } } },
            { "type": "object", "required": ["error"], "properties": { "error": { "$ref": "#/components/schemas/Failure" } } },
        ],
    })
}

#[test]
#[allow(clippy::disallowed_methods)] // The file is a source of the repository.
fn the_description_is_that_of_the_verbs() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let wanted = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let is = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(is == wanted, "{FILE} is behind its source: WRITE_DOCS=1 cargo test --lib openapi");
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 40 && paths.contains_key("/v1/volume-create"));
    for (path, of) in paths {
        assert!(
            of["post"]["summary"].as_str().is_some_and(|what| !what.is_empty()),
            "{path} lacks a sentence"
        );
    }
}
