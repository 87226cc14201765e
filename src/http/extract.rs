//! What a handler is given: the caller, ids from the path, a JSON body, a query. Each is checked before a handler sees it.

use std::{
    future::{Ready, ready},
    ops::Deref,
    pin::Pin,
    str::FromStr,
    time::Duration,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::{StatusCode, header},
    web::{Bytes, Data, Query as ActixQuery},
};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{
    access,
    problem::{FieldProblem, Problem},
};
use crate::{
    auth::{self, package_link::PackageToken},
    domain::{
        id::{AccessId, ApiKeyId, ConsentId, EnrolmentId, ErasureId, NoticeId, RequestId, SubjectId},
        opendsr::SubjectRequestId,
    },
    flows::Flows,
};

/// The caller that the guard of the route let in.
pub struct Caller(pub auth::Caller);

impl Deref for Caller {
    type Target = auth::Caller;

    fn deref(&self) -> &auth::Caller {
        &self.0
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(access::caller(request).map(Self))
    }
}

/// The id of this request, as its answer has it.
pub struct CallId(pub Option<String>);

impl FromRequest for CallId {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.extensions().get::<RequestId>().map(RequestId::to_string))))
    }
}

pub fn flows(request: &HttpRequest) -> Result<&Data<Flows>, Problem> {
    request.app_data::<Data<Flows>>().ok_or_else(Problem::internal)
}

/// An id from the path. What is not even an id looks like an absent one.
pub struct InPath<T>(pub T);

/// The name under which an id stands in the route table.
pub trait PathName {
    const NAME: &'static str;
}

impl PathName for SubjectId {
    const NAME: &'static str = "subject";
}

impl PathName for ApiKeyId {
    const NAME: &'static str = "key";
}

impl PathName for ConsentId {
    const NAME: &'static str = "consent";
}

impl PathName for AccessId {
    const NAME: &'static str = "access";
}

impl PathName for PackageToken {
    const NAME: &'static str = "token";
}

impl PathName for ErasureId {
    const NAME: &'static str = "erasure";
}

impl PathName for EnrolmentId {
    const NAME: &'static str = "enrolment";
}

impl PathName for SubjectRequestId {
    const NAME: &'static str = "request";
}

impl PathName for NoticeId {
    const NAME: &'static str = "notice";
}

impl<T: PathName + FromStr> FromRequest for InPath<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.match_info().get(T::NAME).and_then(|text| text.parse().ok());
        ready(id.map(InPath).ok_or_else(Problem::not_found))
    }
}

/// Longest JSON body, in bytes, where nothing else is said: every such one of ours fits into a tenth of it.
const JSON_BYTES_MAX: usize = 16 * 1024;
/// A small body comes in one piece; who takes longer is not sending one.
const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body, parsed into one of the shapes of `wire`, and the digest of what was sent.
pub struct Json<T, const BYTES_MAX: usize = JSON_BYTES_MAX>(pub T, pub Vec<u8>);

impl<T: DeserializeOwned + 'static, const BYTES_MAX: usize> FromRequest for Json<T, BYTES_MAX> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = json_body(request, payload, BYTES_MAX);
        Box::pin(async move {
            let body = body.await?;
            Ok(Self(parse_json(&body)?, Sha256::digest(&body).to_vec()))
        })
    }
}

/// The same with all that was sent.
pub struct RawJson<T>(pub T, pub Vec<u8>);

impl<T: DeserializeOwned + 'static> FromRequest for RawJson<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = json_body(request, payload, JSON_BYTES_MAX);
        Box::pin(async move {
            let body = body.await?;
            Ok(Self(parse_json(&body)?, body))
        })
    }
}

/// The same where a body may be left out, or say `null`.
pub struct MaybeJson<T>(pub Option<T>, pub Vec<u8>);

impl<T: DeserializeOwned + 'static> FromRequest for MaybeJson<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let comes_in_pieces = request.headers().contains_key(header::TRANSFER_ENCODING);
        if !comes_in_pieces && announced_bytes(request).unwrap_or(0) == 0 {
            return Box::pin(ready(Ok(Self(None, vec![]))));
        }
        let body = json_body(request, payload, JSON_BYTES_MAX);
        Box::pin(async move {
            let body = body.await?;
            let said = if body.trim_ascii() == b"null" { None } else { Some(parse_json(&body)?) };
            Ok(Self(said, Sha256::digest(&body).to_vec()))
        })
    }
}

