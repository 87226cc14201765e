//! HTTP: one table of routes, and the layers around them.

pub mod access;
pub mod address;
pub mod cors;
pub mod extract;
mod handlers;
pub mod idempotency;
pub mod listener;
pub mod metrics;
pub mod middleware;
pub mod openapi;
mod paced;
pub mod problem;
pub mod proxy_protocol;
mod unread;
pub mod upload;
pub mod wire;

use std::time::Duration;

use actix_web::{
    HttpRequest, Resource,
    middleware::from_fn,
    web::{self, ServiceConfig},
};

pub use self::handlers::audit::exported as exported_audit;
use self::{
    access::Access::{self, AnyToken, Needs, Open, Probe},
    handlers::{
        access_requests, account, api_keys, audit, consents, docs, enrolments, erasures, evidence, health, models,
        notices, oauth, opendsr, policies, restriction, subjects, verifications,
    },
    problem::Problem,
};
use crate::auth::Scope;

/// What one request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the head to the answer.
    pub request_timeout: Duration,
}

impl Limits {
    /// Where nothing was said.
    const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
}

/// A row of the route table, as far as it can be compared with the OpenAPI document.
pub struct Row {
    pub path: &'static str,
    pub access: Access,
    /// In the form of an `Allow` header.
    pub methods: &'static str,
}

/// Makes, from one table, the rows, the resources of the server and the answer to every other method.
macro_rules! routes {
    ($($path:literal $access:expr, $($method:ident $handler:path)|+;)+) => {
        pub const ROUTES: &[Row] = &[$(Row { path: $path, access: $access, methods: routes!(@allow $($method)+) }),+];

        fn configure_table(config: &mut ServiceConfig) {
            $(config.service(
                resource($path, routes!(@allow $($method)+))
                    $(.route(routes!(@method $method).to($handler)))+
                    .wrap(from_fn(|request, next| access::guard($access, routes!(@allow $($method)+), request, next)))
            );)+
        }
    };
    (@allow $first:ident $($rest:ident)*) => {
        concat!(routes!(@named $first) $(, ", ", routes!(@named $rest))*)
    };
    (@named GET) => { "GET, HEAD" };
    (@named $other:ident) => { stringify!($other) };
    (@method GET) => { web::get() };
    (@method POST) => { web::post() };
    (@method PATCH) => { web::patch() };
    (@method DELETE) => { web::delete() };
}

