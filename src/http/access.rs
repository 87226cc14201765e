//! The door of every route: how often somebody may knock, who it is, and what they may do. What comes through is a caller
//! that the handlers need not look at again.

use std::{
    cell::RefCell,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::Data,
};
use futures_util::try_join;
use tokio::time::timeout;

use super::{
    extract::flows,
    handlers::oauth::OAuthError,
    idempotency::{self, REPLAYED},
    problem::Problem,
};
use crate::{
    auth::{Caller, Identity, Scope},
    cache::{Policy, Rate, Rates, Verdict},
    domain::{
        id::TenantId,
        network::{AddressHash, ClientAddress},
        usage::Operation,
    },
    flows::{
        FlowError, Flows, api_keys,
        tokens::{self, Presented},
        usage::{self, Charge},
    },
    measure::{self, Limit},
};

/// Who may call a resource; stands beside its path in the route table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody, as often as they like: probes, which tell nobody anything.
    Probe,
    /// Anybody.
    Open,
    /// Any valid token.
    AnyToken,
    /// A token with this scope.
    Needs(Scope),
}

/// How long an answer waits for what it cost to be given back.
const REFUND_AWAITED: Duration = Duration::from_millis(500);

/// A refused credential counts as so many requests, also beyond the rate: whoever guesses at them is slowed down first.
const REFUSED_COST: u32 = 20;

/// Around each resource. `allow`: the methods that it answers to.
pub async fn guard<B: MessageBody + 'static>(
    access: Access,
    allow: &'static str,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let seen = Seen::default();
    let admitted = admit(access, allow, request.request(), &seen).await;
    let rates = request.app_data::<Data<Flows>>().map(|flows| flows.cache().rates());
    let mut response = match admitted {
        Ok(()) => next.call(request).await?.map_into_left_body(),
        // There RFC 6749 says what an error looks like.
        Err(problem) if request.path().starts_with("/oauth/") => {
            request.error_response(OAuthError::of_problem(&problem)).map_into_right_body()
        }
        Err(problem) => request.error_response(problem).map_into_right_body(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        credential_refused(response.request()).await;
    }
    if let Some(rates) = rates.filter(|_| access != Access::Probe) {
        seen.write(rates, response.headers_mut());
    }
    Ok(response)
}

