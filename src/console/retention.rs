//! What is kept how long, and what the next run deletes.

use actix_web::{HttpResponse, http::StatusCode, web::Data};
use askama::Template;

use super::{
    Fault, Officer, page,
    page::open_page,
    subjects::plain,
    words::{Moment, span},
};
use crate::{
    domain::retention::RecordKind,
    flows::{
        Flows,
        retention::{self, Forecast},
    },
};

struct Row {
    what: String,
    purpose: String,
    kept: String,
    counted_from: &'static str,
}

impl Row {
    fn of(flows: &Flows, kind: RecordKind) -> Self {
        Self {
            what: plain(kind.as_str()),
            purpose: kind.purpose().map_or_else(|| "running the service".to_owned(), |purpose| plain(purpose.as_str())),
            kept: span(flows.retention().kept(kind)),
            counted_from: kind.counted_from(),
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
    let rows = RecordKind::ALL.map(|kind| Row::of(&flows, kind)).into();
    open_page(StatusCode::OK, Policy { rows })
}

#[derive(Template)]
#[template(path = "retention.html")]
struct Retention<'a> {
    officer: &'a Officer,
    next_run: Moment,
    /// Each with how many rows go then.
    rows: Vec<(Row, u64)>,
}

pub async fn show(officer: Officer, flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let Forecast { at, rows } = retention::forecast(&flows, officer.tenant).await?;
    let rows = rows.into_iter().map(|(kind, goes)| (Row::of(&flows, kind), goes)).collect();
    page(&officer, Retention { officer: &officer, next_run: Moment(at), rows })
}
