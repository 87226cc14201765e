//! Access tokens for client apps: RFC 6749 client credentials, with its own error shape, RFC 7517 keys, RFC 8414 metadata.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    body::BoxBody,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
    web::{Data, Payload, Query as ActixQuery},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};
use zeroize::Zeroizing;

use crate::{
    auth::{Scope, Scopes, assertion::ASSERTION_TYPE},
    flows::{
        Flows,
        tokens::{self, Credential, TokenRequestError},
    },
    http::{
        extract::{announced_bytes, media_type, small_body},
        openapi::{AboutTokenForm, TokenForm},
        problem::Problem,
        scopes_in_use,
        wire::{IntrospectionBody, TokenBody},
    },
};

const FORM_BYTES_MAX: usize = 8 * 1024;

/// Get an access token with a client's credentials.
///
/// The credentials come by HTTP Basic or in the form, not both.
#[utoipa::path(post, path = "/oauth/token", tag = "oauth",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = TokenBody, headers(("Cache-Control" = String, description = "no-store"))),
        OAuthErrors))]
pub async fn token(request: HttpRequest, payload: Payload, flows: Data<Flows>) -> Result<HttpResponse, OAuthError> {
    let form = Form::read(&request, payload).await?;
    if form.only("grant_type")? != Some("client_credentials") {
        return Err(form.wrong_grant_type());
    }
    let credential = credential(&request, &form)?;
    let scopes = form.only("scope")?.map(|text| text.parse::<Scopes>().map_err(|_| OAuthError::invalid_scope()));
    let grant = tokens::issue(&flows, credential, scopes.transpose()?).await;
    let grant = grant.map_err(OAuthError::of_flow)?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::PRAGMA, "no-cache"))
        .json(TokenBody {
            access_token: grant.token.token.expose_text().to_owned(),
            token_type: "Bearer",
            expires_in: grant.token.lifetime.as_seconds(),
            scope: grant.scopes.to_string(),
        }))
}

/// End an access token before its time (RFC 7009).
///
/// The answer is the same whether or not the token was any good, or the client's own.
#[utoipa::path(post, path = "/oauth/revoke", tag = "oauth",
    request_body(content = AboutTokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "The token is good for nothing any more."),
        OAuthErrors))]
pub async fn revoke(request: HttpRequest, payload: Payload, flows: Data<Flows>) -> Result<HttpResponse, OAuthError> {
    let form = Form::read(&request, payload).await?;
    let credential = credential(&request, &form)?;
    tokens::revoke(&flows, credential, form.token()?).await.map_err(OAuthError::of_flow)?;
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).finish())
}

/// Ask what an access token of your own tenant says, and whether it is still good (RFC 7662).
#[utoipa::path(post, path = "/oauth/introspect", tag = "oauth",
    request_body(content = AboutTokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = IntrospectionBody, headers(("Cache-Control" = String, description = "no-store"))),
        OAuthErrors))]
pub async fn introspect(
    request: HttpRequest,
    payload: Payload,
    flows: Data<Flows>,
) -> Result<HttpResponse, OAuthError> {
    let form = Form::read(&request, payload).await?;
    let credential = credential(&request, &form)?;
    let token = tokens::introspect(&flows, credential, form.token()?).await.map_err(OAuthError::of_flow)?;
    let body = IntrospectionBody::of(token, flows.tokens().config());
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(body))
}

/// The public keys that access tokens are signed with (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "oauth",
    responses((status = 200, description = "A JWK set.", content_type = "application/json")))]
pub async fn jwks(flows: Data<Flows>) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "public, max-age=300")).json(flows.tokens().jwks())
}

/// What this authorization server can do (RFC 8414).
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "oauth",
    responses((status = 200, body = MetadataBody)))]
pub async fn metadata(flows: Data<Flows>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "public, max-age=300"))
        .json(MetadataBody::of(&flows.tokens().config().issuer))
}

/// How a client may say who it is, at each of the three endpoints.
const CLIENT_METHODS: [&str; 3] = ["client_secret_basic", "client_secret_post", "private_key_jwt"];

