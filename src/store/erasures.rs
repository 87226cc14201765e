//! Requests to erase persons. They outlive the person: from the end of a request on only a keyed digest is left of whom.

use std::{collections::HashMap, fmt, str::FromStr};

use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    audit::{self, Act},
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    jobs::{self, NewJob},
    opendsr,
    page::{Page, rows_to_load},
    schema::main::erasure_requests as requests,
    subjects::{self, DeletedRows},
};
use crate::{
    audit::{Checkpoint, Event, SubjectDigest},
    domain::{
        erasure::{ErasureState, Regulation},
        id::{ErasureId, SubjectId, TenantId},
    },
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureRequest {
    pub id: ErasureId,
    pub tenant: TenantId,
    /// Gone when the request has ended.
    pub subject: Option<SubjectId>,
    pub subject_digest: SubjectDigest,
    pub regulation: Regulation,
    pub state: ErasureState,
    /// Of a rejection or a hold; gone when the person is erased.
    pub reason: Option<String>,
    pub received_at: OffsetDateTime,
    pub due_at: OffsetDateTime,
    pub verified_at: Option<OffsetDateTime>,
    pub begun_at: Option<OffsetDateTime>,
    pub ended_at: Option<OffsetDateTime>,
    pub removed: Option<Removed>,
    /// A JWS.
    pub certificate: Option<String>,
}

/// What was removed from the main database, and the end of the audit log at that moment: its last entry says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub rows: DeletedRows,
    pub audit: Checkpoint,
}

#[derive(Debug, Clone)]
pub struct ErasureFilter {
    pub state: Option<ErasureState>,
    pub subject: Option<SubjectDigest>,
}

/// A place in the list of open requests by deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    due_at: i64,
    id: ErasureId,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.due_at, self.id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no place in a list by deadline")]
pub struct NotADeadline;

impl FromStr for Deadline {
    type Err = NotADeadline;

    fn from_str(text: &str) -> Result<Self, NotADeadline> {
        let (due_at, id) = text.split_once(' ').ok_or(NotADeadline)?;
        Ok(Self { due_at: due_at.parse().map_err(|_| NotADeadline)?, id: id.parse().map_err(|_| NotADeadline)? })
    }
}

/// A step of a request that destroys nothing.
#[derive(Debug, Clone)]
pub struct Step {
    /// Where the request was when the step was decided on: who comes in between is not overruled.
    pub from: ErasureState,
    pub to: ErasureState,
    pub reason: Option<String>,
    pub at: OffsetDateTime,
}

/// A request to be opened with something else that is written.
pub struct NewErasureRequest {
    pub request: ErasureRequest,
    pub job: NewJob,
    pub event: Event,
}

/// Opens a request inside a writing transaction that holds the person; none where there is an open one.
pub(super) fn open_unless_open(connection: &mut AnyConnection, new: &NewErasureRequest) -> Result<(), StoreError> {
    let row = Row::of(&new.request)?;
    let own =
        requests::table.filter(requests::tenant_id.eq(&row.tenant_id)).filter(requests::subject_id.eq(&row.subject_id));
    if own.count().get_result::<i64>(connection)? > 0 {
        return Ok(());
    }
    diesel::insert_into(requests::table).values(&row).execute(connection)?;
    jobs::enqueue(connection, &new.job)?;
    audit::append(connection, new.request.tenant, &new.event).map(drop)
}

/// Opens a request inside a writing transaction that holds the person. `Conflict` where there is an open one.
pub(super) fn insert(connection: &mut AnyConnection, request: &ErasureRequest) -> Result<(), StoreError> {
    let inserted = diesel::insert_into(requests::table).values(&Row::of(request)?).execute(connection);
    inserted.map(drop).map_err(|error| StoreError::from(error).or_conflict(Conflict::ErasureOpen))
}

