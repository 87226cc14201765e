//! Lists come in pages, newest first, continued by the last id seen.

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<Item, Id> {
    pub items: Vec<Item>,
    /// Give it as `before` to get the next page; `None` on the last one.
    pub next: Option<Id>,
}

pub const PAGE_ROWS_MAX: u32 = 100;

/// How many rows to ask the database for: one more than the page, to know whether another page follows.
pub(super) fn rows_to_load(limit: u32) -> i64 {
    i64::from(limit.clamp(1, PAGE_ROWS_MAX)) + 1
}

impl<Item, Id> Page<Item, Id> {
    pub(super) fn from_rows(mut items: Vec<Item>, limit: u32, id: impl Fn(&Item) -> Id) -> Self {
        let rows_max = limit.clamp(1, PAGE_ROWS_MAX) as usize;
        let more = items.len() > rows_max;
        items.truncate(rows_max);
        let next = if more { items.last().map(id) } else { None };
        Self { items, next }
    }
}
