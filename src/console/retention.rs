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
    domain::retention::Serves,
    flows::{
        Flows,
        retention::{self, Forecast, Kept},
    },
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
        Self {
            what: plain(kept.record),
            purpose: match &kept.serves {
                Serves::Service => "running the service".to_owned(),
                Serves::One(purpose) => plain(purpose.as_str()),
                Serves::EveryBut(others) if others.is_empty() => "every purpose".to_owned(),
                Serves::EveryBut(_) => "every other purpose".to_owned(),
            },
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
    let Forecast { at, records } = retention::forecast(&flows, officer.tenant).await?;
    let rows = records.into_iter().map(|(kept, goes)| Row::of(kept, goes)).collect();
    page(&officer, Retention { officer: &officer, next_run: Moment(at), rows })
}
