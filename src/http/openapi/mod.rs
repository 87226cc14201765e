//! The OpenAPI 3.1 document: operations from the handlers, and from the route table what is the same everywhere
//! (security and scopes, the errors that a kind of route can give, the headers of every answer).

mod errors;

use std::sync::OnceLock;

use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        Content, Header, HttpMethod, ObjectBuilder, PathItem, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
        link::Link,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{KnownFormat, SchemaFormat, SchemaType, Type},
        security::{
            ClientCredentials, Flow, HttpAuthScheme, HttpBuilder, OAuth2, Scopes, SecurityRequirement, SecurityScheme,
        },
    },
};

use super::{
    ROUTES, Row,
    access::Access,
    extract::PathName as _,
    handlers::{
        access_requests, account, api_keys, audit, consents, docs, enrolments, erasures, evidence, health, models,
        notices, oauth, opendsr, policies, restriction, subjects, verifications,
    },
    problem::{self, FieldProblem, ProblemBody},
};
use crate::{
    auth::Scope,
    domain::{
        id::{ApiKeyId, ConsentId, EnrolmentId, NoticeId, SubjectId},
        opendsr::SubjectRequestId,
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Velum",
        description = "Face matching that keeps embeddings encrypted. Errors are RFC 9457 problem+json with a stable \
            `code`; a foreign id looks like an absent one."
    ),
    paths(
        oauth::token, oauth::revoke, oauth::introspect, oauth::jwks, oauth::metadata,
        subjects::create, subjects::list, subjects::show, subjects::rectify, subjects::erase,
        restriction::restrict, restriction::lift,
        consents::grant, consents::list, consents::withdraw, consents::receipt,
        notices::publish, notices::list, notices::show,
        enrolments::create, enrolments::list, enrolments::delete,
        verifications::create, verifications::list,
        api_keys::create, api_keys::list, api_keys::revoke, api_keys::roll,
        evidence::jwks,
        erasures::create, erasures::list, erasures::show, erasures::certificate,
        erasures::verify, erasures::reject, erasures::hold, erasures::release, erasures::cancel,
        access_requests::create, access_requests::list, access_requests::show, access_requests::package,
        access_requests::verify, access_requests::reject, access_requests::cancel, access_requests::follow,
        opendsr::submit, opendsr::show, opendsr::cancel, opendsr::discovery, opendsr::certificate,
        audit::list, audit::checkpoints, audit::export,
        models::list, policies::retention,
        account::me, account::usage, account::history, account::stats,
        health::live, health::ready, health::started, health::summary,
        docs::document, docs::redirect,
    ),
    components(schemas(ProblemBody, FieldProblem, oauth::OAuthErrorBody)),
    tags(
        (name = "oauth", description = "Access tokens: RFC 6749 client credentials."),
        (name = "subjects", description = "People, known to you by your own name for them."),
        (name = "consents", description = "What people agreed to. Without an active consent nothing is processed."),
        (name = "notices", description = "What people are told before they agree, in versions that are never changed."),
        (name = "enrolments", description = "Encrypted templates of faces."),
        (name = "verifications", description = "Is this the same person? Yes or no."),
        (name = "api-keys", description = "Keys for servers that call without buying tokens."),
        (name = "evidence", description = "What documents of ours are checked with: receipts, certificates, checkpoints."),
        (name = "erasure-requests", description = "Erasure of a person, from asking to certificate."),
        (name = "access-requests", description = "What is known of a person, for that person: from asking to a package."),
        (name = "opendsr", description = "The same by OpenDSR 2.0, for controllers that pass wishes on to many."),
        (name = "audit", description = "What was done, by whom and to whom, in an order that cannot be changed unseen."),
        (name = "account", description = "Who you are here, what you have used, what was done."),
        (name = "models", description = "What faces are compared with."),
        (name = "policies", description = "What everybody may know."),
        (name = "health", description = "For probes and proxies."),
        (name = "docs", description = "This document.")
    )
)]
struct Handlers;

/// A form with an image.
#[derive(ToSchema)]
#[allow(dead_code)] // read by the document only; the parts are streamed by `upload`
pub struct EnrolmentForm {
    /// JPEG, PNG or WebP; at most 10 MB and 50 megapixels.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// `refuse` (default) or `largest`.
    #[schema(nullable = false, pattern = "^(refuse|largest)$", example = "refuse")]
    on_multiple_faces: Option<String>,
}

