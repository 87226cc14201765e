//! Requests that came by OpenDSR, and what their controllers have yet to be told.
//!
//! What follows from a change of an erasure request is written in the transaction of the change: a row for each receiver, and
//! a job for each that has none. The job tells its receiver one row after another, oldest first, and ends in a transaction
//! that finds no row left ([`OpenDsr::finish`]). Both hold the request's row, so that no change comes in between.

use diesel::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    audit::{self, Act},
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    erasures::{self, ErasureRequest},
    error::{Conflict, StoreError},
    jobs::{self, Lease, NewJob},
    schema::main::{erasure_requests, opendsr_callbacks as callbacks, opendsr_requests as requests},
    subjects,
};
use crate::{
    audit::Event,
    domain::{
        erasure::ErasureState,
        id::{ErasureId, SubjectId, TenantId},
        job::JobKind,
        opendsr::SubjectRequestId,
    },
    vault::{DataKey, Place, VaultError},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDsrRequest {
    pub id: SubjectRequestId,
    pub tenant: TenantId,
    /// `None`: nobody was found, and nothing was to be done.
    pub erasure: Option<ErasureId>,
    /// Of what was sent.
    pub fingerprint: [u8; 32],
    pub received_at: OffsetDateTime,
    pub due_at: OffsetDateTime,
}

/// Whom to tell of changes. They may hold secrets, and must outlive the person: they are sealed under a key of their own.
pub struct Receivers<'a> {
    /// In the key store, as if of a person.
    pub key_id: SubjectId,
    pub key: &'a DataKey,
    /// At least one.
    pub addresses: &'a [String],
}

/// What a receiver is told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// The same in every attempt.
    pub id: String,
    /// From 1, in the order of the changes.
    pub change: i64,
    pub state: ErasureState,
    pub due_at: OffsetDateTime,
    pub key_id: SubjectId,
    request: SubjectRequestId,
    receiver: i64,
    addresses: Vec<u8>,
}

impl Callback {
    /// Of the receiver.
    pub fn open_address(&self, key: &DataKey) -> Result<Zeroizing<String>, StoreError> {
        let plain = key.open(&place(&self.request.to_string()), &self.addresses)?;
        let malformed = || StoreError::Sealed(VaultError::Malformed);
        let mut addresses: Vec<Zeroizing<String>> = serde_json::from_slice::<Vec<String>>(&plain)
            .map_err(|_| malformed())?
            .into_iter()
            .map(Zeroizing::new)
            .collect();
        let receiver = usize::try_from(self.receiver).map_err(|_| malformed())?;
        if receiver < addresses.len() { Ok(addresses.swap_remove(receiver)) } else { Err(malformed()) }
    }
}

/// A request whose receivers' addresses are kept, and the key that seals them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAddresses {
    pub tenant: TenantId,
    pub request: SubjectRequestId,
    pub key_id: SubjectId,
}

pub struct OpenDsr<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = requests)]
struct Row {
    tenant_id: String,
    id: String,
    erasure_id: Option<String>,
    fingerprint: Vec<u8>,
    received_at: i64,
    due_at: i64,
    receivers: i64,
    changes: i64,
    key_id: Option<String>,
    addresses: Option<Vec<u8>>,
}