pub struct Erasures<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = requests)]
struct Row {
    id: String,
    tenant_id: String,
    subject_id: Option<String>,
    subject_digest: Vec<u8>,
    regulation: String,
    state: String,
    reason: Option<String>,
    received_at: i64,
    due_at: i64,
    verified_at: Option<i64>,
    begun_at: Option<i64>,
    ended_at: Option<i64>,
    removed: Option<String>,
    certificate: Option<String>,
}

impl Erasures<'_> {
    /// Opens a request. `Conflict` where the person has an open one, `NotFound` where there is no such person.
    pub async fn open(&self, request: &ErasureRequest, job: Option<NewJob>, act: Act) -> Result<(), StoreError> {
        let (tenant, subject) = (request.tenant, request.subject.ok_or(StoreError::NotFound)?);
        let request = request.clone();
        self.pool
            .write(tenant, move |connection| {
                subjects::lock(connection, tenant, subject)?;
                insert(connection, &request)?;
                queue(connection, job)?;
                act.complete(connection, tenant)
            })
            .await
    }

    pub async fn find(&self, tenant: TenantId, id: ErasureId) -> Result<ErasureRequest, StoreError> {
        self.pool.run(tenant, move |connection| find(connection, tenant, id)).await
    }

    /// Where these requests are, of whichever tenants; who is missing from the answer is not known here.
    pub async fn states(&self, ids: &[ErasureId]) -> Result<HashMap<ErasureId, ErasureState>, StoreError> {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let query = requests::table.filter(requests::id.eq_any(ids)).select((requests::id, requests::state));
        let rows: Vec<(String, String)> =
            self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(id, state): (String, String)| {
            Ok((parse("erasure_requests.id", &id)?, parse("erasure_requests.state", &state)?))
        };
        rows.into_iter().map(read).collect()
    }

    /// Requests for which something was destroyed or may be, of every tenant, in the order of ids; up to `limit` after one.
    pub async fn begun(&self, after: Option<ErasureId>, limit: u32) -> Result<Vec<ErasureRequest>, StoreError> {
        // Every id sorts after the empty text.
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let states = [ErasureState::InProgress, ErasureState::Completed].map(ErasureState::as_str);
        let query = requests::table
            .filter(requests::id.gt(after))
            .filter(requests::state.eq_any(states))
            .order(requests::id)
            .limit(i64::from(limit));
        let rows: Vec<Row> = self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(ErasureRequest::try_from).collect()
    }

    /// The open request of a person.
    pub async fn open_of(&self, tenant: TenantId, subject: SubjectId) -> Result<Option<ErasureRequest>, StoreError> {
        let query = requests::table
            .filter(requests::tenant_id.eq(tenant.to_string()))
            .filter(requests::subject_id.eq(subject.to_string()));
        let row: Option<Row> = self.pool.run(tenant, move |connection| Ok(query.first(connection).optional()?)).await?;
        row.map(ErasureRequest::try_from).transpose()
    }

    /// Newest first; `before` is the `next` of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        filter: ErasureFilter,
        before: Option<ErasureId>,
        limit: u32,
    ) -> Result<Page<ErasureRequest, ErasureId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let mut query = requests::table
            .filter(requests::tenant_id.eq(tenant.to_string()))
            .filter(requests::id.lt(before))
            .into_boxed();
        if let Some(state) = filter.state {
            query = query.filter(requests::state.eq(state.as_str()));
        }
        if let Some(subject) = filter.subject {
            query = query.filter(requests::subject_digest.eq(subject.0.to_vec()));
        }
        let query = query.order(requests::id.desc()).limit(rows_to_load(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(ErasureRequest::try_from).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |request: &ErasureRequest| request.id))
    }

    /// The open ones, the first deadline first; `after` is the `next` of the page before.
    pub async fn by_deadline(
        &self,
        tenant: TenantId,
        state: Option<ErasureState>,
        after: Option<Deadline>,
        limit: u32,
    ) -> Result<Page<ErasureRequest, Deadline>, StoreError> {
        let mut query = requests::table
            .filter(requests::tenant_id.eq(tenant.to_string()))
            .filter(requests::ended_at.is_null())
            .into_boxed();
        if let Some(state) = state {
            query = query.filter(requests::state.eq(state.as_str()));
        }
        if let Some(Deadline { due_at, id }) = after {
            let later = requests::due_at.gt(due_at);
            query = query.filter(later.or(requests::due_at.eq(due_at).and(requests::id.gt(id.to_string()))));
        }
        let query = query.order((requests::due_at, requests::id)).limit(rows_to_load(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(ErasureRequest::try_from).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |request: &ErasureRequest| Deadline {
            due_at: micros(request.due_at),
            id: request.id,
        }))
    }

    /// How many of a tenant's requests are open, and how many of those should have been answered before `now`.
    pub async fn open_and_overdue(&self, tenant: TenantId, now: OffsetDateTime) -> Result<(i64, i64), StoreError> {
        let open = requests::table
            .filter(requests::tenant_id.eq(tenant.to_string()))
            .filter(requests::ended_at.is_null())
            .count();
        let overdue = open.clone().filter(requests::due_at.lt(micros(now)));
        let count =
            move |connection: &mut AnyConnection| Ok((open.get_result(connection)?, overdue.get_result(connection)?));
        self.pool.run(tenant, count).await
    }

    /// How many are open, and by when the first of them is due; of all tenants.
    pub async fn open_and_first_due(&self) -> Result<(i64, Option<OffsetDateTime>), StoreError> {
        let open = requests::table.filter(requests::ended_at.is_null());
        let query = open.select((diesel::dsl::count_star(), diesel::dsl::min(requests::due_at)));
        let (count, due): (i64, Option<i64>) =
            self.pool.run(Reach::Every, move |connection| Ok(query.first(connection)?)).await?;
        Ok((count, due.map(|due| instant("erasure_requests.due_at", due)).transpose()?))
    }

    /// Takes a step that destroys nothing. `Conflict` where the request is not, or not any more, where the step begins, or
    /// where no step leads there.
    pub async fn step(
        &self,
        tenant: TenantId,
        id: ErasureId,
        step: Step,
        job: Option<NewJob>,
        act: impl FnOnce(&ErasureRequest) -> Result<Act, StoreError> + Send + 'static,
    ) -> Result<ErasureRequest, StoreError> {
        self.pool
            .write(tenant, move |connection| {
                let mut request = lock(connection, tenant, id)?;
                if request.state != step.from || !step.from.may_become(step.to) {
                    return Err(StoreError::Conflict(Conflict::ErasureState));
                }
                request.enter(step.to, step.reason, step.at);
                save(connection, &request)?;
                opendsr::tell_of(connection, &request, step.at)?;
                queue(connection, job)?;
                act(&request)?.complete(connection, tenant)?;
                Ok(request)
            })
            .await
    }

    /// Removes every row of the person, and what people wrote on earlier requests, and notes it. Safe to repeat: the first
    /// time counts.
    pub async fn remove_rows(
        &self,
        tenant: TenantId,
        id: ErasureId,
        subject: SubjectId,
        event: Event,
    ) -> Result<ErasureRequest, StoreError> {
        self.pool
            .run(tenant, move |connection| {
                let request = connection.write(|connection| {
                    // The person first, as everywhere, so that nobody waits for the other.
                    let rows = subjects::delete_rows(connection, tenant, subject)?;
                    let mut request = lock(connection, tenant, id)?;
                    let reasons = clear_reasons(connection, tenant, request.subject_digest)?;
                    if request.removed.is_none() {
                        note_removed(connection, &mut request, DeletedRows { reasons, ..rows }, &event)?;
                    }
                    Ok(request)
                })?;
                connection.scrub()?;
                Ok(request)
            })
            .await
    }

    /// Ends a request whose person is gone. Safe to repeat.
    pub async fn certify(
        &self,
        tenant: TenantId,
        id: ErasureId,
        certificate: String,
        act: Act,
    ) -> Result<ErasureRequest, StoreError> {
        self.pool
            .write(tenant, move |connection| {
                let mut request = lock(connection, tenant, id)?;
                if request.state == ErasureState::Completed {
                    act.complete_unchanged(connection)?;
                    return Ok(request);
                }
                request.enter(ErasureState::Completed, None, act.event.at);
                request.certificate = Some(certificate);
                save(connection, &request)?;
                opendsr::tell_of(connection, &request, act.event.at)?;
                act.complete(connection, tenant)?;
                Ok(request)
            })
            .await
    }

    /// Puts a request back that a restored database has forgotten, or sets its state back to where the ledger has it.
    ///
    /// The person's rows go at once, and the rest is in the job queue: whoever is stopped here leaves nobody who could be
    /// matched, and a worker finishes it.
    pub async fn restore(
        &self,
        request: &ErasureRequest,
        job: NewJob,
        replayed: Event,
        erased: Event,
    ) -> Result<ErasureRequest, StoreError> {
        let (tenant, id, row) = (request.tenant, request.id, Row::of(request)?);
        let (subject, mut request) = (request.subject.ok_or(StoreError::NotFound)?, request.clone());
        self.pool
            .write(tenant, move |connection| {
                // The person first, as everywhere.
                let rows = subjects::delete_rows(connection, tenant, subject)?;
                let own = requests::table.filter(requests::tenant_id.eq(tenant.to_string()));
                let same = own.clone().filter(requests::id.eq(id.to_string()));
                diesel::delete(same).execute(connection)?;
                // Opened after the backup was made and before the erasure that the ledger knows of: it is the same wish.
                let other = own.filter(requests::subject_id.eq(row.subject_id.clone()));
                let others: Vec<String> = other.clone().select(requests::id).load(connection)?;
                opendsr::follow(connection, tenant, &others, id)?;
                diesel::delete(other).execute(connection)?;
                diesel::insert_into(requests::table).values(&row).execute(connection)?;
                jobs::enqueue(connection, &job)?;
                audit::append(connection, tenant, &replayed)?;
                if request.removed.is_none() {
                    let reasons = clear_reasons(connection, tenant, request.subject_digest)?;
                    note_removed(connection, &mut request, DeletedRows { reasons, ..rows }, &erased)?;
                }
                Ok(request)
            })
            .await
    }
}

