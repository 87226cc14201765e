//! What stands in the address of a page.

use std::{
    future::{Ready, ready},
    str::FromStr,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::StatusCode, web::Query};
use serde::de::DeserializeOwned;

use super::Fault;
use crate::{flows::PageRequest, http::problem::Problem};

/// The query. What cannot be read in it is answered by a page.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Asked<T> {
    type Error = Fault;
    type Future = Ready<Result<Self, Fault>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let malformed = |_| Problem::of_status(StatusCode::BAD_REQUEST).into();
        ready(Query::<T>::from_query(request.query_string()).map(|query| Self(query.into_inner())).map_err(malformed))
    }
}

/// Rows of a page.
const ROWS: u32 = 25;

pub fn page_after(cursor: Option<&str>) -> Result<PageRequest, Fault> {
    PageRequest::new(Some(ROWS), cursor).map_err(|error| Fault::invalid(error.field(), error))
}

/// An id in a path. What is no id names nothing.
pub fn id<T: FromStr>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|_| Fault::not_found())
}

/// A field that may be left empty, as browsers send it.
pub fn optional<T: FromStr<Err: ToString>>(field: &str, text: &str) -> Result<Option<T>, Fault> {
    let text = Some(text.trim()).filter(|text| !text.is_empty());
    text.map(str::parse).transpose().map_err(|error: T::Err| Fault::invalid(field, error))
}