impl OpenDsr<'_> {
    /// Writes a request down together with the erasure request that follows from it, if somebody was found; else its end is
    /// told at once. `Conflict` where the tenant has a request of this id, or the person an open one.
    pub async fn submit(
        &self,
        request: &OpenDsrRequest,
        receivers: Option<Receivers<'_>>,
        erasure: Option<(ErasureRequest, NewJob)>,
        act: Act,
    ) -> Result<(), StoreError> {
        let (tenant, id) = (request.tenant, request.id);
        let row = Row::of(request, receivers)?;
        self.pool
            .write(tenant, move |connection| {
                if let Some((erasure, _)) = &erasure {
                    // The person first, as everywhere.
                    subjects::lock(connection, tenant, erasure.subject.ok_or(StoreError::NotFound)?)?;
                }
                let written = diesel::insert_into(requests::table).values(&row).execute(connection);
                written.map_err(|error| StoreError::from(error).or_conflict(Conflict::SubjectRequestId))?;
                match &erasure {
                    Some((erasure, job)) => {
                        erasures::insert(connection, erasure)?;
                        jobs::enqueue(connection, job)?;
                    }
                    None => tell(connection, tenant, id, ErasureState::Completed, act.event.at)?,
                }
                act.complete(connection, tenant)
            })
            .await
    }

    pub async fn find(&self, tenant: TenantId, id: SubjectRequestId) -> Result<OpenDsrRequest, StoreError> {
        let query = own(tenant, id);
        let row: Row = self.pool.run(tenant, move |connection| Ok(query.first(connection)?)).await?;
        row.try_into()
    }

    /// What a receiver is told next.
    pub async fn next(
        &self,
        tenant: TenantId,
        id: SubjectRequestId,
        receiver: i64,
    ) -> Result<Option<Callback>, StoreError> {
        let query = waiting(tenant, id).filter(callbacks::receiver.eq(receiver)).order(callbacks::change).select((
            callbacks::id,
            callbacks::change,
            callbacks::state,
        ));
        let found = self.pool.run(tenant, move |connection| {
            let next: Option<(String, i64, String)> = query.first(connection).optional()?;
            let row: Row = own(tenant, id).first(connection)?;
            Ok(next.map(|next| (next, row)))
        });
        let Some(((callback, change, state), row)) = found.await? else { return Ok(None) };
        // Forgotten: nobody can be told any more.
        let (Some(key_id), Some(addresses)) = (row.key_id, row.addresses) else { return Ok(None) };
        Ok(Some(Callback {
            id: callback,
            change,
            state: parse("opendsr_callbacks.state", &state)?,
            due_at: instant("opendsr_requests.due_at", row.due_at)?,
            key_id: parse("opendsr_requests.key_id", &key_id)?,
            request: id,
            receiver,
            addresses,
        }))
    }

    /// The receiver was told. Safe to repeat: the first time counts.
    pub async fn told(&self, tenant: TenantId, callback: &Callback, event: Event) -> Result<(), StoreError> {
        let told = callbacks::table
            .filter(callbacks::tenant_id.eq(tenant.to_string()))
            .filter(callbacks::id.eq(callback.id.clone()));
        self.pool
            .write(tenant, move |connection| match diesel::delete(told).execute(connection)? {
                0 => Ok(()),
                _ => audit::append(connection, tenant, &event).map(drop),
            })
            .await
    }

    /// Ends the job of a receiver who has been told everything; whether that is so.
    pub async fn finish(
        &self,
        tenant: TenantId,
        id: SubjectRequestId,
        receiver: i64,
        lease: Lease,
    ) -> Result<bool, StoreError> {
        self.pool
            .write(tenant, move |connection| {
                // The update changes nothing; it takes the row's lock, as `tell` does.
                diesel::update(own(tenant, id)).set(requests::changes.eq(requests::changes)).execute(connection)?;
                let rest = waiting(tenant, id).filter(callbacks::receiver.eq(receiver));
                if rest.count().get_result::<i64>(connection)? > 0 {
                    return Ok(false);
                }
                jobs::finish(connection, &lease)?;
                Ok(true)
            })
            .await
    }

    /// The key of the addresses of a request that has ended, when every receiver knows.
    pub async fn key_to_forget(&self, tenant: TenantId, id: SubjectRequestId) -> Result<Option<SubjectId>, StoreError> {
        let key = self.pool.run(tenant, move |connection| {
            let row: Row = own(tenant, id).first(connection)?;
            let everybody_knows = waiting(tenant, id).count().get_result::<i64>(connection)? == 0;
            let is_over = has_ended(connection, &row, i64::MAX)?;
            Ok(row.key_id.filter(|_| everybody_knows && is_over))
        });
        key.await?.map(|key| parse("opendsr_requests.key_id", &key)).transpose()
    }

    /// Requests of all tenants that ended before a moment and whose addresses are still kept.
    pub async fn kept_addresses(&self, ended_before: OffsetDateTime) -> Result<Vec<KeptAddresses>, StoreError> {
        let ended_before = micros(ended_before);
        let query =
            requests::table.filter(requests::key_id.is_not_null()).filter(requests::received_at.lt(ended_before));
        let found = self.pool.run(Reach::Every, move |connection| {
            let mut kept = Vec::new();
            for row in query.load::<Row>(connection)? {
                if has_ended(connection, &row, ended_before)? {
                    kept.push(row);
                }
            }
            Ok(kept)
        });
        let read = |row: Row| {
            Ok(KeptAddresses {
                tenant: parse("opendsr_requests.tenant_id", &row.tenant_id)?,
                request: parse("opendsr_requests.id", &row.id)?,
                key_id: parse("opendsr_requests.key_id", row.key_id.as_deref().unwrap_or_default())?,
            })
        };
        found.await?.into_iter().map(read).collect()
    }

    /// Nobody is told anything any more. After the key is destroyed.
    pub async fn forget_addresses(
        &self,
        tenant: TenantId,
        id: SubjectRequestId,
        event: Option<Event>,
    ) -> Result<(), StoreError> {
        let changes = (requests::key_id.eq(None::<String>), requests::addresses.eq(None::<Vec<u8>>));
        self.pool
            .write(tenant, move |connection| {
                diesel::update(own(tenant, id)).set((changes, requests::receivers.eq(0))).execute(connection)?;
                diesel::delete(waiting(tenant, id)).execute(connection)?;
                event.map_or(Ok(()), |event| audit::append(connection, tenant, &event).map(drop))
            })
            .await
    }
}