/// A form with an image and the error rate to decide at.
#[derive(ToSchema)]
#[allow(dead_code)] // as above
pub struct VerificationForm {
    /// JPEG, PNG or WebP; at most 10 MB and 50 megapixels.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// `refuse` (default) or `largest`.
    #[schema(nullable = false, pattern = "^(refuse|largest)$", example = "refuse")]
    on_multiple_faces: Option<String>,
    /// `1e-2`, `1e-3` or `1e-4`; absent: the service's default.
    #[schema(nullable = false, pattern = "^1e-[234]$", example = "1e-3")]
    false_match_rate: Option<String>,
}

/// RFC 6749, section 4.4.2.
#[derive(ToSchema)]
#[allow(dead_code)] // as above
pub struct TokenForm {
    #[schema(pattern = "^client_credentials$", example = "client_credentials")]
    grant_type: String,
    /// Space-separated; absent: everything that the client may do.
    #[schema(nullable = false)]
    scope: Option<String>,
    /// Unless sent by HTTP Basic.
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// Unless sent by HTTP Basic.
    #[schema(nullable = false)]
    client_secret: Option<String>,
    /// Instead of a secret: `urn:ietf:params:oauth:client-assertion-type:jwt-bearer` (RFC 7523).
    #[schema(nullable = false)]
    client_assertion_type: Option<String>,
    /// A JWT that the client signed with its own key (RS256): `iss` and `sub` its id, `aud` the issuer or the token endpoint, a fresh `jti`,
    /// `exp` at most five minutes ahead.
    #[schema(nullable = false)]
    client_assertion: Option<String>,
}

#[derive(ToSchema)]
#[allow(dead_code)] // as above
pub struct AboutTokenForm {
    /// The access token in question.
    token: String,
    /// Taken and not needed: there is one kind of token.
    #[schema(nullable = false)]
    token_type_hint: Option<String>,
    /// Unless sent by HTTP Basic; `client_assertion` as for a token.
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// Unless sent by HTTP Basic.
    #[schema(nullable = false)]
    client_secret: Option<String>,
    #[schema(nullable = false)]
    client_assertion_type: Option<String>,
    #[schema(nullable = false)]
    client_assertion: Option<String>,
}

/// The document as text, made once.
pub fn document_json() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = document().to_pretty_json().unwrap_or_default();
        text.push('\n');
        text
    })
}

pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Handlers::openapi();
    document.info.license = None;
    for row in ROUTES {
        if let Some(item) = document.paths.paths.get_mut(row.path) {
            for (method, operation) in operations(item) {
                complete(operation, row, &method);
            }
        }
    }
    link_what_is_made(&mut document);
    let scheme = SecurityScheme::OAuth2(OAuth2::new([Flow::ClientCredentials(ClientCredentials::new(
        "/oauth/token",
        Scopes::from_iter(super::scopes_in_use().map(|scope| (scope.as_str(), meaning(scope)))),
    ))]));
    let schemes = &mut document.components.get_or_insert_default().security_schemes;
    schemes.insert(SCHEME.to_owned(), RefOr::T(scheme));
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("velum_live_…");
    schemes.insert(KEY_SCHEME.to_owned(), RefOr::T(SecurityScheme::Http(key.build())));
    document
}

/// Who has made something finds in the answer what may be done with it: the id goes into the path of what lies below.
fn link_what_is_made(document: &mut utoipa::openapi::OpenApi) {
    let mut named = vec![];
    for (path, item) in &mut document.paths.paths {
        let ids = operations(item).into_iter().filter_map(|(_, operation)| operation.operation_id.clone());
        named.extend(ids.map(|id| (path.clone(), id)));
    }
    for (path, item) in &mut document.paths.paths {
        let Some(created) = item.post.as_mut().and_then(|post| post.responses.responses.get_mut("201")) else {
            continue;
        };
        let RefOr::T(created) = created else { continue };
        for (below, id) in &named {
            let Some((name, _)) = below.strip_prefix(&format!("{path}/{{")).and_then(|rest| rest.split_once('}'))
            else {
                continue;
            };
            let member = if name == SubjectRequestId::NAME { "subject_request_id" } else { "id" };
            let outer = path.split(['{', '}']).skip(1).step_by(2);
            let link = Link::builder().operation_id(id).parameter(name, format!("$response.body#/{member}"));
            let link = outer.fold(link, |link, name| link.parameter(name, format!("$request.path.{name}")));
            created.links.insert(id.clone(), RefOr::T(link.build()));
        }
    }
}

