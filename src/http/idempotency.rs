//! The `Idempotency-Key` of a call, and answers that can be given a second time.

use std::{
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use serde::Serialize;

use super::{
    Limits,
    access::caller,
    problem::{FieldProblem, Problem},
};
use crate::{
    audit::Actor,
    domain::id::{RequestId, TenantId},
    flows::{
        once::{Answer, Call, Keep, KeyedCall},
        usage::QuotaSpent,
    },
};

pub const KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const KEY_CHARACTERS_MAX: usize = 255;
/// Beyond the time that any request has: who holds a claim that long is gone.
const GRACE: Duration = Duration::from_secs(5);

/// What a handler of a call that changes something is given.
pub struct Once {
    tenant: TenantId,
    actor: Actor,
    key: Option<KeyedCall>,
    /// Nothing is left of the tenant's day.
    quota_spent: Option<QuotaSpent>,
}

impl FromRequest for Once {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(once(request))
    }
}

fn once(request: &HttpRequest) -> Result<Once, Problem> {
    let caller = caller(request)?;
    let request_id = request.extensions().get::<RequestId>().map(RequestId::to_string);
    let actor = Actor { name: caller.identity.to_string(), request: request_id };
    let key = key(request)?.map(|key| keyed_call(request, key)).transpose()?;
    let quota_spent = request.extensions().get::<QuotaSpent>().copied();
    Ok(Once { tenant: caller.tenant, actor, key, quota_spent })
}

/// The call that a request is, under a key by which it is known again.
pub fn keyed_call(request: &HttpRequest, key: String) -> Result<KeyedCall, Problem> {
    let route = request.match_pattern().unwrap_or_default();
    let time_max = request.app_data::<Limits>().map_or(Limits::REQUEST_TIMEOUT, |limits| limits.request_timeout);
    Ok(KeyedCall {
        operation: format!("{} {route}", request.method()),
        key,
        asked: vec![request.uri().to_string().into_bytes()],
        time_max: (time_max + GRACE).try_into().map_err(|_| Problem::internal())?,
    })
}

/// Taken as it stands, or between the quotation marks of a structured field (RFC 9651, section 3.3.3).
fn key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let invalid = || {
        let detail = "is given once, with 1 to 255 visible ASCII characters".to_owned();
        let field = FieldProblem { pointer: "/Idempotency-Key".to_owned(), code: "invalid".to_owned(), detail };
        Problem { status: StatusCode::BAD_REQUEST, code: "idempotency_key_invalid", ..Problem::invalid(field) }
    };
    let mut given = request.headers().get_all(KEY);
    let value = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().map_err(|_| invalid())?.trim(),
        _ => return Err(invalid()),
    };
    let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let good = (1..=KEY_CHARACTERS_MAX).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(Some(bare.to_owned())) } else { Err(invalid()) }
}

impl Once {
    /// `asked`: the digest of the body, where a body says what is asked.
    pub fn asking(mut self, asked: Vec<u8>) -> Self {
        if let Some(call) = &mut self.key {
            call.asked.push(asked);
        }
        self
    }

    pub fn call<T>(self, answer: impl Fn(&T) -> Answer + Send + Sync + 'static) -> Call<T> {
        let Self { tenant, actor, key, quota_spent } = self;
        Call { tenant, actor, key, quota_spent, keep: Keep::Whole, answer: Arc::new(answer) }
    }

    /// For an answer that holds a secret, which is shown once.
    pub fn call_with_secret<T>(self, answer: impl Fn(&T) -> Answer + Send + Sync + 'static) -> Call<T> {
        Call { keep: Keep::WithoutBody, ..self.call(answer) }
    }
}

pub fn created(location: Option<String>, body: impl Serialize) -> Answer {
    answer(StatusCode::CREATED, location, &body)
}

pub fn ok(body: impl Serialize) -> Answer {
    answer(StatusCode::OK, None, &body)
}

pub fn no_content(_: &()) -> Answer {
    Answer { status: StatusCode::NO_CONTENT.as_u16(), location: None, body: vec![], replayed: false }
}

fn answer(status: StatusCode, location: Option<String>, body: &impl Serialize) -> Answer {
    // Our own shapes always serialise.
    let body = serde_json::to_vec(body).unwrap_or_default();
    Answer { status: status.as_u16(), location, body, replayed: false }
}

/// The answer on its way out.
pub fn respond(answer: Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    if let Some(location) = answer.location {
        response.insert_header((header::LOCATION, location));
    }
    if answer.replayed {
        response.insert_header((REPLAYED, HeaderValue::from_static("true")));
    }
    if answer.body.is_empty() { response.finish() } else { response.content_type("application/json").body(answer.body) }
}
