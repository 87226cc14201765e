//! Requests of persons to be given what is known of them, and the packages that answer them: age ciphertexts, sealed once more
//! under the person's data key, so that destroying that key reaches those in old backups too.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    audit::{self, Act},
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    jobs::{self, NewJob},
    page::{Page, rows_to_load},
    schema::main::access_requests as requests,
    subjects,
};
use crate::{
    audit::Event,
    domain::{
        access::{AccessState, LockKind},
        erasure::Regulation,
        id::{AccessId, SubjectId, TenantId},
    },
    vault::{DataKey, Place},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRequest {
    pub id: AccessId,
    pub tenant: TenantId,
    pub subject: SubjectId,
    pub regulation: Regulation,
    /// As it was written; see [`AccessRequest::state_at`].
    pub state: AccessState,
    /// Of a rejection.
    pub reason: Option<String>,
    pub received_at: OffsetDateTime,
    pub due_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    /// Of its package, once there was one.
    pub package: Option<PackageNote>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageNote {
    pub lock: LockKind,
    pub expires_at: OffsetDateTime,
    /// By the link.
    pub downloads: u32,
}

impl AccessRequest {
    pub fn state_at(&self, now: OffsetDateTime) -> AccessState {
        self.state.at(now, self.package.as_ref().map(|package| package.expires_at))
    }
}

/// A package to be kept with its request.
pub struct NewPackage {
    sealed: Vec<u8>,
    link_hash: [u8; 32],
    lock: LockKind,
    expires_at: OffsetDateTime,
    /// Takes it away.
    expiry: NewJob,
}

impl NewPackage {
    pub fn sealed(
        request: AccessId,
        (locked, lock): (&[u8], LockKind),
        key: &DataKey,
        link_hash: [u8; 32],
        (expires_at, expiry): (OffsetDateTime, NewJob),
    ) -> Result<Self, StoreError> {
        let sealed = key.seal(&place(&request.to_string()), locked)?;
        Ok(Self { sealed, link_hash, lock, expires_at, expiry })
    }

    pub fn note(&self) -> PackageNote {
        PackageNote { lock: self.lock, expires_at: self.expires_at, downloads: 0 }
    }
}

/// A package as it rests.
pub struct SealedPackage {
    request: AccessId,
    sealed: Vec<u8>,
}

impl SealedPackage {
    /// The age ciphertext.
    pub fn open(&self, key: &DataKey) -> Result<Vec<u8>, StoreError> {
        let mut locked = key.open(&place(&self.request.to_string()), &self.sealed)?;
        Ok(std::mem::take(&mut *locked))
    }
}

#[derive(Debug, Clone)]
pub struct AccessFilter {
    pub state: Option<AccessState>,
    pub subject: Option<SubjectId>,
    pub now: OffsetDateTime,
}

pub struct AccessRequests<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = requests)]
struct Row {
    id: String,
    tenant_id: String,
    subject_id: String,
    regulation: String,
    state: String,
    reason: Option<String>,
    received_at: i64,
    due_at: i64,
    ended_at: Option<i64>,
    encrypted_for: Option<String>,
    expires_at: Option<i64>,
    downloads: i64,
}