async fn admit(access: Access, allow: &str, request: &HttpRequest, seen: &Seen) -> Result<(), Problem> {
    if access == Access::Probe {
        return Ok(());
    }
    let flows = flows(request)?;
    // Another method is refused by the resource itself, whoever asks.
    let answers = allow.split(", ").any(|method| method == request.method().as_str());
    if access == Access::Open || !answers {
        return address_within_rate(request, seen).await;
    }
    let caller = identify(flows, request, seen).await?;
    if let Access::Needs(scope) = access
        && !caller.may(scope)
    {
        return Err(Problem {
            challenge: Some(r#"Bearer error="insufficient_scope""#),
            ..Problem::new(StatusCode::FORBIDDEN, "scope_missing", format!("The credential lacks the scope `{scope}`."))
        });
    }
    if let Some(operation) = metered(request) {
        charge(flows, request, caller.tenant, operation).await?;
    }
    request.extensions_mut().insert(caller);
    Ok(())
}

/// Counts a call against its tenant's day. Where none is left, an answer that was given before is still given again: who sends
/// a key is refused only when there is none.
async fn charge(flows: &Flows, request: &HttpRequest, tenant: TenantId, operation: Operation) -> Result<(), Problem> {
    match usage::charge(flows, tenant, operation).await {
        Ok(charge) => {
            if let Some(open) = request.extensions().get::<OpenCharge>() {
                open.put(charge);
            }
        }
        Err(FlowError::QuotaSpent(spent)) if request.headers().contains_key(idempotency::KEY) => {
            request.extensions_mut().insert(spent);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Who calls. Whether the address may knock so often comes first, whatever it brings.
async fn identify(flows: &Flows, request: &HttpRequest, seen: &Seen) -> Result<Caller, Problem> {
    let within_client_rate = async |identity: Identity| {
        let identity = identity.to_string();
        within_rate(flows, Policy::Client, &identity, seen).await
    };
    match bearer_token(request).and_then(|bearer| Ok(tokens::read(flows, bearer)?)) {
        // What Redis is asked about a token travels with what it is asked about the address: they wait once.
        Ok(Presented::Token(token)) => {
            let identity = Identity::Client(token.principal.client);
            let confirm = async { Ok(tokens::confirm(flows, token).await?) };
            let ((), caller, ()) =
                try_join!(address_within_rate(request, seen), confirm, within_client_rate(identity))?;
            Ok(caller)
        }
        // The database is not asked for whom is beyond the rate.
        Ok(Presented::ApiKey(key)) => {
            address_within_rate(request, seen).await?;
            let address = request.extensions().get::<ClientAddress>().copied();
            let caller = api_keys::authenticate(flows, key, address).await?;
            within_client_rate(caller.identity).await?;
            Ok(caller)
        }
        Err(problem) => {
            address_within_rate(request, seen).await?;
            Err(problem)
        }
    }
}

async fn address_within_rate(request: &HttpRequest, seen: &Seen) -> Result<(), Problem> {
    within_rate(flows(request)?, Policy::Address, &address(request), seen).await
}

/// For doors that are not in the route table: whether an address may knock so often, or why not.
pub async fn knock(request: &HttpRequest) -> Result<(), Problem> {
    address_within_rate(request, &Seen::default()).await
}

/// Around them.
pub async fn counted<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    match knock(request.request()).await {
        Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
        Err(problem) => Ok(request.error_response(problem).map_into_right_body()),
    }
}

/// Counts what a refused credential costs its sender.
pub async fn credential_refused(request: &HttpRequest) {
    if let Ok(flows) = flows(request) {
        flows.cache().owe(&address(request), REFUSED_COST - 1).await;
    }
}

async fn within_rate(flows: &Flows, policy: Policy, key: &str, seen: &Seen) -> Result<(), Problem> {
    let verdict = flows.cache().take(policy, key, 1).await;
    seen.note(policy, verdict);
    if verdict.allowed {
        return Ok(());
    }
    measure::limit_reached(match policy {
        Policy::Client => Limit::Client,
        Policy::Address => Limit::Address,
    });
    let rate = flows.cache().rates().of(policy).requests();
    let detail = format!("More than {rate} requests a minute by this {}.", policy.as_str());
    Err(Problem {
        retry_after_s: Some(verdict.retry_after.as_secs() + 1),
        ..Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
    })
}

/// RFC 6750, section 2.1. Exactly one `Authorization` header: two would leave open which one counts.
fn bearer_token(request: &HttpRequest) -> Result<&str, Problem> {
    let missing = || Problem {
        // Without an error code, for nothing was tried; RFC 6750, section 3, wants an attribute all the same.
        challenge: Some(r#"Bearer realm="velum""#),
        ..Problem::new(
            StatusCode::UNAUTHORIZED,
            "token_missing",
            "Send an access token or an API key: `Authorization: Bearer …`.",
        )
    };
    let mut given = request.headers().get_all(header::AUTHORIZATION);
    let (Some(value), None) = (given.next(), given.next()) else { return Err(missing()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

/// The caller that the guard found. A handler that asks for one on an open route is our mistake: closed, not open.
pub fn caller(request: &HttpRequest) -> Result<Caller, Problem> {
    request.extensions().get::<Caller>().cloned().ok_or_else(Problem::internal)
}

/// Of the address its hash: what is counted by it may be stored.
fn address(request: &HttpRequest) -> String {
    request.extensions().get::<AddressHash>().map_or_else(|| "unknown".to_owned(), AddressHash::to_string)
}

/// What counts against a tenant's day: the two calls that work on a face.
fn metered(request: &HttpRequest) -> Option<Operation> {
    if request.method() != actix_web::http::Method::POST {
        return None;
    }
    match request.match_pattern()?.rsplit('/').next()? {
        "enrolments" => Some(Operation::Enrolment),
        "verifications" => Some(Operation::Verification),
        _ => None,
    }
}

/// What was charged for a request that is not answered yet. Held outside of the request, which a time-out drops.
#[derive(Clone, Default)]
pub struct OpenCharge(Arc<Mutex<Option<Charge>>>);

impl OpenCharge {
    fn put(&self, charge: Charge) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(charge);
    }

    /// Gives back what was charged where nothing was done: our failure, a conflict, an answer that was given before. The answer
    /// waits for it, and with the answer a stop; where the database is away not for long, nor is it given up for a caller who left.
    pub async fn settle(&self, flows: Data<Flows>, status: StatusCode, headers: Option<&HeaderMap>) {
        let charge = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let replayed = headers.is_some_and(|headers| headers.contains_key(REPLAYED));
        if let Some(charge) = charge
            && (status.is_server_error() || status == StatusCode::CONFLICT || replayed)
        {
            let refund = actix_web::rt::spawn(async move { usage::refund(&flows, charge).await });
            let _later = timeout(REFUND_AWAITED, refund).await;
        }
    }
}

/// How the request stands with each policy that it was counted under.
#[derive(Default)]
struct Seen(RefCell<Vec<(Policy, Verdict)>>);

impl Seen {
    fn note(&self, policy: Policy, verdict: Verdict) {
        self.0.borrow_mut().push((policy, verdict));
    }

    /// `RateLimit-Policy` and `RateLimit`, as the httpapi working group drafts them.
    fn write(&self, rates: Rates, headers: &mut HeaderMap) {
        let (mut policies, mut limits) = (String::new(), String::new());
        for (position, (policy, verdict)) in self.0.borrow().iter().enumerate() {
            let (comma, name) = (if position == 0 { "" } else { ", " }, policy.as_str());
            let (quota, window) = (rates.of(*policy).requests(), Rate::WINDOW.as_secs());
            let _infallible = write!(policies, r#"{comma}"{name}";q={quota};w={window}"#);
            let (remaining, reset) = (verdict.remaining, verdict.reset.as_secs() + 1);
            let _infallible = write!(limits, r#"{comma}"{name}";r={remaining};t={reset}"#);
        }
        for (name, value) in [("ratelimit-policy", policies), ("ratelimit", limits)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}
