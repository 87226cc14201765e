//! The audit log: searched, checked and taken out.

use actix_web::{HttpResponse, http::header, web::Data};
use askama::Template;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::{
    Fault, NoFields, Officer, Signed,
    asked::{Asked, optional, page_after},
    page,
    words::{DayEntered, date_field, logged},
};
use crate::{
    audit::{Action, Checkpoint, Entry},
    flows::{
        Flows,
        audit::{self, Checked, Search},
    },
    http,
};

#[derive(Template)]
#[template(path = "audit.html")]
struct Log<'a> {
    officer: &'a Officer,
    entries: u64,
    signed: Option<Signature>,
    unsigned: u64,
    verdict: Option<Verdict>,
    mistake: Option<&'static str>,
    search: Fields,
    actions: Vec<ActionChoice>,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Signature {
    size: u64,
    at: String,
}

impl From<Checkpoint> for Signature {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { size: checkpoint.size, at: logged(&checkpoint.at) }
    }
}

struct Verdict {
    good: bool,
    words: String,
}

impl From<Checked> for Verdict {
    fn from(checked: Checked) -> Self {
        match checked {
            Checked::Whole { entries } => Self {
                good: true,
                words: format!("Whole: {entries} entries were read, and each fits the one before it."),
            },
            Checked::Broken { sequence } => Self {
                good: false,
                words: format!(
                    "Broken: an entry was changed, removed, inserted or moved at {sequence} or just before."
                ),
            },
            Checked::TooLong { entries } => Self {
                good: false,
                words: format!(
                    "Not checked: {entries} entries are more than the {} that are read while you wait. Export the log and \
                     check the file.",
                    audit::CHECKED_MAX
                ),
            },
        }
    }
}

/// As they were entered.
#[derive(Default, Deserialize)]
pub struct Fields {
    #[serde(default)]
    subject: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
    cursor: Option<String>,
}

const MISTAKE: &str = "The search could not be read, and every entry is shown: the id of a person is sub_ and 32 digits, a day is \
     like 2026-11-21.";

impl Fields {
    fn read(&self) -> Result<Search, Fault> {
        let day = |field, text: &str| Ok::<_, Fault>(optional::<DayEntered>(field, text)?.map(|day| day.0));
        Ok(Search {
            subject: optional("subject", &self.subject)?,
            action: optional("action", &self.action)?,
            since: day("from", &self.from)?,
            // The day itself belongs to it.
            before: day("to", &self.to)?.map(|day| day + Duration::DAY),
        })
    }
}

/// As [`Fields`] reads it. Ids, words and dates of ours: nothing that an address would have to escape.
fn query(search: Search) -> String {
    let day = |at: Option<OffsetDateTime>| at.map(|at| date_field(at.date())).unwrap_or_default();
    format!(
        "subject={}&action={}&from={}&to={}",
        search.subject.map(|id| id.to_string()).unwrap_or_default(),
        search.action.map(Action::as_str).unwrap_or_default(),
        day(search.since),
        day(search.before.map(|day| day - Duration::DAY))
    )
}

struct ActionChoice {
    value: &'static str,
    chosen: bool,
}

struct Row {
    sequence: u64,
    action: String,
    when: String,
    who: String,
    object: Option<String>,
    reason: Option<String>,
    /// Whether it is about somebody.
    person: bool,
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        Self {
            sequence: entry.sequence,
            action: entry.action,
            when: logged(&entry.at),
            who: entry.actor,
            object: entry.object,
            reason: entry.reason,
            person: entry.subject.is_some(),
        }
    }
}

pub async fn show(officer: Officer, flows: Data<Flows>, Asked(fields): Asked<Fields>) -> Result<HttpResponse, Fault> {
    log(&officer, &flows, fields, None).await
}

/// Reads the whole log, within a bound.
pub async fn check(flows: Data<Flows>, signed: Signed<NoFields>) -> Result<HttpResponse, Fault> {
    let checked = audit::check(&flows, signed.officer.tenant).await?;
    log(&signed.officer, &flows, Fields::default(), Some(checked.into())).await
}

async fn log(
    officer: &Officer,
    flows: &Flows,
    fields: Fields,
    verdict: Option<Verdict>,
) -> Result<HttpResponse, Fault> {
    let tenant = officer.tenant;
    let (search, mistake) = match fields.read() {
        Ok(search) => (search, None),
        Err(_) => (Search::default(), Some(MISTAKE)),
    };
    let found = audit::list(flows, tenant, search, page_after(fields.cursor.as_deref())?).await?;
    let state = audit::state(flows, tenant).await?;
    let next = found.next_cursor.map(|cursor| format!("/console/audit?{}&cursor={cursor}", query(search)));
    let choice = |of: &Action| ActionChoice { value: of.as_str(), chosen: Some(*of) == search.action };
    let log = Log {
        officer,
        entries: state.entries,
        unsigned: state.unsigned(),
        signed: state.checkpoint.map(Signature::from),
        verdict,
        mistake,
        search: fields,
        actions: Action::ALL.iter().map(choice).collect(),
        rows: found.items.into_iter().map(Row::from).collect(),
        next,
    };
    page(officer, log)
}

/// The whole log as a file, with a checkpoint that is signed now.
pub async fn export(officer: Officer, flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let mut file = http::exported_audit(flows, officer.tenant).await?;
    let kept = header::HeaderValue::from_static("attachment; filename=\"audit.jsonl\"");
    file.headers_mut().insert(header::CONTENT_DISPOSITION, kept);
    Ok(file)
}