impl ErasureRequest {
    fn enter(&mut self, state: ErasureState, reason: Option<String>, at: OffsetDateTime) {
        match state {
            ErasureState::Verified => self.verified_at = self.verified_at.or(Some(at)),
            ErasureState::InProgress => self.begun_at = Some(at),
            _ => {}
        }
        if state.is_end() {
            self.ended_at = Some(at);
            self.subject = None;
        }
        self.state = state;
        self.reason = reason;
    }
}

fn note_removed(
    connection: &mut AnyConnection,
    request: &mut ErasureRequest,
    rows: DeletedRows,
    erased: &Event,
) -> Result<(), StoreError> {
    let chain = audit::append(connection, request.tenant, erased)?;
    request.removed = Some(Removed { rows, audit: chain.checkpoint(erased.at) });
    save(connection, request)
}

/// Of all requests about a person, whose words may say who it was.
fn clear_reasons(connection: &mut AnyConnection, tenant: TenantId, person: SubjectDigest) -> Result<usize, StoreError> {
    let told = requests::table
        .filter(requests::tenant_id.eq(tenant.to_string()))
        .filter(requests::subject_digest.eq(person.0.to_vec()))
        .filter(requests::reason.is_not_null());
    Ok(diesel::update(told).set(requests::reason.eq(None::<String>)).execute(connection)?)
}

