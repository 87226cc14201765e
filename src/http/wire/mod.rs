//! The JSON shapes of requests and answers. Requests refuse unknown members and become domain types by `TryFrom`;
//! answers are made from domain types by `From`. No domain type is ever serialised itself.

mod access_requests;
mod account;
mod api_keys;
mod audit;
mod consents;
mod enrolments;
mod erasures;
mod health;
mod models;
mod oauth;
mod opendsr;
mod policies;
mod restriction;
mod subjects;
mod verifications;

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use time::{Duration, OffsetDateTime, serde::rfc3339};
use utoipa::{IntoParams, ToSchema};

pub use self::{
    access_requests::*, account::*, api_keys::*, audit::*, consents::*, enrolments::*, erasures::*, health::*,
    models::*, oauth::*, opendsr::*, policies::*, restriction::*, subjects::*, verifications::*,
};
use super::problem::Problem;
use crate::flows::{Page, PageRequest};

/// A moment, as RFC 3339 writes it; ours are in UTC.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-20T12:00:00Z")]
pub struct Timestamp(#[serde(serialize_with = "rfc3339::serialize", deserialize_with = "in_utc")] pub OffsetDateTime);

/// The last second of the year 9999 in New York is one that UTC has no name for. To the microsecond: what a store keeps, so
/// that an answer says the same later.
fn in_utc<'de, D: Deserializer<'de>>(given: D) -> Result<OffsetDateTime, D::Error> {
    let moment = rfc3339::deserialize(given)?;
    let moment = moment.checked_to_utc().ok_or_else(|| D::Error::custom("a moment beyond the year 9999"))?;
    let moment = OffsetDateTime::from(moment);
    Ok(moment - Duration::nanoseconds(i64::from(moment.nanosecond() % 1_000)))
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(moment)
    }
}

/// Printable, not empty, not too long: what will be shown to an officer one day must be showable. The pattern beside each
/// such member says the same to readers of the document.
fn checked_text(name: &str, text: String, length_max: usize) -> Result<String, Problem> {
    if !(1..=length_max).contains(&text.chars().count()) {
        return Err(Problem::invalid_field(name, format!("is 1 to {length_max} characters long")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::invalid_field(name, "holds no control characters"));
    }
    Ok(text)
}

fn parsed<T: FromStr<Err: ToString>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| Problem::invalid_field(name, error))
}

/// A parameter or member that may be left out.
pub fn parsed_if_given<T: FromStr<Err: ToString>>(name: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    text.map(|text| parsed(name, text)).transpose()
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items on a page, 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl TryFrom<PageQuery> for PageRequest {
    type Error = Problem;

    fn try_from(query: PageQuery) -> Result<Self, Problem> {
        PageRequest::new(query.limit, query.cursor.as_deref())
            .map_err(|error| Problem::invalid_field(error.field(), &error))
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageBody<T> {
    pub data: Vec<T>,
    pub has_more: bool,
    /// Where the next page begins; `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T> PageBody<T> {
    pub fn of<U>(page: Page<U>, to: impl FnMut(U) -> T) -> Self {
        let Page { items, next_cursor } = page.map(to);
        Self { data: items, has_more: next_cursor.is_some(), next_cursor }
    }
}

/// A list that fits one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListBody<T> {
    pub data: Vec<T>,
}
