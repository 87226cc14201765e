//! `velum openapi`: the document that `/openapi.json` serves.

use super::Failure;
use crate::http::openapi;

pub fn run() -> Result<(), Failure> {
    print!("{}", openapi::document_json());
    Ok(())
}