impl AccessRequests<'_> {
    /// `NotFound` where there is no such person.
    pub async fn open(&self, request: &AccessRequest, package: Option<NewPackage>, act: Act) -> Result<(), StoreError> {
        let (tenant, subject, id, row) = (request.tenant, request.subject, request.id, Row::of(request));
        self.pool
            .write(tenant, move |connection| {
                subjects::lock(connection, tenant, subject)?;
                diesel::insert_into(requests::table).values(&row).execute(connection)?;
                if let Some(package) = package {
                    keep(connection, tenant, id, &package)?;
                }
                act.complete(connection, tenant)
            })
            .await
    }

    /// Answers a request that waits. `Conflict` where it does not.
    pub async fn complete(&self, request: &AccessRequest, package: NewPackage, act: Act) -> Result<(), StoreError> {
        let (tenant, subject, id, ended_at) = (request.tenant, request.subject, request.id, request.ended_at);
        self.pool
            .write(tenant, move |connection| {
                // The person first, as everywhere, so that nobody waits for the other.
                subjects::lock(connection, tenant, subject)?;
                let mut request = lock(connection, tenant, id)?;
                request.enter(AccessState::Completed, None, ended_at)?;
                save(connection, &request)?;
                keep(connection, tenant, id, &package)?;
                act.complete(connection, tenant)
            })
            .await
    }

    /// Rejects or cancels a request; a package that there was is gone with its link.
    pub async fn end(
        &self,
        tenant: TenantId,
        id: AccessId,
        (state, reason): (AccessState, Option<String>),
        now: OffsetDateTime,
        act: impl FnOnce(&AccessRequest) -> Result<Act, StoreError> + Send + 'static,
    ) -> Result<AccessRequest, StoreError> {
        self.pool
            .run(tenant, move |connection| {
                let request = connection.write(|connection| {
                    let mut request = lock(connection, tenant, id)?;
                    request.state = request.state_at(now);
                    request.enter(state, reason, Some(now))?;
                    save(connection, &request)?;
                    destroy(connection, tenant, id)?;
                    act(&request)?.complete(connection, tenant)?;
                    Ok(request)
                })?;
                connection.scrub()?;
                Ok(request)
            })
            .await
    }

    /// Takes away a package whose time is over. Safe to repeat.
    pub async fn expire(&self, tenant: TenantId, id: AccessId, event: Event) -> Result<(), StoreError> {
        self.pool
            .run(tenant, move |connection| {
                connection.write(|connection| {
                    let mut request = lock(connection, tenant, id)?;
                    if request.state != AccessState::Completed || request.state_at(event.at) != AccessState::Expired {
                        return Ok(());
                    }
                    request.state = AccessState::Expired;
                    save(connection, &request)?;
                    destroy(connection, tenant, id)?;
                    audit::append(connection, tenant, &event).map(drop)
                })?;
                Ok(connection.scrub()?)
            })
            .await
    }

    pub async fn find(&self, tenant: TenantId, id: AccessId) -> Result<AccessRequest, StoreError> {
        self.pool.run(tenant, move |connection| find(connection, tenant, id)).await
    }

    /// Newest first; `before` is the `next` of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        filter: AccessFilter,
        before: Option<AccessId>,
        limit: u32,
    ) -> Result<Page<AccessRequest, AccessId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let mut query = requests::table
            .filter(requests::tenant_id.eq(tenant.to_string()))
            .filter(requests::id.lt(before))
            .select(Row::as_select())
            .into_boxed();
        if let Some(subject) = filter.subject {
            query = query.filter(requests::subject_id.eq(subject.to_string()));
        }
        let (completed, now) = (AccessState::Completed.as_str(), micros(filter.now));
        match filter.state {
            None => {}
            Some(AccessState::Completed) => {
                query = query.filter(requests::state.eq(completed)).filter(requests::expires_at.gt(now));
            }
            Some(AccessState::Expired) => {
                let over = requests::state.eq(completed).and(requests::expires_at.le(now).assume_not_null());
                query = query.filter(requests::state.eq(AccessState::Expired.as_str()).or(over));
            }
            Some(state) => query = query.filter(requests::state.eq(state.as_str())),
        }
        let query = query.order(requests::id.desc()).limit(rows_to_load(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(AccessRequest::try_from).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |request: &AccessRequest| request.id))
    }

    /// How many wait to be answered, and by when the first of them is due; of all tenants.
    pub async fn open_and_first_due(&self) -> Result<(i64, Option<OffsetDateTime>), StoreError> {
        let open = requests::table.filter(requests::ended_at.is_null());
        let query = open.select((diesel::dsl::count_star(), diesel::dsl::min(requests::due_at)));
        let (count, due): (i64, Option<i64>) =
            self.pool.run(Reach::Every, move |connection| Ok(query.first(connection)?)).await?;
        Ok((count, due.map(|due| instant("access_requests.due_at", due)).transpose()?))
    }

    /// Whose package a link leads to, of whichever tenant.
    pub async fn behind(&self, link_hash: [u8; 32]) -> Result<AccessRequest, StoreError> {
        let query = requests::table.filter(requests::link_hash.eq(link_hash.to_vec())).select(Row::as_select());
        let row: Row = self.pool.run(Reach::Every, move |connection| Ok(query.first(connection)?)).await?;
        row.try_into()
    }

    /// Hands out a package, and records that. With `at_most` a link is counted, and is at its end after so many. `NotFound`
    /// where nothing can be had.
    pub async fn fetch(
        &self,
        tenant: TenantId,
        id: AccessId,
        at_most: Option<u32>,
        event: Event,
    ) -> Result<SealedPackage, StoreError> {
        self.pool
            .write(tenant, move |connection| {
                let request = lock(connection, tenant, id)?;
                let downloads = request.package.as_ref().map_or(0, |package| package.downloads);
                let spent = at_most.is_some_and(|at_most| downloads >= at_most);
                if request.state_at(event.at) != AccessState::Completed || spent {
                    return Err(StoreError::NotFound);
                }
                let sealed: Option<Vec<u8>> = own(tenant, id).select(requests::package).first(connection)?;
                let sealed = sealed.ok_or(StoreError::NotFound)?;
                if at_most.is_some() {
                    let counted = requests::downloads.eq(i64::from(downloads) + 1);
                    diesel::update(own(tenant, id)).set(counted).execute(connection)?;
                }
                audit::append(connection, tenant, &event)?;
                Ok(SealedPackage { request: id, sealed })
            })
            .await
    }
}

