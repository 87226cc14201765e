//! RFC 9457 problem+json, and the one map from what went wrong to a status.
//!
//! A handler returns a [`Problem`]; the outermost middleware writes it out, because only there the request id is known.
//! A stranger sees a code and a sentence, never a cause.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    body::BoxBody,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::jwt::TokenError,
    flows::{FlowError, api_keys::ApiKeyError, incoming::IncomingError, tokens::AuthenticationError},
};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error on its way out.
#[derive(Debug, Clone)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    pub errors: Vec<FieldProblem>,
    pub retry_after_s: Option<u64>,
    /// `WWW-Authenticate`, for 401 and 403.
    pub challenge: Option<&'static str>,
    /// `Allow`, for 405.
    pub allow: Option<&'static str>,
}

/// What is wrong with one member of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// JSON pointer (RFC 6901) into the body, or `/name` of the query or form field.
    #[schema(example = "/notice_version")]
    pub pointer: String,
    #[schema(example = "missing")]
    pub code: String,
    pub detail: String,
}

/// The wire shape (RFC 9457) of every error outside of `/oauth/*`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// Stable name of the kind of error, as a URI.
    #[serde(rename = "type")]
    #[schema(example = "urn:velum:problem:consent_required")]
    pub kind: String,
    #[schema(example = "Consent required")]
    pub title: String,
    #[schema(example = 403)]
    pub status: u16,
    pub detail: &'a str,
    /// Path of the request that failed.
    pub instance: &'a str,
    /// Stable, machine-readable reason.
    #[schema(example = "consent_required")]
    pub code: &'a str,
    /// The same as the `X-Request-Id` header.
    pub request_id: &'a str,
    /// Whether the same request may succeed later without being changed.
    pub retryable: bool,
    #[serde(skip_serializing_if = "<[FieldProblem]>::is_empty")]
    #[schema(required = false)]
    pub errors: &'a [FieldProblem],
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: vec![], retry_after_s: None, challenge: None, allow: None }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here under this name.")
    }

    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong on our side.")
    }

    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after_s: u64) -> Self {
        let retry_after_s = Some(retry_after_s.max(1));
        Self { retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("This resource answers to {allow}.");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    pub fn invalid(field: FieldProblem) -> Self {
        let detail = format!("{}: {}", field.pointer.trim_start_matches('/'), field.detail);
        Self { errors: vec![field], ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", detail) }
    }

    /// For an error that the framework made itself: the status is all that is known.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found(),
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(status, "body_too_large", "The body is too large."),
            StatusCode::URI_TOO_LONG => Self::new(status, "uri_too_long", "The path and its query are too long."),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                Self::new(status, "header_too_large", "The headers are too long.")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::new(status, "unsupported_media_type", "This media type is not accepted here.")
            }
            StatusCode::REQUEST_TIMEOUT => Self::new(status, "request_timeout", "The request did not arrive in time."),
            status if status.is_client_error() => {
                Self::new(status, "bad_request", "The request could not be understood.")
            }
            _ => Self::internal(),
        }
    }

    /// Retrying helps where the cause lies in the moment, not in the request.
    pub fn retryable(&self) -> bool {
        self.retry_after_s.is_some()
            || matches!(
                self.status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            )
    }

    pub fn to_json(&self, instance: &str, request_id: &str) -> Vec<u8> {
        let body = ProblemBody {
            kind: format!("urn:velum:problem:{}", self.code),
            title: title(self.code),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance,
            code: self.code,
            request_id,
            retryable: self.retryable(),
            errors: &self.errors,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl From<FlowError> for Problem {
    fn from(error: FlowError) -> Self {
        use StatusCode as S;
        let plain = |status, code| Self::new(status, code, sentence(&error));
        match &error {
            FlowError::NotFound => Self::not_found(),
            FlowError::ExternalRefTaken => plain(S::CONFLICT, "external_ref_taken"),
            FlowError::ConsentRequired { .. } => plain(S::FORBIDDEN, "consent_required"),
            FlowError::ConsentSuperseded { .. } => plain(S::FORBIDDEN, "consent_superseded"),
            FlowError::SubjectRestricted => plain(S::FORBIDDEN, "subject_restricted"),
            FlowError::NoticeMistaken { field, mistake } => Self::invalid_field(field, mistake),
            FlowError::NoticeSuperseded => plain(S::CONFLICT, "notice_superseded"),
            FlowError::NoticeVersionTaken => plain(S::CONFLICT, "notice_version_taken"),
            FlowError::NoticeMateriality => Self::invalid_field("material_change", &error),
            FlowError::ConsentAlreadyExpired => Self::invalid_field("expires_at", "lies in the past"),
            FlowError::ExpiryPast => Self::invalid_field("expires_at", "lies in the past"),
            FlowError::ApiKeyRolled => plain(S::CONFLICT, "api_key_rolled"),
            FlowError::ScopesBeyondCaller => plain(S::FORBIDDEN, "scopes_beyond_caller"),
            FlowError::IdempotencyKeyReused => plain(S::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            FlowError::TwinAtWork { retry_after_s } => {
                Self { retry_after_s: Some(*retry_after_s), ..plain(S::CONFLICT, "idempotency_twin_at_work") }
            }
            FlowError::AnswerNotKept => plain(S::CONFLICT, "idempotency_answer_not_kept"),
            FlowError::QuotaSpent(spent) => {
                Self { retry_after_s: Some(spent.retry_after_s), ..plain(S::TOO_MANY_REQUESTS, "quota_spent") }
            }
            FlowError::AttemptsBlocked { retry_after_s } => {
                Self { retry_after_s: Some(*retry_after_s), ..plain(S::TOO_MANY_REQUESTS, "attempts_blocked") }
            }
            FlowError::ErasureOpen => plain(S::CONFLICT, "erasure_open"),
            FlowError::AccessState => plain(S::CONFLICT, "access_state"),
            FlowError::RecipientInvalid => Self::invalid_field("recipient", &error),
            FlowError::ErasureState => plain(S::CONFLICT, "erasure_state"),
            FlowError::LegalHold => plain(S::CONFLICT, "legal_hold"),
            FlowError::ReceivedLater => Self::invalid_field("received_at", "lies in the future"),
            FlowError::SubjectRequestIdTaken => plain(S::CONFLICT, "subject_request_id_taken"),
            FlowError::SubmittedLater => Self::invalid_field("submitted_time", "lies in the future"),
            FlowError::SeveralPersons => Self::invalid_field("subject_identities", &error),
            FlowError::ConsentLimitReached => plain(S::CONFLICT, "consent_limit_reached"),
            FlowError::EnrolmentLimitReached => plain(S::CONFLICT, "enrolment_limit_reached"),
            FlowError::NoEnrolment => plain(S::CONFLICT, "no_enrolment"),
            FlowError::EnrolmentsStale => plain(S::CONFLICT, "enrolments_stale"),
            FlowError::InvalidPage(error) => Self::invalid_field(error.field(), error),
            FlowError::Incoming(error) => Self::of_incoming(error),
            FlowError::FaceRefused { code, sentence, reasons } => Self::of_face(code, sentence, reasons),
            FlowError::Busy(busy) => {
                Self::unavailable("busy", "All places for computing are taken at this moment.", busy.retry_after_s)
            }
            FlowError::StoreAway(_) => {
                logged(&error, Self::unavailable("store_unavailable", "The database is away.", STORE_RETRY_AFTER_S))
            }
            FlowError::KeyholderAway { retry_after_s } => logged(
                &error,
                Self::unavailable("keyholder_unavailable", "The keyholder is away; nothing was lost.", *retry_after_s),
            ),
            FlowError::BudgetSpent { retry_after_s, .. } => Self {
                retry_after_s: Some((*retry_after_s).max(1)),
                ..plain(S::TOO_MANY_REQUESTS, "verification_budget_spent")
            },
            FlowError::Internal(_) | FlowError::CallbackFailed(_) => logged(&error, Self::internal()),
        }
    }
}

impl Problem {
    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub fn invalid_field(name: &str, detail: impl ToString) -> Self {
        let (pointer, code) = (format!("/{name}"), "invalid".to_owned());
        Self::invalid(FieldProblem { pointer, code, detail: detail.to_string() })
    }

    fn of_incoming(error: &IncomingError) -> Self {
        let status = match error {
            IncomingError::Field { field, reason } => return Self::invalid_field(field, reason),
            IncomingError::Missing | IncomingError::Malformed | IncomingError::Interrupted => StatusCode::BAD_REQUEST,
            IncomingError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            IncomingError::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            IncomingError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        };
        Self::new(status, error.code(), sentence(error))
    }

    fn of_face(code: &'static str, detail: &str, reasons: &[&'static str]) -> Self {
        let status = match code {
            "image_unsupported_format" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let reason =
            |code: &&str| FieldProblem { pointer: "/image".to_owned(), code: (*code).to_owned(), detail: title(code) };
        Self { errors: reasons.iter().map(reason).collect(), ..Self::new(status, code, sentence(&detail)) }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        // Why exactly a token is refused helps nobody but a forger; that it is old helps its owner.
        let detail = match error {
            TokenError::Expired => "The access token has expired; ask for a new one.",
            TokenError::NotYetValid => "The access token is not valid yet.",
            _ => "The access token is not valid.",
        };
        let challenge = Some(INVALID_TOKEN);
        Self { challenge, ..Self::new(StatusCode::UNAUTHORIZED, error.code(), detail) }
    }
}

impl From<AuthenticationError> for Problem {
    fn from(error: AuthenticationError) -> Self {
        match error {
            AuthenticationError::Token(error) => error.into(),
            AuthenticationError::Revoked => Self {
                challenge: Some(INVALID_TOKEN),
                ..Self::new(StatusCode::UNAUTHORIZED, "token_revoked", "The access token was revoked.")
            },
            AuthenticationError::ApiKey(error) => {
                let unauthorized = |code, detail| Self {
                    challenge: Some(INVALID_TOKEN),
                    ..Self::new(StatusCode::UNAUTHORIZED, code, detail)
                };
                match error {
                    ApiKeyError::Invalid => unauthorized("api_key_invalid", "There is no such API key."),
                    ApiKeyError::Expired => unauthorized("api_key_expired", "The API key has expired."),
                    ApiKeyError::Revoked => unauthorized("api_key_revoked", "The API key was revoked."),
                    ApiKeyError::NetworkNotAllowed => Self::new(
                        StatusCode::FORBIDDEN,
                        "network_not_allowed",
                        "The API key may not be used from this address.",
                    ),
                }
            }
            AuthenticationError::Flow(error) => error.into(),
        }
    }
}

/// RFC 6750, section 3.1.
const INVALID_TOKEN: &str = r#"Bearer error="invalid_token""#;

/// A database that restarts is back after some seconds.
const STORE_RETRY_AFTER_S: u64 = 5;

/// What nobody outside can put right is logged here, once, with its whole chain of causes; the request id comes from the
/// span around the request.
fn logged(error: &FlowError, problem: Problem) -> Problem {
    let mut causes = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes = format!("{causes}: {cause}");
        source = cause.source();
    }
    tracing::error!(event = "request_failed", code = problem.code, causes, "a request failed for a reason of our own");
    problem
}

/// An error's words as a sentence.
fn sentence(error: &impl fmt::Display) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

/// `consent_required` reads `Consent required`: the title says what the code says, and cannot drift from it.
fn title(code: &str) -> String {
    let mut words = code.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Headers and the problem itself, still without a body.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::new(self.status);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response.extensions_mut().insert(self.clone());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_every_member_of_the_convention() {
        let field = FieldProblem { pointer: "/purpose".into(), code: "missing".into(), detail: "is needed".into() };
        let json: serde_json::Value =
            serde_json::from_slice(&Problem::invalid(field).to_json("/v1/subjects", "req_1")).unwrap();
        assert_eq!(json["type"], "urn:velum:problem:validation_failed");
        assert_eq!(json["title"], "Validation failed");
        assert_eq!(json["status"], 422);
        assert_eq!(json["code"], "validation_failed");
        assert_eq!(json["instance"], "/v1/subjects");
        assert_eq!(json["request_id"], "req_1");
        assert_eq!(json["retryable"], false);
        assert_eq!(json["errors"][0]["pointer"], "/purpose");
    }

    #[test]
    fn only_problems_of_the_moment_are_retryable_and_say_when() {
        let busy = Problem::unavailable("busy", "All places are taken.", 0);
        assert!(busy.retryable());
        assert_eq!(busy.error_response().headers().get(header::RETRY_AFTER).unwrap(), "1");
        assert!(!Problem::not_found().retryable());
    }
}