/// RFC 8414, section 2.
#[derive(Serialize, ToSchema)]
pub struct MetadataBody {
    issuer: String,
    token_endpoint: String,
    jwks_uri: String,
    scopes_supported: Vec<&'static str>,
    response_types_supported: Vec<&'static str>,
    grant_types_supported: Vec<&'static str>,
    token_endpoint_auth_methods_supported: [&'static str; 3],
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 1],
    revocation_endpoint: String,
    revocation_endpoint_auth_methods_supported: [&'static str; 3],
    revocation_endpoint_auth_signing_alg_values_supported: [&'static str; 1],
    introspection_endpoint: String,
    introspection_endpoint_auth_methods_supported: [&'static str; 3],
    introspection_endpoint_auth_signing_alg_values_supported: [&'static str; 1],
    service_documentation: String,
}

impl MetadataBody {
    fn of(issuer: &str) -> Self {
        let base = issuer.trim_end_matches('/');
        Self {
            issuer: issuer.to_owned(),
            token_endpoint: format!("{base}/oauth/token"),
            jwks_uri: format!("{base}/.well-known/jwks.json"),
            scopes_supported: scopes_in_use().map(Scope::as_str).collect(),
            // There is no authorization endpoint, so there is nothing to put here; the RFC wants the member.
            response_types_supported: vec![],
            grant_types_supported: vec!["client_credentials"],
            token_endpoint_auth_methods_supported: CLIENT_METHODS,
            token_endpoint_auth_signing_alg_values_supported: ["RS256"],
            revocation_endpoint: format!("{base}/oauth/revoke"),
            revocation_endpoint_auth_methods_supported: CLIENT_METHODS,
            revocation_endpoint_auth_signing_alg_values_supported: ["RS256"],
            introspection_endpoint: format!("{base}/oauth/introspect"),
            introspection_endpoint_auth_methods_supported: CLIENT_METHODS,
            introspection_endpoint_auth_signing_alg_values_supported: ["RS256"],
            service_documentation: format!("{base}/docs/"),
        }
    }
}

/// What the endpoints refuse with, in RFC 6749's own shape (section 5.2).
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes responses, and is never made")]
enum OAuthErrors {
    /// `invalid_request`, `invalid_scope` or `unsupported_grant_type`.
    #[response(status = 400)]
    BadRequest(OAuthErrorBody),
    /// `invalid_client`.
    #[response(status = 401, headers(("WWW-Authenticate" = String, description = "Basic.")))]
    Unauthorized(OAuthErrorBody),
    /// The form did not arrive in time.
    #[response(status = 408)]
    TooSlow(OAuthErrorBody),
    /// The form is too large.
    #[response(status = 413)]
    TooLarge(OAuthErrorBody),
    /// `temporarily_unavailable`: too many requests by this address.
    #[response(status = 429, headers(("Retry-After" = String, description = "Seconds to wait.")))]
    TooMany(OAuthErrorBody),
    /// `server_error`.
    #[response(status = 500)]
    Internal(OAuthErrorBody),
    /// `temporarily_unavailable`: nothing was done; ask again.
    #[response(status = 503, headers(("Retry-After" = String, description = "Seconds to wait.")))]
    Unavailable(OAuthErrorBody),
}

/// The form of a token request: every parameter at most once (RFC 6749, section 3.2).
struct Form(Vec<(String, Zeroizing<String>)>);

impl Form {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self, OAuthError> {
        if media_type(request).as_deref() != Some("application/x-www-form-urlencoded") {
            return Err(OAuthError::invalid_request("send application/x-www-form-urlencoded"));
        }
        let body = small_body(payload.into_inner(), announced_bytes(request), FORM_BYTES_MAX).await;
        let body = Zeroizing::new(body.map_err(|problem| OAuthError {
            status: problem.status,
            ..OAuthError::invalid_request("the body is too large or incomplete")
        })?);
        let text = std::str::from_utf8(&body).map_err(|_| OAuthError::invalid_request("the body is not UTF-8"))?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, OAuthError> {
        let pairs = ActixQuery::<Vec<(String, String)>>::from_query(text);
        let pairs = pairs.map_err(|_| OAuthError::invalid_request("the form cannot be read"))?.into_inner();
        Ok(Self(pairs.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect()))
    }

    /// The one value of a parameter. An empty value counts as none, as the RFC asks.
    fn only(&self, name: &str) -> Result<Option<&str>, OAuthError> {
        let mut values = self.0.iter().filter(|(given, _)| given == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value.filter(|value| !value.is_empty())),
            _ => Err(OAuthError::invalid_request("a parameter is given twice")),
        }
    }

    /// What revocation and introspection are about.
    fn token(&self) -> Result<&str, OAuthError> {
        self.only("token_type_hint")?;
        self.only("token")?.ok_or_else(|| OAuthError::invalid_request("token is needed"))
    }

    fn wrong_grant_type(&self) -> OAuthError {
        match self.only("grant_type") {
            Ok(Some(_)) => OAuthError::new("unsupported_grant_type", "only client_credentials is supported"),
            _ => OAuthError::invalid_request("grant_type is needed"),
        }
    }
}

/// The client's credential: by HTTP Basic, in the form, or as an assertion in the form; one of them only (RFC 6749, 2.3).
fn credential(request: &HttpRequest, form: &Form) -> Result<Credential, OAuthError> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION);
    let by_header = match (headers.next(), headers.next()) {
        (given, None) => given,
        _ => return Err(OAuthError::invalid_request("more than one Authorization header")),
    };
    let client = form.only("client_id")?;
    match (by_header, form.only("client_secret")?, assertion(form)?) {
        (None, None, Some(assertion)) => Ok(Credential::Assertion { client: client.map(str::to_owned), assertion }),
        (None, Some(secret), None) => {
            client.map(|client| Credential::secret(client, secret)).ok_or_else(OAuthError::invalid_client)
        }
        (Some(value), None, None) => {
            let (named, secret) = basic(value).ok_or_else(OAuthError::invalid_client)?;
            if client.is_some_and(|client| client != *named) {
                return Err(OAuthError::invalid_request("header and form name different clients"));
            }
            Ok(Credential::secret(&named, &secret))
        }
        (None, None, None) => Err(OAuthError::invalid_client()),
        _ => Err(OAuthError::invalid_request("send the credentials in one way, not in several")),
    }
}

/// RFC 7521, section 4.2: assertion and type come together.
fn assertion(form: &Form) -> Result<Option<Zeroizing<String>>, OAuthError> {
    match (form.only("client_assertion_type")?, form.only("client_assertion")?) {
        (None, None) => Ok(None),
        (Some(ASSERTION_TYPE), Some(assertion)) => Ok(Some(Zeroizing::new(assertion.to_owned()))),
        _ => Err(OAuthError::invalid_request("client_assertion needs the client_assertion_type of RFC 7523")),
    }
}

/// RFC 7617, with both halves form-encoded (RFC 6749, section 2.3.1).
fn basic(value: &HeaderValue) -> Option<(Zeroizing<String>, Zeroizing<String>)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let decoded = Zeroizing::new(BASE64_STANDARD.decode(encoded.trim()).ok()?);
    let (client, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then_some(())?;
    Some((form_decoded(client)?, form_decoded(secret)?))
}

fn form_decoded(text: &str) -> Option<Zeroizing<String>> {
    if text.contains(['&', '=']) {
        return None;
    }
    let pairs = ActixQuery::<Vec<(String, String)>>::from_query(&format!("v={text}")).ok()?.into_inner();
    pairs.into_iter().next().map(|(_, value)| Zeroizing::new(value))
}

/// An error in RFC 6749's own shape (section 5.2).
#[derive(Debug, Clone)]
pub struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    retry_after_s: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct OAuthErrorBody {
    #[schema(example = "invalid_client")]
    error: &'static str,
    error_description: &'static str,
}

impl OAuthError {
    fn new(error: &'static str, description: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description, retry_after_s: None }
    }

    fn invalid_request(description: &'static str) -> Self {
        Self::new("invalid_request", description)
    }

    fn invalid_scope() -> Self {
        Self::new("invalid_scope", "a scope is unknown, or beyond what this client may ask for")
    }

    fn invalid_client() -> Self {
        let status = StatusCode::UNAUTHORIZED;
        Self { status, ..Self::new("invalid_client", "the client credentials are missing or wrong") }
    }

    fn of_flow(error: TokenRequestError) -> Self {
        match error {
            TokenRequestError::InvalidClient => Self::invalid_client(),
            TokenRequestError::InvalidScope => Self::invalid_scope(),
            TokenRequestError::Flow(error) => Self::of_problem(&Problem::from(error)),
        }
    }

    /// RFC 6749 has no word for a server in trouble on this endpoint; the two of section 4.1.2.1 are the customary ones.
    pub fn of_problem(problem: &Problem) -> Self {
        let (error, description) = match problem.status {
            StatusCode::TOO_MANY_REQUESTS => ("temporarily_unavailable", "too many requests"),
            StatusCode::SERVICE_UNAVAILABLE => ("temporarily_unavailable", "try again later"),
            _ => ("server_error", "something went wrong on our side"),
        };
        Self { status: problem.status, retry_after_s: problem.retry_after_s, ..Self::new(error, description) }
    }
}

impl std::fmt::Display for OAuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.error, self.description)
    }
}

impl ResponseError for OAuthError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::CACHE_CONTROL, "no-store")).insert_header((header::PRAGMA, "no-cache"));
        // Every 401 names a way in (RFC 9110, 15.5.2), however the client tried.
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, r#"Basic realm="oauth", charset="UTF-8""#));
        }
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.json(OAuthErrorBody { error: self.error, error_description: self.description })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_given_twice_is_refused_and_an_empty_one_counts_as_none() {
        let form = Form::parse("a=1&b=&c=1&c=2").unwrap();
        assert_eq!(form.only("a").unwrap(), Some("1"));
        assert_eq!(form.only("b").unwrap(), None);
        assert_eq!(form.only("none").unwrap(), None);
        assert_eq!(form.only("c").unwrap_err().error, "invalid_request");
    }

    #[test]
    fn both_halves_of_basic_are_form_decoded() {
        let header = |text: &str| HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(text))).unwrap();
        let (client, secret) = basic(&header("cli_1:a%2Bb+c")).unwrap();
        assert_eq!((client.as_str(), secret.as_str()), ("cli_1", "a+b c"));
        assert!(basic(&header("no colon")).is_none());
        assert!(basic(&HeaderValue::from_static("Bearer x")).is_none());
    }
}
