//! Where an officer begins.

use actix_web::HttpResponse;
use askama::Template;

use super::{Fault, Officer, page};

#[derive(Template)]
#[template(path = "home.html")]
struct Home<'a> {
    officer: &'a Officer,
}

pub async fn show(officer: Officer) -> Result<HttpResponse, Fault> {
    page(&officer, Home { officer: &officer })
}