#[rustfmt::skip]
routes! {
    "/oauth/token"                              Open,                       POST oauth::token;
    "/oauth/revoke"                             Open,                       POST oauth::revoke;
    "/oauth/introspect"                         Open,                       POST oauth::introspect;
    "/.well-known/jwks.json"                    Open,                       GET oauth::jwks;
    "/.well-known/oauth-authorization-server"   Open,                       GET oauth::metadata;
    "/.well-known/evidence-jwks.json"           Open,                       GET evidence::jwks;

    "/v1/subjects"                              Needs(Scope::Subjects),     POST subjects::create | GET subjects::list;
    "/v1/subjects/{subject}"                    Needs(Scope::Subjects),     GET subjects::show | PATCH subjects::rectify | DELETE subjects::erase;
    "/v1/subjects/{subject}/restriction"        Needs(Scope::DataSubjectRequests),
                                                                            POST restriction::restrict | DELETE restriction::lift;
    "/v1/subjects/{subject}/consents"           Needs(Scope::Consents),     POST consents::grant | GET consents::list;
    "/v1/subjects/{subject}/consents/{consent}/receipt"
                                                Needs(Scope::Consents),     GET consents::receipt;
    "/v1/subjects/{subject}/consents/{consent}/withdraw"
                                                Needs(Scope::Consents),     POST consents::withdraw;
    "/v1/subjects/{subject}/enrolments"         Needs(Scope::FacesEnrol),   POST enrolments::create | GET enrolments::list;
    "/v1/subjects/{subject}/enrolments/{enrolment}"
                                                Needs(Scope::FacesEnrol),   DELETE enrolments::delete;
    "/v1/subjects/{subject}/verifications"      Needs(Scope::FacesVerify),  POST verifications::create | GET verifications::list;
    "/v1/notices"                               Needs(Scope::Consents),     POST notices::publish | GET notices::list;
    "/v1/notices/{notice}"                      Needs(Scope::Consents),     GET notices::show;
    "/v1/api-keys"                              Needs(Scope::Admin),        POST api_keys::create | GET api_keys::list;
    "/v1/api-keys/{key}"                        Needs(Scope::Admin),        DELETE api_keys::revoke;
    "/v1/api-keys/{key}/roll"                   Needs(Scope::Admin),        POST api_keys::roll;
    "/v1/erasure-requests"                      Needs(Scope::DataSubjectRequests),
                                                                            POST erasures::create | GET erasures::list;
    "/v1/erasure-requests/{erasure}"            Needs(Scope::DataSubjectRequests),  GET erasures::show;
    "/v1/erasure-requests/{erasure}/certificate"
                                                Needs(Scope::DataSubjectRequests),  GET erasures::certificate;
    "/v1/erasure-requests/{erasure}/verify"     Needs(Scope::DataSubjectRequests),  POST erasures::verify;
    "/v1/erasure-requests/{erasure}/reject"     Needs(Scope::DataSubjectRequests),  POST erasures::reject;
    "/v1/erasure-requests/{erasure}/hold"       Needs(Scope::DataSubjectRequests),  POST erasures::hold;
    "/v1/erasure-requests/{erasure}/release"    Needs(Scope::DataSubjectRequests),  POST erasures::release;
    "/v1/erasure-requests/{erasure}/cancel"     Needs(Scope::DataSubjectRequests),  POST erasures::cancel;
    "/v1/access-requests"                       Needs(Scope::DataSubjectRequests),
                                                                            POST access_requests::create | GET access_requests::list;
    "/v1/access-requests/{access}"              Needs(Scope::DataSubjectRequests),  GET access_requests::show;
    "/v1/access-requests/{access}/package"      Needs(Scope::DataSubjectRequests),  GET access_requests::package;
    "/v1/access-requests/{access}/verify"       Needs(Scope::DataSubjectRequests),  POST access_requests::verify;
    "/v1/access-requests/{access}/reject"       Needs(Scope::DataSubjectRequests),  POST access_requests::reject;
    "/v1/access-requests/{access}/cancel"       Needs(Scope::DataSubjectRequests),  POST access_requests::cancel;
    "/v1/packages/{token}"                      Open,                       GET access_requests::follow;
    "/opendsr/v1/requests"                      Needs(Scope::DataSubjectRequests),  POST opendsr::submit;
    "/opendsr/v1/requests/{request}"            Needs(Scope::DataSubjectRequests),
                                                                            GET opendsr::show | DELETE opendsr::cancel;
    "/opendsr/v1/discovery"                     Open,                       GET opendsr::discovery;
    "/opendsr/v1/certificate.pem"               Open,                       GET opendsr::certificate;
    "/v1/audit-events"                          Needs(Scope::AuditRead),    GET audit::list;
    "/v1/audit/checkpoints"                     Needs(Scope::AuditRead),    GET audit::checkpoints;
    "/v1/audit/export"                          Needs(Scope::AuditRead),    GET audit::export;
    "/v1/models"                                AnyToken,                   GET models::list;
    "/v1/policies/retention"                    Open,                       GET policies::retention;
    "/v1/me"                                    AnyToken,                   GET account::me;
    "/v1/usage"                                 AnyToken,                   GET account::usage;
    "/v1/history"                               AnyToken,                   GET account::history;
    "/v1/stats"                                 AnyToken,                   GET account::stats;

    "/livez"                                    Probe,                      GET health::live;
    "/readyz"                                   Probe,                      GET health::ready;
    "/startupz"                                 Probe,                      GET health::started;
    "/health"                                   Probe,                      GET health::summary;
    "/openapi.json"                             Open,                       GET docs::document;
    "/docs"                                     Open,                       GET docs::redirect;
}

/// The scopes that open something.
pub fn scopes_in_use() -> impl Iterator<Item = Scope> {
    let needed = |scope: &Scope| ROUTES.iter().any(|row| row.access == Needs(*scope));
    Scope::ALL.into_iter().filter(needed)
}

/// Everything that answers. A route that is not in the table does not exist.
pub fn configure(config: &mut ServiceConfig) {
    configure_table(config);
    // What is not in the table opens nothing, but is counted like everything else.
    config.service(web::scope("/docs").wrap(from_fn(access::counted)).service(docs::page()));
    config.default_service(web::to(|request: HttpRequest| async move {
        access::knock(&request).await?;
        Err::<&str, Problem>(Problem::not_found())
    }));
}

fn resource(path: &str, allow: &'static str) -> Resource {
    let refused = web::to(move |_: HttpRequest| async move { Err::<&str, _>(Problem::method_not_allowed(allow)) });
    web::resource(path).default_service(refused)
}