/// The bytes of a body that says that it is JSON.
fn json_body(
    request: &HttpRequest,
    payload: &mut Payload,
    bytes_max: usize,
) -> impl Future<Output = Result<Vec<u8>, Problem>> + use<> {
    let (media_type, announced) = (media_type(request), announced_bytes(request));
    let payload = payload.take();
    let is_plain = !request.headers().contains_key(header::CONTENT_ENCODING);
    async move {
        if media_type.as_deref() != Some("application/json") || !is_plain {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        small_body(payload, announced, bytes_max).await
    }
}

/// Of a call that takes no body: one that has a body was meant for another route.
pub struct NoBody;

impl FromRequest for NoBody {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let comes_in_pieces = request.headers().contains_key(header::TRANSFER_ENCODING);
        ready(match announced_bytes(request).unwrap_or(0) {
            0 if !comes_in_pieces => Ok(Self),
            _ => Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
        })
    }
}

/// `Content-Type` without its parameters, in lower case.
pub fn media_type(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// The length of the body, where the caller says it.
pub fn announced_bytes(request: &HttpRequest) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `bytes_max`, and not for ever. One that is announced to be longer is not even waited for.
pub async fn small_body(mut payload: Payload, announced: Option<usize>, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let reading = async {
        let mut body = Vec::new();
        while let Some(chunk) = payload.next().await {
            let chunk: Bytes = chunk.map_err(|_| Problem::of_status(StatusCode::BAD_REQUEST))?;
            if body.len() + chunk.len() > bytes_max {
                return Err(Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    timeout(SMALL_BODY_TIMEOUT, reading).await.unwrap_or_else(|_| Err(Problem::of_status(StatusCode::REQUEST_TIMEOUT)))
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would also take a struct from an array of its values.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed_json());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        match error.inner().classify() {
            serde_json::error::Category::Data => Problem::invalid(field_problem(&path, error.inner())),
            _ => malformed_json(),
        }
    })?;
    reader.end().map_err(|_| malformed_json())?;
    Ok(parsed)
}

fn malformed_json() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", "The body is not a well-formed JSON object.")
}

/// The query string, parsed into one of the shapes of `wire`.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parsed = ActixQuery::<T>::from_query(request.query_string()).map(|query| Self(query.into_inner()));
        ready(parsed.map_err(|error| Problem::invalid(field_problem(".", &error))))
    }
}

/// Says which member is wrong. serde names it between backticks where the path cannot (missing and unknown members);
/// its sentence may quote what the caller sent, so the sentence itself is ours.
fn field_problem(path: &str, error: &impl ToString) -> FieldProblem {
    let sentence = error.to_string();
    let (code, detail) = if sentence.contains("unknown field") {
        ("unknown_field", "is not a member of this request")
    } else if sentence.contains("missing field") {
        ("missing", "is needed")
    } else if sentence.contains("duplicate field") {
        ("duplicate", "is given twice")
    } else {
        ("invalid", "has a value of the wrong kind")
    };
    let named = || sentence.split('`').nth(1).filter(|_| code != "invalid");
    let name = if path == "." || code != "invalid" { named().unwrap_or_default() } else { path };
    FieldProblem { pointer: format!("/{}", name.replace('.', "/")), code: code.to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        name: String,
        #[serde(default)]
        count: u32,
    }

    fn refusal(body: &str) -> Problem {
        parse_json::<Shape>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_wrong_member_is_named_by_pointer() {
        for (body, pointer, code) in [
            (r#"{"name":"a","nom":"b"}"#, "/nom", "unknown_field"),
            (r#"{}"#, "/name", "missing"),
            (r#"{"name":"a","name":"b"}"#, "/name", "duplicate"),
            (r#"{"name":"a","count":"b"}"#, "/count", "invalid"),
            (r#"{"name":7}"#, "/name", "invalid"),
        ] {
            let problem = refusal(body);
            assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
            assert_eq!(
                (problem.errors[0].pointer.as_str(), problem.errors[0].code.as_str()),
                (pointer, code),
                "{body}"
            );
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for body in ["", "{", r#"{"name":"a"} {}"#, "\u{0}", r#"["a", 1]"#] {
            assert_eq!(refusal(body).code, "malformed_json", "{body:.20}");
        }
    }

    #[test]
    fn nesting_is_refused_at_its_first_unknown_member() {
        assert_eq!(refusal(&r#"{"a":"#.repeat(10_000)).code, "validation_failed");
    }
}
