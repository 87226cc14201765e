//! What is kept how long, and what the next run deletes.

use actix_web::{HttpResponse, http::StatusCode, web::Data};
use askama::Template;

use super::{
    Fault, Officer, page,
    page::open_page,
    subjects::plain,
    words::{Moment, span},
};
use crate::flows::{
    Flows,
    retention::{self, Forecast, Kept},
};

struct Row {
    what: String,
    purpose: String,
    kept: String,
    counted_from: &'static str,
    /// Rows that go with the next run; `None` for what goes by itself.
    goes: Option<u64>,
}

impl Row {
    fn of(kept: Kept, goes: Option<u64>) -> Self {
        let purpose = kept.purpose.map(|purpose| plain(purpose.as_str()));
        Self {
            what: plain(kept.record),
            purpose: purpose.unwrap_or_else(|| "running the service".to_owned()),
            kept: span(kept.time),
            counted_from: kept.counted_from,
            goes,
        }
    }
}

/// For everybody: the schedule alone.
#[derive(Template)]
#[template(path = "policy.html")]
struct Policy {
    rows: Vec<Row>,
}

pub async fn policy(flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let rows = flows.kept().into_iter().map(|kept| Row::of(kept, None)).collect();
    open_page(StatusCode::OK, Policy { rows })
}

#[derive(Template)]
#[template(path = "retention.html")]
struct Retention<'a> {
    officer: &'a Officer,
    next_run: Moment,
    rows: Vec<Row>,
}

pub async fn show(officer: Officer, flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let Forecast { at, rows } = retention::forecast(&flows, officer.tenant).await?;
    let goes = |kept: &Kept| rows.iter().find(|(kind, _)| kind.as_str() == kept.record).map(|(_, rows)| *rows);
    let rows =
        flows.kept().into_iter().map(|kept| (goes(&kept), kept)).map(|(goes, kept)| Row::of(kept, goes)).collect();
    page(&officer, Retention { officer: &officer, next_run: Moment(at), rows })
}