/// Queues, inside the transaction of the change, what the controllers are told of it who passed this erasure on.
pub(super) fn tell_of(
    connection: &mut AnyConnection,
    erasure: &ErasureRequest,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let passed_on = requests::table
        .filter(requests::tenant_id.eq(erasure.tenant.to_string()))
        .filter(requests::erasure_id.eq(erasure.id.to_string()))
        .select(requests::id);
    for id in passed_on.load::<String>(connection)? {
        tell(connection, erasure.tenant, parse("opendsr_requests.id", &id)?, erasure.state, now)?;
    }
    Ok(())
}

fn tell(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: SubjectRequestId,
    state: ErasureState,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    diesel::update(own(tenant, id)).set(requests::changes.eq(requests::changes + 1)).execute(connection)?;
    let row: Row = own(tenant, id).first(connection)?;
    for receiver in 0..row.receivers {
        let callback = (
            callbacks::id.eq(Uuid::now_v7().to_string()),
            callbacks::tenant_id.eq(tenant.to_string()),
            callbacks::request_id.eq(id.to_string()),
            callbacks::receiver.eq(receiver),
            callbacks::change.eq(row.changes),
            callbacks::state.eq(state.as_str()),
        );
        diesel::insert_into(callbacks::table).values(callback).execute(connection)?;
        let job = NewJob {
            kind: JobKind::Callback,
            tenant: Some(tenant),
            payload: serde_json::json!({ "request": id.to_string(), "receiver": receiver }),
            // One after the other, in order.
            unique_key: Some(format!("{tenant} {id} {receiver}")),
            due_at: now,
            created_at: now,
        };
        jobs::enqueue(connection, &job)?;
    }
    Ok(())
}

/// Whether nothing more will come of a request, since before a moment.
fn has_ended(connection: &mut AnyConnection, row: &Row, before: i64) -> Result<bool, StoreError> {
    let Some(erasure) = &row.erasure_id else { return Ok(true) };
    let open = erasure_requests::table
        .filter(erasure_requests::tenant_id.eq(&row.tenant_id))
        .filter(erasure_requests::id.eq(erasure))
        .filter(erasure_requests::ended_at.is_null().or(erasure_requests::ended_at.ge(before)));
    Ok(open.count().get_result::<i64>(connection)? == 0)
}

/// A replay of the ledger puts one erasure request in the place of others: whoever passed those on passed on the same wish.
pub(super) fn follow(
    connection: &mut AnyConnection,
    tenant: TenantId,
    from: &[String],
    to: ErasureId,
) -> Result<(), StoreError> {
    let passed_on = requests::table
        .filter(requests::tenant_id.eq(tenant.to_string()))
        .filter(requests::erasure_id.eq_any(from.iter().map(Some)));
    diesel::update(passed_on).set(requests::erasure_id.eq(to.to_string())).execute(connection)?;
    Ok(())
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(tenant: TenantId, id: SubjectRequestId) -> _ {
    let (tenant, id): (String, String) = (tenant.to_string(), id.to_string());
    requests::table.filter(requests::tenant_id.eq(tenant)).filter(requests::id.eq(id))
}

#[diesel::dsl::auto_type(no_type_alias)]
fn waiting(tenant: TenantId, id: SubjectRequestId) -> _ {
    let (tenant, id): (String, String) = (tenant.to_string(), id.to_string());
    callbacks::table.filter(callbacks::tenant_id.eq(tenant)).filter(callbacks::request_id.eq(id))
}

fn place(id: &str) -> Place<'_> {
    Place { table: "opendsr_requests", row: id, column: "addresses" }
}

impl Row {
    fn of(request: &OpenDsrRequest, receivers: Option<Receivers<'_>>) -> Result<Self, StoreError> {
        let id = request.id.to_string();
        let seal = |receivers: &Receivers<'_>| {
            // A list of texts always serialises.
            let plain = Zeroizing::new(serde_json::to_vec(receivers.addresses).unwrap_or_default());
            receivers.key.seal(&place(&id), &plain)
        };
        Ok(Self {
            tenant_id: request.tenant.to_string(),
            erasure_id: request.erasure.map(|erasure| erasure.to_string()),
            fingerprint: request.fingerprint.to_vec(),
            received_at: micros(request.received_at),
            due_at: micros(request.due_at),
            receivers: receivers.as_ref().map_or(0, |receivers| receivers.addresses.len() as i64),
            changes: 0,
            key_id: receivers.as_ref().map(|receivers| receivers.key_id.to_string()),
            addresses: receivers.as_ref().map(seal).transpose()?,
            id,
        })
    }
}

impl TryFrom<Row> for OpenDsrRequest {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let fingerprint = row.fingerprint.try_into();
        Ok(Self {
            id: parse("opendsr_requests.id", &row.id)?,
            tenant: parse("opendsr_requests.tenant_id", &row.tenant_id)?,
            erasure: row.erasure_id.map(|id| parse("opendsr_requests.erasure_id", &id)).transpose()?,
            fingerprint: fingerprint.map_err(|_| StoreError::Corrupt { column: "opendsr_requests.fingerprint" })?,
            received_at: instant("opendsr_requests.received_at", row.received_at)?,
            due_at: instant("opendsr_requests.due_at", row.due_at)?,
        })
    }
}
