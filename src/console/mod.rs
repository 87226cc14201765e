//! The officer console at `/console`: pages that the server renders, for persons with a browser. Everything works without
//! JavaScript.
//!
//! A page is a template (`templates/NAME.html`, which extends `layout.html` and fills the blocks `title` and `main`), a struct
//! that holds what it shows and the officer who looks at it, a handler that takes an [`Officer`] and answers with
//! [`page`](page::page), and a row in the table below. What changes something is a POST: its handler takes a
//! [`Signed`] form, whose template holds `{{ officer.hidden()|safe }}`, and ends in [`Signed::call`]. A handler's error is a
//! [`Fault`], which is a page too; every error of a flow becomes one by `?`.

mod assets;
mod door;
mod home;
mod page;
mod session;
mod sign_in;

use actix_web::{
    middleware::from_fn,
    web::{self, ServiceConfig},
};

pub use self::{
    page::{Fault, moment, page, see},
    session::{NoFields, Officer, Signed},
};

/// The pages that the navigation leads to, and what they are called there.
pub const NAVIGATION: &[(&str, &str)] = &[("/console", "Overview")];

/// Every address, as a stranger's list of what to try.
pub const PATHS: &[&str] = &["", "/sign-in", "/sign-out", "/password", "/assets/console.css"];

pub fn configure(config: &mut ServiceConfig) {
    config.service(
        web::scope("/console")
            .wrap(from_fn(door::around))
            .route("", web::get().to(home::show))
            .route("/sign-in", web::get().to(sign_in::show))
            .route("/sign-in", web::post().to(sign_in::sign_in))
            .route("/sign-out", web::post().to(sign_in::sign_out))
            .route("/password", web::get().to(sign_in::show_password))
            .route("/password", web::post().to(sign_in::change_password))
            .route("/assets/{name}", web::get().to(assets::show))
            .default_service(web::to(|| async { Err::<&str, _>(Fault::not_found()) })),
    );
}
