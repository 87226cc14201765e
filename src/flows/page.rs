//! Lists come in pages. A cursor is opaque to callers: the id of the last item that they have seen.

use std::{fmt::Display, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::FlowError;
use crate::store;

#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// `None` on the last page.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    limit: u32,
    /// Text of the id after which the page begins.
    after: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPageRequest {
    #[error("is 1 to {}", PageRequest::LIMIT_MAX)]
    Limit,
    #[error("is not a cursor of this list")]
    Cursor,
}

impl InvalidPageRequest {
    pub fn field(&self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Cursor => "cursor",
        }
    }
}

impl PageRequest {
    pub const LIMIT_DEFAULT: u32 = 20;
    pub const LIMIT_MAX: u32 = 100;
    const CURSOR_BYTES_MAX: usize = 128;

    pub fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, InvalidPageRequest> {
        let limit = limit.unwrap_or(Self::LIMIT_DEFAULT);
        if !(1..=Self::LIMIT_MAX).contains(&limit) {
            return Err(InvalidPageRequest::Limit);
        }
        let after = cursor.map(decoded).transpose()?;
        Ok(Self { limit, after })
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The id after which the page begins; a cursor of another list holds another kind of id and is refused.
    pub fn after<T: FromStr>(&self) -> Result<Option<T>, FlowError> {
        self.after
            .as_deref()
            .map(|text| text.parse().map_err(|_| FlowError::InvalidPage(InvalidPageRequest::Cursor)))
            .transpose()
    }
}

fn decoded(cursor: &str) -> Result<String, InvalidPageRequest> {
    let bytes = Some(cursor).filter(|cursor| cursor.len() <= PageRequest::CURSOR_BYTES_MAX);
    let bytes = bytes.and_then(|cursor| BASE64_URL_SAFE_NO_PAD.decode(cursor).ok());
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(InvalidPageRequest::Cursor)
}

impl<T> Page<T> {
    pub fn cursor(last_seen: impl Display) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(last_seen.to_string())
    }

    /// One page out of a whole list that is sorted newest first.
    pub fn of_all<I: Display + FromStr + Ord>(
        mut items: Vec<T>,
        request: &PageRequest,
        id: impl Fn(&T) -> I,
    ) -> Result<Self, FlowError> {
        if let Some(after) = request.after::<I>()? {
            items.retain(|item| id(item) < after);
        }
        let has_more = items.len() > request.limit as usize;
        items.truncate(request.limit as usize);
        let last = items.last().filter(|_| has_more);
        let next_cursor = last.map(|item| Self::cursor(id(item)));
        Ok(Self { items, next_cursor })
    }

    pub fn map<U>(self, to: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(to).collect(), next_cursor: self.next_cursor }
    }
}

/// Whoever asks is given the place to go on from as a cursor.
impl<T, I: Display> From<store::Page<T, I>> for Page<T> {
    fn from(rows: store::Page<T, I>) -> Self {
        Self { items: rows.items, next_cursor: rows.next.map(Self::cursor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{ConsentId, SubjectId};

    #[test]
    fn a_cursor_leads_to_the_item_after_the_last_one() {
        let mut ids: Vec<SubjectId> = (0..3).map(|_| SubjectId::generate()).collect();
        ids.sort_by(|a, b| b.cmp(a));
        let first = Page::of_all(ids.clone(), &PageRequest::new(Some(2), None).unwrap(), |id| *id).unwrap();
        assert_eq!(first.items, ids[..2]);
        let next = PageRequest::new(Some(2), first.next_cursor.as_deref()).unwrap();
        let second = Page::of_all(ids.clone(), &next, |id| *id).unwrap();
        assert_eq!((second.items.as_slice(), second.next_cursor), (&ids[2..], None));
        assert!(next.after::<ConsentId>().is_err(), "a cursor of another list");
    }

    #[test]
    fn limits_and_cursors_out_of_range_are_refused() {
        assert_eq!(PageRequest::new(Some(0), None), Err(InvalidPageRequest::Limit));
        assert_eq!(PageRequest::new(Some(101), None), Err(InvalidPageRequest::Limit));
        assert_eq!(PageRequest::new(None, Some("not base64!")), Err(InvalidPageRequest::Cursor));
        assert_eq!(PageRequest::new(None, Some(&"A".repeat(500))), Err(InvalidPageRequest::Cursor));
    }
}
