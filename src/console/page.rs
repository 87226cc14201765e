//! Pages on their way out, and errors, which are pages as well.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    body::BoxBody,
    http::{StatusCode, header},
};
use askama::Template;
use time::{OffsetDateTime, UtcOffset, format_description::StaticFormatDescription, macros::format_description};

use super::Officer;
use crate::{
    flows::{FlowError, once::Answer},
    http::problem::Problem,
};

/// A page for somebody who is signed in. There is no other way to show one, but for the few that a stranger sees.
pub fn page(_: &Officer, template: impl Template) -> Result<HttpResponse, Fault> {
    open_page(StatusCode::OK, template)
}

/// A page for anybody.
pub fn open_page(status: StatusCode, template: impl Template) -> Result<HttpResponse, Fault> {
    let html = template.render().map_err(|error| Fault::from(FlowError::Internal(Box::new(error))))?;
    Ok(HttpResponse::build(status).content_type("text/html; charset=utf-8").body(html))
}

/// Leads to where the answer of a [`Signed::call`](super::Signed::call) is looked at.
pub fn see(answer: Answer) -> HttpResponse {
    elsewhere(answer.location.as_deref().unwrap_or("/console"))
}

/// What was sent is done: look there, and a page loaded again sends nothing twice.
pub fn elsewhere(path: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, path)).finish()
}

/// A moment, as pages write it: to the minute, in UTC.
pub fn moment(at: OffsetDateTime) -> String {
    const FORM: StaticFormatDescription = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(UtcOffset::UTC).format(FORM).unwrap_or_default()
}

/// Why there is no page.
#[derive(Debug)]
pub enum Fault {
    /// First something else: a sign-in, a password of one's own.
    Elsewhere(&'static str),
    Problem(Problem),
}

impl Fault {
    pub fn not_found() -> Self {
        Problem::not_found().into()
    }

    /// What was entered cannot be.
    pub fn invalid(field: &str, detail: impl ToString) -> Self {
        Problem::invalid_field(field, detail).into()
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<FlowError> for Fault {
    fn from(error: FlowError) -> Self {
        Self::Problem(error.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elsewhere(path) => write!(f, "see {path}"),
            Self::Problem(problem) => f.write_str(&problem.detail),
        }
    }
}

#[derive(Template)]
#[template(path = "fault.html")]
struct FaultPage<'a> {
    heading: &'static str,
    problem: &'a Problem,
}

impl ResponseError for Fault {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Elsewhere(_) => StatusCode::SEE_OTHER,
            Self::Problem(problem) => problem.status,
        }
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let problem = match self {
            Self::Elsewhere(path) => return elsewhere(path),
            Self::Problem(problem) => problem,
        };
        let heading = match problem.status.as_u16() {
            403 => "Refused",
            404 => "Not found",
            409 => "Not possible now",
            429 => "Too often",
            503 => "Not available now",
            400..=499 => "Not possible",
            _ => "Something went wrong",
        };
        let html = FaultPage { heading, problem }.render().unwrap_or_else(|_| heading.to_owned());
        let mut response = HttpResponse::build(problem.status);
        if let Some(seconds) = problem.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        response.content_type("text/html; charset=utf-8").body(html)
    }
}