fn queue(connection: &mut AnyConnection, job: Option<NewJob>) -> Result<(), StoreError> {
    job.map_or(Ok(()), |job| jobs::enqueue(connection, &job))
}

/// Holds a request until commit. The update changes nothing; it takes the row's lock.
fn lock(connection: &mut AnyConnection, tenant: TenantId, id: ErasureId) -> Result<ErasureRequest, StoreError> {
    let own =
        requests::table.filter(requests::tenant_id.eq(tenant.to_string())).filter(requests::id.eq(id.to_string()));
    diesel::update(own).set(requests::due_at.eq(requests::due_at)).execute(connection)?;
    find(connection, tenant, id)
}

fn find(connection: &mut AnyConnection, tenant: TenantId, id: ErasureId) -> Result<ErasureRequest, StoreError> {
    let row: Row = requests::table
        .filter(requests::tenant_id.eq(tenant.to_string()))
        .filter(requests::id.eq(id.to_string()))
        .first(connection)?;
    row.try_into()
}

fn save(connection: &mut AnyConnection, request: &ErasureRequest) -> Result<(), StoreError> {
    let row = Row::of(request)?;
    let own = requests::table.filter(requests::tenant_id.eq(&row.tenant_id)).filter(requests::id.eq(&row.id));
    let changes = (
        requests::subject_id.eq(&row.subject_id),
        requests::state.eq(&row.state),
        requests::reason.eq(&row.reason),
        requests::verified_at.eq(row.verified_at),
        requests::begun_at.eq(row.begun_at),
        requests::ended_at.eq(row.ended_at),
        requests::removed.eq(&row.removed),
        requests::certificate.eq(&row.certificate),
    );
    Ok(diesel::update(own).set(changes).execute(connection).map(drop)?)
}

