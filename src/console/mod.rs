//! The officer console at `/console`: pages that the server renders, for persons with a browser. Everything works without
//! JavaScript.
//!
//! A page is a template (`templates/NAME.html`, which extends `layout.html` and fills the blocks `title` and `main`), a struct
//! that holds what it shows and the officer who looks at it, a handler that takes an [`Officer`] and answers with
//! [`page`](page::page), and a row in the table below. What changes something is a POST: its handler takes a
//! [`Signed`] form, whose template holds `{{ officer.hidden()|safe }}`, and ends in [`Signed::call`]. A handler's error is a
//! [`Fault`], which is a page too; every error of a flow becomes one by `?`.

mod access;
mod asked;
mod assets;
mod audit;
mod door;
mod home;
mod keys;
mod page;
mod requests;
mod retention;
mod session;
mod sign_in;
mod subjects;
mod usage;
mod words;

use actix_web::{
    middleware::from_fn,
    web::{self, ServiceConfig},
};

pub use self::{
    page::{Fault, moment, page, see},
    session::{NoFields, Officer, Signed},
};

/// The pages that the navigation leads to, and what they are called there.
pub const NAVIGATION: &[(&str, &str)] = &[
    ("/console", "Overview"),
    ("/console/requests", "Erasure"),
    ("/console/access", "Access"),
    ("/console/subjects", "Persons"),
    ("/console/audit", "Audit log"),
    ("/console/retention", "Retention"),
    ("/console/usage", "Usage"),
    ("/console/keys", "Keys"),
];

/// Every address, as a stranger's list of what to try.
pub const PATHS: &[&str] = &[
    "",
    "/sign-in",
    "/sign-out",
    "/password",
    "/requests",
    "/requests/new",
    "/requests/{id}",
    "/requests/{id}/certificate",
    "/requests/{id}/{step}",
    "/access",
    "/access/new",
    "/access/{id}",
    "/access/{id}/answer",
    "/access/{id}/reject",
    "/access/{id}/cancel",
    "/access/{id}/package",
    "/subjects",
    "/subjects/{id}",
    "/subjects/{id}/restriction",
    "/subjects/{id}/consents/{consent}/receipt",
    "/subjects/{id}/consents/{consent}/withdraw",
    "/audit",
    "/audit/check",
    "/audit/export",
    "/retention",
    "/usage",
    "/keys",
    "/assets/console.css",
];

pub fn configure(config: &mut ServiceConfig) {
    // For everybody, and no page of the console.
    let policy = web::resource("/policies/retention").wrap(from_fn(door::around));
    config.service(policy.route(web::get().to(retention::policy)));
    config.service(
        web::scope("/console")
            .wrap(from_fn(door::around))
            .route("", web::get().to(home::show))
            .route("/sign-in", web::get().to(sign_in::show))
            .route("/sign-in", web::post().to(sign_in::sign_in))
            .route("/sign-out", web::post().to(sign_in::sign_out))
            .route("/password", web::get().to(sign_in::show_password))
            .route("/password", web::post().to(sign_in::change_password))
            .route("/requests", web::get().to(requests::list))
            .route("/requests", web::post().to(requests::open))
            .route("/requests/new", web::get().to(requests::show_new))
            .route("/requests/{id}", web::get().to(requests::show))
            .route("/requests/{id}/certificate", web::get().to(requests::certificate))
            .route("/requests/{id}/{step}", web::get().to(requests::show_step))
            .route("/requests/{id}/{step}", web::post().to(requests::take_step))
            .route("/access", web::get().to(access::list))
            .route("/access", web::post().to(access::open))
            .route("/access/new", web::get().to(access::show_new))
            .route("/access/{id}", web::get().to(access::show))
            .route("/access/{id}/answer", web::post().to(access::answer))
            .route("/access/{id}/reject", web::post().to(access::reject))
            .route("/access/{id}/cancel", web::post().to(access::cancel))
            .route("/access/{id}/package", web::post().to(access::package))
            .route("/subjects", web::get().to(subjects::show_find))
            .route("/subjects", web::post().to(subjects::look_up))
            .route("/subjects/{id}", web::get().to(subjects::show))
            .route("/subjects/{id}/restriction", web::get().to(subjects::show_restrict))
            .route("/subjects/{id}/restriction", web::post().to(subjects::restrict))
            .route("/subjects/{id}/consents/{consent}/receipt", web::get().to(subjects::receipt))
            .route("/subjects/{id}/consents/{consent}/withdraw", web::get().to(subjects::show_withdraw))
            .route("/subjects/{id}/consents/{consent}/withdraw", web::post().to(subjects::withdraw))
            .route("/audit", web::get().to(audit::show))
            .route("/audit/check", web::post().to(audit::check))
            .route("/audit/export", web::get().to(audit::export))
            .route("/retention", web::get().to(retention::show))
            .route("/usage", web::get().to(usage::show))
            .route("/keys", web::get().to(keys::show))
            .route("/assets/{name}", web::get().to(assets::show))
            .default_service(web::to(|| async { Err::<&str, _>(Fault::not_found()) })),
    );
}
