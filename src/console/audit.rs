//! The audit log: searched, checked and taken out.

use actix_web::{HttpResponse, http::header, web::Data};
use askama::Template;
use serde::Deserialize;
use time::Duration;

use super::{
    Fault, Officer, Signed,
    asked::{Asked, optional, page_after},
    page,
    words::{DayEntered, date_field, logged},
};
use crate::{
    audit::{Action, Checkpoint, Entry},
    domain::id::SubjectId,
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
                words: format!("Broken: an entry was changed, removed, inserted or moved at {sequence} or just before."),
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
pub async fn check(flows: Data<Flows>, signed: Signed<()>) -> Result<HttpResponse, Fault> {
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
    let subject: Option<SubjectId> = optional("subject", &fields.subject)?;
    let action: Option<Action> = optional("action", &fields.action)?;
    let since: Option<DayEntered> = optional("from", &fields.from)?;
    let until: Option<DayEntered> = optional("to", &fields.to)?;
    let search = Search {
        subject,
        action,
        since: since.map(|day| day.0),
        // The day itself belongs to it.
        before: until.map(|day| day.0 + Duration::DAY),
    };
    let found = audit::list(flows, tenant, search, page_after(fields.cursor.as_deref())?).await?;
    let state = audit::state(flows, tenant).await?;
    let next = found.next_cursor.map(|cursor| {
        let (subject, action) = (subject.map(|id| id.to_string()), action.map(Action::as_str));
        let day = |day: Option<DayEntered>| day.map(|day| date_field(day.0.date())).unwrap_or_default();
        // Ids, words and dates of ours: nothing that an address would have to escape.
        format!(
            "/console/audit?subject={}&action={}&from={}&to={}&cursor={cursor}",
            subject.unwrap_or_default(),
            action.unwrap_or_default(),
            day(since),
            day(until)
        )
    });
    let choice = |of: &Action| ActionChoice { value: of.as_str(), chosen: Some(*of) == action };
    let log = Log {
        officer,
        entries: state.entries,
        unsigned: state.unsigned(),
        signed: state.checkpoint.map(Signature::from),
        verdict,
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
