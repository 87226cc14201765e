//! What happens around every request: its id, where it comes from, its log line, the security headers, and errors written
//! as problem+json.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::{
    Limits,
    access::OpenCharge,
    address,
    problem::{self, Problem},
    unread::SharedBody,
};
use crate::{
    domain::{id::RequestId, network::AddressHash},
    flows::{Flows, addresses},
    measure::{self, InFlight},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Set once the process has been told to stop: readiness says no, and every answer closes its connection.
#[derive(Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The outermost layer. Nothing that names a person passes through its log line: the route is logged as its pattern,
/// never as the path; of the address only its hash, and no header or body at all.
pub async fn around(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let _in_flight = InFlight::begin();
    let request_id = RequestId::generate();
    let id = request_id.to_string();
    let trace_id = trace_id(request.headers()).map(str::to_owned);
    let address = note_address(&request);
    let address = address.map(tracing::field::display);
    let span = tracing::info_span!("request", request_id = id, trace_id, address);
    // The request itself must not be cloned here: the router writes into it.
    let (method, path) = (request.method().clone(), request.path().to_owned());
    // HEAD is GET without the body (RFC 9110, 9.3.2), which the connection itself leaves out.
    if method == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    let (open_charge, flows) = (OpenCharge::default(), request.app_data::<Data<Flows>>().cloned());
    request.extensions_mut().insert(open_charge.clone());
    request.extensions_mut().insert(request_id);
    let body = SharedBody::of(&mut request);
    let limit = request.app_data::<Limits>().map_or(Limits::REQUEST_TIMEOUT, |limits| limits.request_timeout);

    let answered = match too_much(&request) {
        Some(problem) => Err(problem),
        None => match timeout(limit, next.call(request).instrument(span.clone())).await {
            Ok(Ok(response)) => Ok(write_problem(response.map_into_boxed_body(), &id)),
            // An error of a layer below that never became a response.
            Ok(Err(error)) => Err(Problem::of_status(error.as_response_error().status_code())),
            Err(_) => Err(too_slow()),
        },
    };
    let (status, route) = match &answered {
        Ok(response) => (response.status(), response.request().match_pattern()),
        Err(problem) => (problem.status, None),
    };
    if let Some(flows) = flows {
        open_charge.settle(flows, status, answered.as_ref().ok().map(ServiceResponse::headers)).await;
    }
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let duration = started.elapsed();
    measure::request(method.as_str(), &route, status.as_u16(), duration);
    span.in_scope(|| {
        let (status, duration_ms) = (status.as_u16(), duration.as_millis() as u64);
        tracing::info!(event = "request", method = method.as_str(), route, status, duration_ms, "answered");
    });
    match answered {
        Ok(mut response) => {
            // Whoever sends too slowly or too much has been waited for long enough.
            if let Some(body) = body.filter(|_| !matches!(status.as_u16(), 408 | 413)) {
                body.receive_rest().await;
            }
            set_headers(response.headers_mut(), &id, &route);
            if is_draining(response.request()) {
                response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
            }
            Ok(response)
        }
        Err(problem) => Err(Unrouted { problem, id, path: path.chars().take(PATH_CHARACTERS_SHOWN).collect() }.into()),
    }
}

/// Notes where the request comes from, for those who must read it and, hashed, for everybody else.
fn note_address(request: &ServiceRequest) -> Option<AddressHash> {
    let client = address::client_of(request)?;
    let hash = addresses::hash(request.app_data::<Data<Flows>>()?, client);
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(hash);
    Some(hash)
}

/// A problem without a request to answer: the layers below kept it.
#[derive(Debug)]
struct Unrouted {
    problem: Problem,
    id: String,
    path: String,
}

impl fmt::Display for Unrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl ResponseError for Unrouted {
    fn status_code(&self) -> StatusCode {
        self.problem.status
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = self.problem.error_response();
        set_headers(response.headers_mut(), &self.id, "");
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
        response.set_body(BoxBody::new(self.problem.to_json(&self.path, &self.id)))
    }
}

/// Longest path with its query: no address of ours has a tenth of it.
const URI_BYTES_MAX: usize = 8 * 1024;
/// All headers together: a token is the longest we ask for, and has one or two thousand.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const PATH_CHARACTERS_SHOWN: usize = 256;

/// The parser below takes eight times as much before it refuses; what came so far was paid for by us.
fn too_much(request: &ServiceRequest) -> Option<Problem> {
    let uri_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let status = if uri_bytes > URI_BYTES_MAX {
        StatusCode::URI_TOO_LONG
    } else if header_bytes > HEADER_BYTES_MAX {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else {
        return None;
    };
    Some(Problem::of_status(status))
}

/// Slow bodies have their own, shorter limits; whoever comes here waited for us.
fn too_slow() -> Problem {
    Problem::unavailable("overloaded", "The request could not be answered in time.", 2)
}

fn is_draining(request: &HttpRequest) -> bool {
    request.app_data::<Data<Draining>>().is_some_and(|draining| draining.has_begun())
}

/// Gives an error its problem+json body. Errors that bring a body of their own (RFC 6749's JSON, a page) keep it.
fn write_problem(mut response: ServiceResponse<BoxBody>, request_id: &str) -> ServiceResponse<BoxBody> {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let stated = response.response_mut().extensions_mut().remove::<Problem>();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let has_body = kind.is_some_and(|kind| kind == "application/json" || kind == "text/html; charset=utf-8");
    let problem = match stated {
        Some(problem) => problem,
        None if has_body => return response,
        None => Problem::of_status(status),
    };
    let body = problem.to_json(response.request().path(), request_id);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    response.map_body(|_, _| BoxBody::new(body))
}

/// The documentation page needs its own scripts and styles, and the console brings its own policies; nothing else needs
/// anything.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
const POLICY_OF_DOCS: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn set_headers(headers: &mut HeaderMap, request_id: &str, route: &str) {
    let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::STRICT_TRANSPORT_SECURITY, "max-age=63072000");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    let policy = if route.starts_with("/docs") { POLICY_OF_DOCS } else { POLICY };
    let unless_given = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in unless_given {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// The trace id of a W3C `traceparent` (version 00); anything malformed counts as absent, as the recommendation asks.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let well_formed =
        is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let complete = version != "00" || parts.next().is_none();
    (well_formed && complete && set(trace) && set(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_of(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("traceparent"), HeaderValue::from_str(value).unwrap());
        trace_id(&headers).map(str::to_owned)
    }

    #[test]
    fn a_traceparent_gives_its_trace_id() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_of(given).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    }

    #[test]
    fn a_malformed_traceparent_counts_as_absent() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(trace_of(bad), None, "{bad:?}");
        }
    }
}
