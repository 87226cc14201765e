//! What pages refer to: in the program itself, so that pages and style cannot be of different versions.

use actix_web::{HttpResponse, http::header, web::Path};

use super::Fault;

const ASSETS: &[(&str, &str, &str)] = &[("console.css", "text/css; charset=utf-8", include_str!("assets/console.css"))];

pub async fn show(name: Path<String>) -> Result<HttpResponse, Fault> {
    let found = ASSETS.iter().find(|(asset, ..)| *asset == name.as_str());
    let (_, kind, content) = found.ok_or_else(Fault::not_found)?;
    // Nothing about anybody: a browser may keep it for a while.
    let kept = (header::CACHE_CONTROL, "private, max-age=300");
    Ok(HttpResponse::Ok().content_type(*kind).insert_header(kept).body(*content))
}
