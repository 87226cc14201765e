//! Who is signed in, and what a form must bring to be taken.

use std::{pin::Pin, sync::Arc};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite},
    dev::Payload,
    http::{StatusCode, Uri, header},
    web::Query,
};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{Fault, moment};
use crate::{
    audit::Actor,
    auth::session_token::{CsrfToken, SessionToken},
    domain::id::{FormId, OfficerId, RequestId, TenantId},
    flows::{
        officers::{self, SignedIn},
        once::{Answer, Call, Keep, KeyedCall},
    },
    http::{
        extract::{announced_bytes, flows, media_type, small_body},
        idempotency::keyed_call,
        problem::Problem,
    },
};

pub const SIGN_IN: &str = "/console/sign-in";
pub const PASSWORD: &str = "/console/password";
/// Browsers take a cookie of this prefix only over TLS, for the whole of this host and for no other.
const COOKIE: &str = "__Host-velum-session";
/// Longer than any text that we ask for.
const FORM_BYTES_MAX: usize = 32 * 1024;

/// Whoever looks at a page.
#[derive(Clone)]
pub struct Officer {
    pub id: OfficerId,
    pub name: String,
    pub tenant: TenantId,
    pub csrf: CsrfToken,
    signed_in: SignedIn,
    request: Option<String>,
    path: String,
}

impl Officer {
    /// As whom the officer acts.
    pub fn actor(&self) -> Actor {
        Actor { name: self.id.to_string(), request: self.request.clone() }
    }

    pub fn signed_in(&self) -> &SignedIn {
        &self.signed_in
    }

    /// When the session began.
    pub fn since(&self) -> String {
        moment(self.signed_in.since)
    }

    /// For the navigation: whether this page, or one below it, is looked at.
    pub fn is_at(&self, path: &str) -> bool {
        let below = || self.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        self.path == path || (path != "/console" && below())
    }

    /// What stands in every form: that it is of this session, and that it is this one form, which has one effect however
    /// often it is sent. Nothing in it needs escaping.
    pub fn hidden(&self) -> String {
        let form = FormId::generate();
        format!(
            r#"<input type="hidden" name="csrf" value="{}"><input type="hidden" name="form" value="{form}">"#,
            self.csrf
        )
    }
}

impl FromRequest for Officer {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Fault>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let officer = anybody_signed_in(&request).await?;
            if officer.signed_in.must_change_password { Err(Fault::Elsewhere(PASSWORD)) } else { Ok(officer) }
        })
    }
}

/// An officer, with a password of his own or not yet.
pub struct Newcomer(pub Officer);

impl FromRequest for Newcomer {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Fault>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { anybody_signed_in(&request).await.map(Self) })
    }
}

async fn anybody_signed_in(request: &HttpRequest) -> Result<Officer, Fault> {
    let flows = flows(request)?;
    let nobody = Fault::Elsewhere(SIGN_IN);
    let Some(token) = token(request) else { return Err(nobody) };
    let Some(signed_in) = officers::signed_in(flows, &token).await? else { return Err(nobody) };
    Ok(Officer {
        id: signed_in.officer,
        name: signed_in.name.clone(),
        tenant: signed_in.tenant,
        csrf: signed_in.csrf.clone(),
        request: request_id(request),
        path: request.path().to_owned(),
        signed_in,
    })
}

pub fn request_id(request: &HttpRequest) -> Option<String> {
    request.extensions().get::<RequestId>().map(RequestId::to_string)
}

/// What the cookie holds.
pub fn token(request: &HttpRequest) -> Option<SessionToken> {
    SessionToken::parse(request.cookie(COOKIE)?.value())
}

pub fn set_cookie(response: &mut HttpResponse, token: &SessionToken) -> Result<(), Fault> {
    let cookie = cookie(token.expose_text().to_string()).finish();
    response.add_cookie(&cookie).map_err(|_| Problem::internal().into())
}

pub fn clear_cookie(response: &mut HttpResponse) -> Result<(), Fault> {
    let mut cookie = cookie(String::new()).finish();
    cookie.make_removal();
    response.add_cookie(&cookie).map_err(|_| Problem::internal().into())
}