const SCHEME: &str = "oauth2";
const KEY_SCHEME: &str = "api_key";

fn meaning(scope: Scope) -> &'static str {
    match scope {
        Scope::Subjects => "Register, list and erase subjects.",
        Scope::Consents => "Record and withdraw consents.",
        Scope::FacesEnrol => "Enrol faces and delete enrolments.",
        Scope::FacesVerify => "Compare a face with one subject.",
        Scope::FacesIdentify => "Search a face in a collection.",
        Scope::DataSubjectRequests => "Erasure and access requests.",
        Scope::AuditRead => "Read audit events.",
        Scope::Admin => "Manage credentials.",
    }
}

fn operations(item: &mut PathItem) -> Vec<(HttpMethod, &mut Operation)> {
    let all = [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Patch, &mut item.patch),
        (HttpMethod::Delete, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, slot)| Some((method, slot.as_mut()?))).collect()
}

/// Adds what follows from the route's row and shape.
fn complete(operation: &mut Operation, row: &Row, method: &HttpMethod) {
    // Function names repeat from noun to noun; operation ids must not.
    if let (Some(id), Some([tag, ..])) = (&mut operation.operation_id, operation.tags.as_deref()) {
        *id = format!("{tag}_{id}");
    }
    match row.access {
        Access::Probe | Access::Open => operation.security = Some(vec![]),
        Access::AnyToken => require(operation, &[]),
        Access::Needs(scope) => require(operation, &[scope.as_str()]),
    }
    let errors = errors::of(operation, row, method);
    let answers_once = errors.get(&409).is_some_and(|codes| codes.contains(&"idempotency_answer_not_kept"));
    for (status, codes) in errors {
        operation.responses.responses.insert(status.to_string(), RefOr::T(problem_response(status, &codes)));
    }
    let unsafe_call = !matches!(method, HttpMethod::Get) && matches!(row.access, Access::Needs(_));
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            response.headers.insert("X-Request-Id".to_owned(), header("Id of this request, for your logs and ours."));
            // Refused before anything is counted.
            if row.access != Access::Probe && !matches!(status.as_str(), "414" | "421" | "431" | "502" | "504") {
                response
                    .headers
                    .insert("RateLimit-Policy".to_owned(), header("Requests (`q`) in so many seconds (`w`)."));
                response.headers.insert(
                    "RateLimit".to_owned(),
                    header("Requests left (`r`), and the seconds (`t`) until all are."),
                );
            }
            if unsafe_call && status.starts_with('2') && !answers_once {
                let replayed = header("`true`: the answer to an earlier call with the same `Idempotency-Key`.");
                response.headers.insert("Idempotency-Replayed".to_owned(), replayed);
            }
        }
    }
    if unsafe_call {
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            match (&parameter.parameter_in, id_prefix(&parameter.name)) {
                (ParameterIn::Path, Some(prefix)) => parameter.schema = Some(id_schema(prefix)),
                // Left out or a text: there is no way to send null in a query.
                (ParameterIn::Query, _) => parameter.schema = parameter.schema.take().map(never_null),
                _ => {}
            }
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for (kind, content) in &mut body.content {
            if kind.starts_with("image/") || kind == "application/octet-stream" {
                *content = RefOr::T(Content::new(Some(binary())));
            }
        }
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && let Some(content) = response.content.get_mut("application/octet-stream")
        {
            *content = RefOr::T(Content::new(Some(binary())));
        }
    }
}

fn idempotency_key() -> Parameter {
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(Some("^[!-~]{1,255}$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Your name for this call, kept for a day: the same call sent again has no second effect and gets the first answer.",
        ))
        .schema(Some(text))
        .build()
}