const REMOVED: &str = "erasure_requests.removed";

impl Row {
    fn of(request: &ErasureRequest) -> Result<Self, StoreError> {
        let removed = request.removed.as_ref().map(serde_json::to_string).transpose();
        Ok(Self {
            id: request.id.to_string(),
            tenant_id: request.tenant.to_string(),
            subject_id: request.subject.map(|subject| subject.to_string()),
            subject_digest: request.subject_digest.0.to_vec(),
            regulation: request.regulation.as_str().to_owned(),
            state: request.state.as_str().to_owned(),
            reason: request.reason.clone(),
            received_at: micros(request.received_at),
            due_at: micros(request.due_at),
            verified_at: request.verified_at.map(micros),
            begun_at: request.begun_at.map(micros),
            ended_at: request.ended_at.map(micros),
            removed: removed.map_err(|_| StoreError::Corrupt { column: REMOVED })?,
            certificate: request.certificate.clone(),
        })
    }
}

impl TryFrom<Row> for ErasureRequest {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let optional = |column, at: Option<i64>| at.map(|at| instant(column, at)).transpose();
        let digest = row.subject_digest.try_into();
        let removed = row.removed.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            id: parse("erasure_requests.id", &row.id)?,
            tenant: parse("erasure_requests.tenant_id", &row.tenant_id)?,
            subject: row.subject_id.map(|id| parse("erasure_requests.subject_id", &id)).transpose()?,
            subject_digest: SubjectDigest(
                digest.map_err(|_| StoreError::Corrupt { column: "erasure_requests.subject_digest" })?,
            ),
            regulation: parse("erasure_requests.regulation", &row.regulation)?,
            state: parse("erasure_requests.state", &row.state)?,
            reason: row.reason,
            received_at: instant("erasure_requests.received_at", row.received_at)?,
            due_at: instant("erasure_requests.due_at", row.due_at)?,
            verified_at: optional("erasure_requests.verified_at", row.verified_at)?,
            begun_at: optional("erasure_requests.begun_at", row.begun_at)?,
            ended_at: optional("erasure_requests.ended_at", row.ended_at)?,
            removed: removed.map_err(|_| StoreError::Corrupt { column: REMOVED })?,
            certificate: row.certificate,
        })
    }
}