/// No script reads it, no other site sends it, and it ends with the browser.
fn cookie(value: String) -> actix_web::cookie::CookieBuilder<'static> {
    Cookie::build(COOKIE, value).path("/").secure(true).http_only(true).same_site(SameSite::Strict)
}

/// A form that was shown by us, to this officer, in this session.
pub struct Signed<T, O = Officer> {
    pub officer: O,
    pub form: T,
    call: KeyedCall,
}

impl<T> Signed<T> {
    /// The call that the form asks for: the same form sent twice has one effect, and is led to the same place.
    pub fn call<R>(self, then: impl Fn(&R) -> String + Send + Sync + 'static) -> Call<R> {
        let answer = move |outcome: &R| Answer {
            status: StatusCode::SEE_OTHER.as_u16(),
            location: Some(then(outcome)),
            body: vec![],
            replayed: false,
        };
        let (tenant, actor) = (self.officer.tenant, self.officer.actor());
        let key = Some(self.call);
        Call { tenant, actor, key, quota_spent: None, keep: Keep::Whole, answer: Arc::new(answer) }
    }
}

/// Of every form.
#[derive(Deserialize)]
struct Hidden {
    csrf: String,
    form: String,
}

/// Such as [`Officer`].
pub trait Holder: FromRequest<Error = Fault> {
    fn officer(&self) -> &Officer;
}

impl Holder for Officer {
    fn officer(&self) -> &Officer {
        self
    }
}

impl Holder for Newcomer {
    fn officer(&self) -> &Officer {
        &self.0
    }
}

impl<T: DeserializeOwned, O: Holder> FromRequest for Signed<T, O> {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Fault>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            from_our_own_page(&request)?;
            let holder = O::from_request(&request, &mut Payload::None).await?;
            let body = body(&request, payload).await?;
            let hidden: Hidden = parsed(&body).map_err(|_| forged())?;
            let form = hidden.form.parse::<FormId>().map_err(|_| forged())?;
            if !holder.officer().csrf.is(&hidden.csrf) {
                return Err(forged());
            }
            let mut call = keyed_call(&request, form.to_string())?;
            call.asked.push(Sha256::digest(&body).to_vec());
            Ok(Self { form: parsed(&body)?, officer: holder, call })
        })
    }
}

/// Of a form that asks for nothing but to be sent.
#[derive(Deserialize)]
pub struct NoFields {}

/// A form that anybody may send from our own page: the sign-in.
pub struct OwnForm<T>(pub T);

impl<T: DeserializeOwned> FromRequest for OwnForm<T> {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Fault>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            from_our_own_page(&request)?;
            Ok(Self(parsed(&body(&request, payload).await?)?))
        })
    }
}

/// Browsers say where a form comes from: all since 2023 by `Sec-Fetch-Site`, older ones by `Origin`.
fn from_our_own_page(request: &HttpRequest) -> Result<(), Fault> {
    let said = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let ours = match (said("sec-fetch-site"), said("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => is_of_this_host(request, origin),
        (None, None) => false,
    };
    if ours { Ok(()) } else { Err(forged()) }
}

fn is_of_this_host(request: &HttpRequest, origin: &str) -> bool {
    let origin: Option<Uri> = origin.parse().ok();
    let authority = origin.as_ref().and_then(Uri::authority).map(|authority| authority.as_str());
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    authority.is_some() && authority == host
}

fn forged() -> Fault {
    let detail =
        "This form does not come from a page of your present session. Go back, load the page again, and send it anew.";
    Problem::new(StatusCode::FORBIDDEN, "form_forged", detail).into()
}

async fn body(request: &HttpRequest, payload: Payload) -> Result<Vec<u8>, Fault> {
    if media_type(request).as_deref() != Some("application/x-www-form-urlencoded") {
        return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).into());
    }
    Ok(small_body(payload, announced_bytes(request), FORM_BYTES_MAX).await?)
}

/// Urlencoded, which is what a query is too.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let malformed = || Fault::from(Problem::of_status(StatusCode::BAD_REQUEST));
    let text = std::str::from_utf8(body).map_err(|_| malformed())?;
    Query::<T>::from_query(text).map(Query::into_inner).map_err(|_| malformed())
}
