//! What is kept how long, and what the next run deletes.

use actix_web::{HttpResponse, web::Data};
use askama::Template;

use super::{
    Fault, Officer, page,
    subjects::plain,
    words::{Moment, span},
};
use crate::flows::{
    Flows,
    retention::{self, Forecast},
};

#[derive(Template)]
#[template(path = "retention.html")]
struct Retention<'a> {
    officer: &'a Officer,
    next_run: Moment,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    purpose: String,
    kept: String,
    counted_from: &'static str,
    goes: u64,
}

pub async fn show(officer: Officer, flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let Forecast { at, rows } = retention::forecast(&flows, officer.tenant).await?;
    let row = |(kind, goes): (crate::domain::retention::RecordKind, u64)| Row {
        what: plain(kind.as_str()),
        purpose: kind.purpose().map_or_else(|| "running the service".to_owned(), |purpose| plain(purpose.as_str())),
        kept: span(flows.retention().kept(kind)),
        counted_from: kind.counted_from(),
        goes,
    };
    let rows = rows.into_iter().map(row).collect();
    page(&officer, Retention { officer: &officer, next_run: Moment(at), rows })
}