/// What the ids of a path begin with, by their names in it.
fn id_prefix(name: &str) -> Option<&'static str> {
    let ids = [
        (SubjectId::NAME, SubjectId::PREFIX),
        (ConsentId::NAME, ConsentId::PREFIX),
        (NoticeId::NAME, NoticeId::PREFIX),
        (EnrolmentId::NAME, EnrolmentId::PREFIX),
        (ApiKeyId::NAME, ApiKeyId::PREFIX),
    ];
    ids.into_iter().find(|(known, _)| *known == name).map(|(_, prefix)| prefix)
}

fn id_schema(prefix: &str) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
    text.pattern(Some(format!("^{prefix}_[0-9a-f]{{32}}$"))).into()
}

fn never_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|kind| *kind != Type::Null);
            }
            RefOr::T(Schema::Object(object))
        }
        other => other,
    }
}

/// Bytes as they are; derived from `Vec<u8>` it would be an array of numbers.
fn binary() -> ObjectBuilder {
    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(format))
}

fn require(operation: &mut Operation, scopes: &[&str]) {
    let scopes = || scopes.iter().copied();
    operation.security =
        Some(vec![SecurityRequirement::new(SCHEME, scopes()), SecurityRequirement::new(KEY_SCHEME, scopes())]);
}

fn problem_response(status: u16, codes: &[&str]) -> Response {
    let content = Content::new(Some(RefOr::<utoipa::openapi::Schema>::Ref(Ref::from_schema_name("Problem"))));
    let mut response = ResponseBuilder::new()
        .description(format!("Codes: {}.", codes.join(", ")))
        .content(problem::CONTENT_TYPE, content)
        .build();
    match status {
        401 | 403 => _ = response.headers.insert("WWW-Authenticate".to_owned(), header("RFC 6750.")),
        405 => _ = response.headers.insert("Allow".to_owned(), header("The methods of this resource.")),
        409 | 429 | 502..=504 => _ = response.headers.insert("Retry-After".to_owned(), header("Seconds to wait.")),
        _ => {}
    }
    response
}

fn header(description: &str) -> RefOr<Header> {
    let text = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
    let mut header = Header::new(text);
    header.description = Some(description.to_owned());
    RefOr::T(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_and_route_table_name_the_same_operations() {
        let mut document = document();
        let mut documented = vec![];
        for (path, item) in &mut document.paths.paths {
            documented.extend(operations(item).iter().map(|(method, _)| format!("{} {path}", word(method))));
        }
        let mut routed: Vec<String> = ROUTES
            .iter()
            .flat_map(|row| row.methods.split(", ").map(move |method| format!("{method} {}", row.path)))
            // Comes with every GET, and is not documented apart.
            .filter(|operation| !operation.starts_with("HEAD "))
            .collect();
        documented.sort();
        routed.sort();
        assert_eq!(documented, routed);
    }

    fn word(method: &HttpMethod) -> &'static str {
        match method {
            HttpMethod::Get => "GET",
            HttpMethod::Post => "POST",
            HttpMethod::Patch => "PATCH",
            HttpMethod::Delete => "DELETE",
            _ => "?",
        }
    }

    #[test]
    fn every_reference_leads_to_a_part_of_the_document() {
        let json: serde_json::Value = serde_json::from_str(document_json()).unwrap();
        let references: Vec<&str> = document_json().split("\"$ref\": \"#").skip(1).collect();
        assert!(references.len() > 50);
        for reference in references {
            let pointer = reference.split('"').next().unwrap();
            assert!(json.pointer(pointer).is_some(), "{pointer} is not there");
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut document = document();
        let mut ids = vec![];
        for item in document.paths.paths.values_mut() {
            ids.extend(operations(item).into_iter().filter_map(|(_, operation)| operation.operation_id.clone()));
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn every_scoped_operation_says_its_scope() {
        let json: serde_json::Value = serde_json::from_str(document_json()).unwrap();
        assert_eq!(json["openapi"], "3.1.0");
        let verify = &json["paths"]["/v1/subjects/{subject}/verifications"]["post"];
        assert_eq!(verify["security"][0]["oauth2"][0], "faces:verify");
        assert!(verify["responses"]["503"]["headers"]["Retry-After"].is_object());
        assert!(json["components"]["schemas"]["Problem"]["properties"]["code"].is_object());
    }
}
