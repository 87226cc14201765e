//! Between columns and the words of the product.

use std::str::FromStr;

use time::OffsetDateTime;

use super::error::StoreError;

/// Microseconds since 1970-01-01 UTC: both databases hold it exactly, and it compares as a number.
pub fn micros(at: OffsetDateTime) -> i64 {
    // i64 microseconds reach past the year 200,000; `time` stops at 9999.
    (at.unix_timestamp_nanos() / 1_000) as i64
}

pub fn instant(column: &'static str, micros: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).map_err(|_| StoreError::Corrupt { column })
}

/// A typed id, name or rate from its text.
pub fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { column })
}