impl AccessRequest {
    fn enter(
        &mut self,
        state: AccessState,
        reason: Option<String>,
        at: Option<OffsetDateTime>,
    ) -> Result<(), StoreError> {
        if !self.state.may_become(state) {
            return Err(StoreError::Conflict(Conflict::AccessState));
        }
        (self.state, self.reason, self.ended_at) = (state, reason, at);
        Ok(())
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(tenant: TenantId, id: AccessId) -> _ {
    let (tenant, id): (String, String) = (tenant.to_string(), id.to_string());
    requests::table.filter(requests::tenant_id.eq(tenant)).filter(requests::id.eq(id))
}

/// Holds a request until commit. The update changes nothing; it takes the row's lock.
fn lock(connection: &mut AnyConnection, tenant: TenantId, id: AccessId) -> Result<AccessRequest, StoreError> {
    diesel::update(own(tenant, id)).set(requests::due_at.eq(requests::due_at)).execute(connection)?;
    find(connection, tenant, id)
}

fn find(connection: &mut AnyConnection, tenant: TenantId, id: AccessId) -> Result<AccessRequest, StoreError> {
    let row: Row = own(tenant, id).select(Row::as_select()).first(connection)?;
    row.try_into()
}

fn save(connection: &mut AnyConnection, request: &AccessRequest) -> Result<(), StoreError> {
    let row = Row::of(request);
    let changes = (requests::state.eq(row.state), requests::reason.eq(row.reason), requests::ended_at.eq(row.ended_at));
    Ok(diesel::update(own(request.tenant, request.id)).set(changes).execute(connection).map(drop)?)
}

fn keep(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: AccessId,
    package: &NewPackage,
) -> Result<(), StoreError> {
    let columns = (
        requests::encrypted_for.eq(package.lock.as_str()),
        requests::expires_at.eq(micros(package.expires_at)),
        requests::link_hash.eq(package.link_hash.to_vec()),
        requests::package.eq(&package.sealed),
    );
    diesel::update(own(tenant, id)).set(columns).execute(connection)?;
    jobs::enqueue(connection, &package.expiry)
}

fn destroy(connection: &mut AnyConnection, tenant: TenantId, id: AccessId) -> Result<(), StoreError> {
    let nothing = (requests::link_hash.eq(None::<Vec<u8>>), requests::package.eq(None::<Vec<u8>>));
    Ok(diesel::update(own(tenant, id)).set(nothing).execute(connection).map(drop)?)
}

fn place(id: &str) -> Place<'_> {
    Place { table: "access_requests", row: id, column: "package" }
}

impl Row {
    fn of(request: &AccessRequest) -> Self {
        let package = request.package.as_ref();
        Self {
            id: request.id.to_string(),
            tenant_id: request.tenant.to_string(),
            subject_id: request.subject.to_string(),
            regulation: request.regulation.as_str().to_owned(),
            state: request.state.as_str().to_owned(),
            reason: request.reason.clone(),
            received_at: micros(request.received_at),
            due_at: micros(request.due_at),
            ended_at: request.ended_at.map(micros),
            encrypted_for: package.map(|package| package.lock.as_str().to_owned()),
            expires_at: package.map(|package| micros(package.expires_at)),
            downloads: package.map_or(0, |package| package.downloads.into()),
        }
    }
}

impl TryFrom<Row> for AccessRequest {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let downloads = u32::try_from(row.downloads);
        let package = match (row.encrypted_for, row.expires_at) {
            (Some(lock), Some(expires_at)) => Some(PackageNote {
                lock: parse("access_requests.encrypted_for", &lock)?,
                expires_at: instant("access_requests.expires_at", expires_at)?,
                downloads: downloads.map_err(|_| StoreError::Corrupt { column: "access_requests.downloads" })?,
            }),
            _ => None,
        };
        Ok(Self {
            id: parse("access_requests.id", &row.id)?,
            tenant: parse("access_requests.tenant_id", &row.tenant_id)?,
            subject: parse("access_requests.subject_id", &row.subject_id)?,
            regulation: parse("access_requests.regulation", &row.regulation)?,
            state: parse("access_requests.state", &row.state)?,
            reason: row.reason,
            received_at: instant("access_requests.received_at", row.received_at)?,
            due_at: instant("access_requests.due_at", row.due_at)?,
            ended_at: row.ended_at.map(|at| instant("access_requests.ended_at", at)).transpose()?,
            package,
        })
    }
}
