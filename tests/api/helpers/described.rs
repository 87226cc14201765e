//! Whether the OpenAPI document names what a server answered: every answer that any test gets is held against it.

use std::sync::LazyLock;

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;
use velum::http::openapi;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(openapi::document_json()).unwrap());

/// Headers that are ours to name; all others go without saying.
const OURS: [&str; 8] = [
    "location",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "idempotency-replayed",
    "x-request-id",
    "x-opendsr-processor-domain",
    "x-opendsr-signature",
];

/// Panics where the document says less. A path or method that it does not have is no operation of ours.
#[track_caller]
pub fn hold_against_document(method: &Method, path: &str, status: StatusCode, headers: &HeaderMap, text: &str) {
    let Some(operation) = operation(method, path) else { return };
    let asked = format!("{method} {path}");
    let response = &operation["responses"][status.as_str()];
    assert!(response.is_object(), "openapi.json: {asked} does not name {status}: {text}");
    let described = response["headers"].as_object().into_iter().flatten();
    let described: Vec<String> = described.map(|(name, _)| name.to_lowercase()).collect();
    for name in headers.keys().map(|name| name.as_str()).filter(|name| OURS.contains(name)) {
        assert!(described.iter().any(|known| known == name), "openapi.json: {asked}, {status}: no header {name}");
    }
    if headers.get("content-type").is_some_and(|kind| kind == "application/problem+json") {
        let problem: Value = serde_json::from_str(text).unwrap();
        let code = problem["code"].as_str().unwrap();
        let codes = response["description"].as_str().and_then(|text| text.strip_prefix("Codes: "));
        let named = codes.is_some_and(|codes| codes.trim_end_matches('.').split(", ").any(|known| known == code));
        assert!(named, "openapi.json: {asked}, {status}: no code {code} in {codes:?}");
    }
}

fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(part, given)| part == given || (part.starts_with('{') && !given.is_empty()))
    };
    let paths = DOCUMENT["paths"].as_object()?;
    // A fixed name before a name in braces.
    let (_, item) = paths.get_key_value(path).or_else(|| paths.iter().find(|(template, _)| fits(template)))?;
    item.get(method.as_str().to_lowercase())
}
