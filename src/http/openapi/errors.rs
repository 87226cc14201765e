//! Which error codes each operation may answer with. Tests hold every answer they get against these.

use std::collections::BTreeMap;

use utoipa::openapi::{
    HttpMethod, RefOr,
    path::{Operation, Parameter, ParameterIn},
};

use crate::http::{Row, access::Access};

/// Codes by status.
#[derive(Default)]
struct Errors(BTreeMap<u16, Vec<&'static str>>);

impl Errors {
    fn add(&mut self, status: u16, codes: &[&'static str]) {
        self.0.entry(status).or_default().extend(codes);
    }
}

/// The codes of every problem that a route can answer with, by status.
pub fn of(operation: &Operation, row: &Row, method: &HttpMethod) -> BTreeMap<u16, Vec<&'static str>> {
    let mut errors = Errors::default();
    at_the_door(&mut errors);
    if row.access != Access::Probe {
        // At /oauth the handlers describe their errors themselves, in another shape.
        if !row.path.starts_with("/oauth/") {
            errors.add(429, &["rate_limited"]);
        }
        if row.access == Access::Open {
            of_open_route(&mut errors, row);
        } else {
            of_caller(&mut errors, row);
            of_request(&mut errors, operation, row, method);
            of_act(&mut errors, row, method);
        }
    }
    errors.0
}

fn at_the_door(errors: &mut Errors) {
    errors.add(405, &["method_not_allowed"]);
    errors.add(414, &["uri_too_long"]);
    errors.add(431, &["header_too_large"]);
    // By nginx, which stands before.
    errors.add(403, &["https_required"]);
    errors.add(421, &["unknown_host"]);
    errors.add(502, &["service_unreachable", "answer_missing"]);
    errors.add(504, &["service_unreachable", "answer_missing"]);
}

fn of_open_route(errors: &mut Errors, row: &Row) {
    if row.path == "/v1/packages/{token}" {
        errors.add(404, &["not_found"]);
        errors.add(500, &["internal_error"]);
        errors.add(503, &["store_unavailable", "overloaded"]);
    }
    if row.path.ends_with(".pem") {
        errors.add(404, &["not_found"]);
    }
}

/// Who asks, and whether that may be.
fn of_caller(errors: &mut Errors, row: &Row) {
    errors.add(401, &["token_missing", "token_invalid", "token_expired", "token_not_yet_valid", "token_revoked"]);
    errors.add(401, &["api_key_invalid", "api_key_expired", "api_key_revoked"]);
    errors.add(403, &["network_not_allowed"]);
    errors.add(500, &["internal_error"]);
    errors.add(503, &["store_unavailable", "overloaded"]);
    if matches!(row.access, Access::Needs(_)) {
        errors.add(403, &["scope_missing"]);
    }
}

/// What is asked: path, parameters, body and idempotency key.
fn of_request(errors: &mut Errors, operation: &Operation, row: &Row, method: &HttpMethod) {
    let posts = matches!(method, HttpMethod::Post);
    // Named in the path, or in the body.
    if row.path.contains('{') || (posts && ["/v1/erasure-requests", "/v1/access-requests"].contains(&row.path)) {
        errors.add(404, &["not_found"]);
    }
    if takes_photo(row, method) {
        of_photo(errors);
    } else if operation.request_body.is_some() {
        errors.add(400, &["malformed_json", "bad_request"]);
        errors.add(408, &["request_timeout"]);
        errors.add(413, &["body_too_large"]);
        errors.add(415, &["unsupported_media_type"]);
        errors.add(422, &["validation_failed"]);
    } else if operation.parameters.iter().flatten().any(is_query) {
        errors.add(422, &["validation_failed"]);
    }
    // What comes with a body that it has no use for is something else than what was meant.
    if posts && operation.request_body.is_none() && !takes_photo(row, method) {
        errors.add(415, &["unsupported_media_type"]);
    }
    if !matches!(method, HttpMethod::Get) {
        errors.add(400, &["idempotency_key_invalid"]);
        errors.add(409, &["idempotency_twin_at_work"]);
        errors.add(422, &["idempotency_key_reused"]);
    }
}

fn takes_photo(row: &Row, method: &HttpMethod) -> bool {
    matches!(method, HttpMethod::Post) && (row.path.ends_with("/enrolments") || row.path.ends_with("/verifications"))
}

fn of_photo(errors: &mut Errors) {
    errors.add(400, &["image_missing", "malformed_multipart", "upload_interrupted"]);
    errors.add(403, &["consent_required", "consent_superseded", "subject_restricted"]);
    errors.add(408, &["upload_too_slow"]);
    errors.add(413, &["image_too_large"]);
    errors.add(415, &["unsupported_media_type", "image_unsupported_format"]);
    errors.add(422, &["validation_failed", "image_undecodable", "image_animated", "image_too_many_pixels", "no_face"]);
    errors.add(422, &["face_too_small", "multiple_faces", "quality_too_low", "embedding_out_of_bounds"]);
    errors.add(429, &["quota_spent"]);
    errors.add(503, &["busy"]);
}

/// What the operation itself may find.
fn of_act(errors: &mut Errors, row: &Row, method: &HttpMethod) {
    match (method, row.path) {
        (HttpMethod::Post, "/v1/api-keys") => {
            errors.add(403, &["scopes_beyond_caller"]);
            errors.add(409, &["idempotency_answer_not_kept"]);
        }
        (HttpMethod::Post, "/v1/api-keys/{key}/roll") => {
            errors.add(403, &["scopes_beyond_caller"]);
            errors.add(409, &["api_key_rolled", "idempotency_answer_not_kept"]);
        }
        (HttpMethod::Post, "/v1/access-requests") => {
            errors.add(503, &["busy"]);
            errors.add(409, &["idempotency_answer_not_kept"]);
        }
        (HttpMethod::Post, "/v1/access-requests/{access}/verify") => {
            errors.add(503, &["busy"]);
            errors.add(409, &["access_state", "idempotency_answer_not_kept"]);
        }
        (HttpMethod::Post, "/v1/access-requests/{access}/reject" | "/v1/access-requests/{access}/cancel") => {
            errors.add(409, &["access_state"]);
        }
        (HttpMethod::Post, "/v1/erasure-requests") => errors.add(409, &["erasure_open"]),
        (HttpMethod::Post, path) if path.starts_with("/v1/erasure-requests/") => errors.add(409, &["erasure_state"]),
        (HttpMethod::Post, "/v1/notices") => errors.add(409, &["notice_version_taken"]),
        (HttpMethod::Post, "/v1/subjects/{subject}/consents") => {
            errors.add(409, &["notice_superseded", "consent_limit_reached"]);
        }
        (HttpMethod::Post, "/opendsr/v1/requests") => {
            errors.add(409, &["erasure_open", "subject_request_id_taken"]);
            errors.add(422, &["identity_unsupported", "request_type_unsupported"]);
        }
        (HttpMethod::Delete, "/opendsr/v1/requests/{request}") => errors.add(409, &["erasure_state"]),
        (HttpMethod::Post, "/v1/subjects") | (HttpMethod::Patch, "/v1/subjects/{subject}") => {
            errors.add(409, &["external_ref_taken"]);
            // An erasure that was broken off is finished before its name is free.
            errors.add(503, &["keyholder_unavailable"]);
        }
        (HttpMethod::Delete, "/v1/subjects/{subject}/enrolments/{enrolment}") => {
            errors.add(403, &["subject_restricted"])
        }
        (HttpMethod::Delete, "/v1/subjects/{subject}") => {
            errors.add(409, &["erasure_state", "legal_hold"]);
            errors.add(503, &["keyholder_unavailable"]);
        }
        (HttpMethod::Post, path) if path.ends_with("/enrolments") => errors.add(409, &["enrolment_limit_reached"]),
        (HttpMethod::Post, path) if path.ends_with("/verifications") => {
            errors.add(409, &["no_enrolment", "enrolments_stale"]);
            errors.add(429, &["attempts_blocked", "verification_budget_spent"]);
            errors.add(503, &["keyholder_unavailable"]);
        }
        _ => {}
    }
}

fn is_query(parameter: &RefOr<Parameter>) -> bool {
    matches!(parameter, RefOr::T(Parameter { parameter_in: ParameterIn::Query, .. }))
}
