//! The audit log's rows. An entry is written in the transaction of the act that it records: if it cannot be written, the
//! act does not happen.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    idempotency::{self, Receipt},
    page::{Page, rows_to_load},
    schema::main::{audit_beginnings, audit_checkpoints, audit_events, audit_heads},
};
use crate::{
    audit::{Chain, Checkpoint, Entry, Event, Hash, SubjectDigest, stamp},
    domain::id::TenantId,
};

/// What is written with an effect: its place in the audit log, and the answer that the same call gets again.
pub struct Act {
    pub event: Event,
    pub receipt: Option<Receipt>,
}

impl Act {
    /// Last in the transaction, for from here on other acts of the tenant wait for its end.
    pub(super) fn complete(&self, connection: &mut AnyConnection, tenant: TenantId) -> Result<(), StoreError> {
        self.complete_unchanged(connection)?;
        append(connection, tenant, &self.event).map(drop)
    }

    /// For a call that found nothing to change: it is answered, and there is nothing to record.
    pub(super) fn complete_unchanged(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        idempotency::complete(connection, self.receipt.as_ref())
    }
}

impl From<Event> for Act {
    fn from(event: Event) -> Self {
        Self { event, receipt: None }
    }
}

pub struct Audit<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = audit_events)]
struct Row {
    tenant_id: String,
    sequence: i64,
    at: i64,
    action: String,
    actor: String,
    request_id: Option<String>,
    subject_digest: Option<Vec<u8>>,
    object: Option<String>,
    reason: Option<String>,
    hash: Vec<u8>,
}

/// Which entries are asked for.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub subject: Option<SubjectDigest>,
    pub action: Option<String>,
    pub object: Option<String>,
    /// From this moment on, by the clock that wrote them.
    pub since: Option<OffsetDateTime>,
    /// Before this one.
    pub before: Option<OffsetDateTime>,
}

impl Audit<'_> {
    /// Records what has no other effect in this database.
    pub async fn append(&self, tenant: TenantId, event: Event) -> Result<(), StoreError> {
        self.pool.write(tenant, move |connection| append(connection, tenant, &event).map(drop)).await
    }

    /// Records what concerns every tenant: in all their logs or in none.
    pub async fn append_to_all(&self, event: Event) -> Result<(), StoreError> {
        self.pool.write(Reach::Every, move |connection| append_to_all(connection, &event)).await
    }

    /// Newest first; `before` is the `next` of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        filter: AuditFilter,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Page<Entry, u64>, StoreError> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let mut query = of_tenant(tenant).filter(audit_events::sequence.lt(before)).into_boxed();
        if let Some(subject) = filter.subject {
            query = query.filter(audit_events::subject_digest.eq(subject.0.to_vec()));
        }
        if let Some(action) = filter.action {
            query = query.filter(audit_events::action.eq(action));
        }
        if let Some(object) = filter.object {
            query = query.filter(audit_events::object.eq(object));
        }
        let days = (filter.since.map_or(i64::MIN, micros), filter.before.map_or(i64::MAX, micros));
        let of_some_days = filter.since.is_some() || filter.before.is_some();
        let load = move |connection: &mut AnyConnection| {
            if of_some_days {
                // Where they are in the log: a walk back to a day long ago would pass by everything since.
                let Some((first, last)) = between(connection, tenant, days)? else { return Ok(Vec::new()) };
                query = query.filter(audit_events::sequence.between(first, last));
                // A clock that was set back leaves others among them.
                query = query.filter(audit_events::at.ge(days.0)).filter(audit_events::at.lt(days.1));
            }
            Ok(query.order(audit_events::sequence.desc()).limit(rows_to_load(limit)).load(connection)?)
        };
        let rows: Vec<Row> = self.pool.run(tenant, load).await?;
        let entries = rows.into_iter().map(|row| row.entry().map(|(entry, _)| entry)).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(entries, limit, |entry: &Entry| entry.sequence))
    }

    /// Up to `limit` entries after one, oldest first, each with its hash as it is written.
    pub async fn after(&self, tenant: TenantId, sequence: u64, limit: u32) -> Result<Vec<(Entry, Hash)>, StoreError> {
        let query = of_tenant(tenant)
            .filter(audit_events::sequence.gt(i64::try_from(sequence).unwrap_or(i64::MAX)))
            .order(audit_events::sequence)
            .limit(i64::from(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(Row::entry).collect()
    }

    /// The end of the log, as it is now.
    pub async fn chain(&self, tenant: TenantId) -> Result<Chain, StoreError> {
        self.pool.run(tenant, move |connection| head(connection, tenant)).await
    }

    /// What the log begins after, and the checkpoint that stands for it; `None` where nothing went.
    pub async fn beginning(&self, tenant: TenantId) -> Result<Option<(Chain, String)>, StoreError> {
        type Row = (i64, Vec<u8>, Vec<u8>, String);
        let load = move |connection: &mut AnyConnection| {
            let tenant = tenant.to_string();
            let row = audit_beginnings::table.find(&tenant).select((
                audit_beginnings::size,
                audit_beginnings::hash,
                audit_beginnings::peaks,
            ));
            let Some((size, hash, peaks)) = row.first::<(i64, Vec<u8>, Vec<u8>)>(connection).optional()? else {
                return Ok(None);
            };
            let jws =
                audit_checkpoints::table.find((&tenant, size)).select(audit_checkpoints::jws).first(connection)?;
            Ok(Some((size, hash, peaks, jws)))
        };
        let row: Option<Row> = self.pool.run(tenant, load).await?;
        let read = |(size, hash, peaks, jws): Row| {
            let size = count("audit_beginnings.size", size)?;
            let chain = Chain::resume(tenant, size, &hash, &peaks);
            chain.map(|chain| (chain, jws)).map_err(|_| StoreError::Corrupt { column: "audit_beginnings.peaks" })
        };
        row.map(read).transpose()
    }

    /// The newest checkpoint that was signed at `until` or before, with its size.
    pub async fn checkpoint_until(
        &self,
        tenant: TenantId,
        until: OffsetDateTime,
    ) -> Result<Option<(u64, String)>, StoreError> {
        let query = audit_checkpoints::table
            .filter(audit_checkpoints::tenant_id.eq(tenant.to_string()))
            .filter(audit_checkpoints::at.le(micros(until)))
            .order(audit_checkpoints::size.desc())
            .select((audit_checkpoints::size, audit_checkpoints::jws));
        let row: Option<(i64, String)> =
            self.pool.run(tenant, move |connection| Ok(query.first(connection).optional()?)).await?;
        row.map(|(size, jws)| Ok((count("audit_checkpoints.size", size)?, jws))).transpose()
    }

    /// From now on what `gone` holds may be deleted, but for the checkpoint of its size, which must be there.
    pub async fn begin_after(&self, tenant: TenantId, gone: &Chain) -> Result<(), StoreError> {
        let size = i64::try_from(gone.size()).unwrap_or(i64::MAX);
        let state = (
            audit_beginnings::size.eq(size),
            audit_beginnings::hash.eq(gone.hash().to_vec()),
            audit_beginnings::peaks.eq(gone.peaks_to_bytes()),
        );
        let begin_after = move |connection: &mut AnyConnection| {
            let tenant = tenant.to_string();
            let own = audit_beginnings::table.find(&tenant);
            if diesel::update(own).set(state.clone()).execute(connection)? == 0 {
                let row = (audit_beginnings::tenant_id.eq(&tenant), state);
                diesel::insert_into(audit_beginnings::table).values(row).execute(connection)?;
            }
            let older = audit_checkpoints::table
                .filter(audit_checkpoints::tenant_id.eq(&tenant))
                .filter(audit_checkpoints::size.lt(size));
            diesel::delete(older).execute(connection)?;
            Ok(())
        };
        self.pool.write(tenant, begin_after).await
    }

    /// Keeps a signed checkpoint. One of the same size is there already: the older one stays.
    pub async fn keep_checkpoint(
        &self,
        tenant: TenantId,
        checkpoint: &Checkpoint,
        at: OffsetDateTime,
        jws: String,
    ) -> Result<(), StoreError> {
        let row = (
            audit_checkpoints::tenant_id.eq(tenant.to_string()),
            audit_checkpoints::size.eq(i64::try_from(checkpoint.size).unwrap_or(i64::MAX)),
            audit_checkpoints::at.eq(micros(at)),
            audit_checkpoints::jws.eq(jws),
        );
        let insert = move |connection: &mut AnyConnection| {
            Ok(diesel::insert_into(audit_checkpoints::table).values(row).execute(connection)?)
        };
        match self.pool.run(tenant, insert).await.map_err(|error| error.or_conflict(Conflict::Id)) {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Signed checkpoints with their sizes, newest first; `before` is the `next` of the page before.
    pub async fn checkpoints(
        &self,
        tenant: TenantId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Page<(u64, String), u64>, StoreError> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let query = audit_checkpoints::table
            .filter(audit_checkpoints::tenant_id.eq(tenant.to_string()))
            .filter(audit_checkpoints::size.lt(before))
            .order(audit_checkpoints::size.desc())
            .limit(rows_to_load(limit))
            .select((audit_checkpoints::size, audit_checkpoints::jws));
        let rows: Vec<(i64, String)> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(size, jws)| Ok((count("audit_checkpoints.size", size)?, jws));
        let items = rows.into_iter().map(read).collect::<Result<_, StoreError>>()?;
        Ok(Page::from_rows(items, limit, |(size, _)| *size))
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn of_tenant(tenant: TenantId) -> _ {
    let tenant: String = tenant.to_string();
    audit_events::table.filter(audit_events::tenant_id.eq(tenant))
}

/// The first and the last entry that were written from one moment on and before another.
fn between(
    connection: &mut AnyConnection,
    tenant: TenantId,
    (since, before): (i64, i64),
) -> Result<Option<(i64, i64)>, StoreError> {
    let query = of_tenant(tenant)
        .filter(audit_events::at.ge(since))
        .filter(audit_events::at.lt(before))
        .select((diesel::dsl::min(audit_events::sequence), diesel::dsl::max(audit_events::sequence)));
    let (first, last): (Option<i64>, Option<i64>) = query.first(connection)?;
    Ok(first.zip(last))
}

/// Adds to the log of a tenant; from here to the end of the transaction nobody else can.
pub(super) fn append(connection: &mut AnyConnection, tenant: TenantId, event: &Event) -> Result<Chain, StoreError> {
    let own_head = audit_heads::table.find(tenant.to_string());
    // The update changes nothing; it takes the row's lock.
    let locked = diesel::update(own_head.clone()).set(audit_heads::size.eq(audit_heads::size)).execute(connection)?;
    if locked == 0 {
        return Err(StoreError::Corrupt { column: "audit_heads.tenant_id" });
    }
    let mut chain = head(connection, tenant)?;
    let entry = event.entry(chain.size() + 1);
    chain.push(&entry);
    let sequence = i64::try_from(chain.size()).map_err(|_| StoreError::Corrupt { column: "audit_heads.size" })?;
    let row = Row {
        tenant_id: tenant.to_string(),
        sequence,
        at: micros(event.at),
        action: entry.action,
        actor: entry.actor,
        request_id: entry.request,
        subject_digest: event.subject.map(|subject| subject.0.to_vec()),
        object: entry.object,
        reason: entry.reason,
        hash: chain.hash().to_vec(),
    };
    diesel::insert_into(audit_events::table).values(&row).execute(connection)?;
    let new_head = (
        audit_heads::size.eq(sequence),
        audit_heads::hash.eq(&row.hash),
        audit_heads::peaks.eq(chain.peaks_to_bytes()),
    );
    diesel::update(own_head).set(new_head).execute(connection)?;
    Ok(chain)
}

/// Adds to every tenant's log, inside a writing transaction that reaches all of them.
pub(super) fn append_to_all(connection: &mut AnyConnection, event: &Event) -> Result<(), StoreError> {
    // In one order, so that two of these do not wait for each other.
    let tenants = audit_heads::table.select(audit_heads::tenant_id).order(audit_heads::tenant_id);
    for tenant in tenants.load::<String>(connection)? {
        append(connection, parse("audit_heads.tenant_id", &tenant)?, event)?;
    }
    Ok(())
}

/// Begins a tenant's log.
pub(super) fn begin(connection: &mut AnyConnection, tenant: TenantId) -> Result<(), StoreError> {
    let row = (
        audit_heads::tenant_id.eq(tenant.to_string()),
        audit_heads::size.eq(0),
        audit_heads::hash.eq(Vec::new()),
        audit_heads::peaks.eq(Vec::new()),
    );
    Ok(diesel::insert_into(audit_heads::table).values(row).execute(connection).map(drop)?)
}

fn head(connection: &mut AnyConnection, tenant: TenantId) -> Result<Chain, StoreError> {
    let columns = (audit_heads::size, audit_heads::hash, audit_heads::peaks);
    let (size, hash, peaks): (i64, Vec<u8>, Vec<u8>) =
        audit_heads::table.find(tenant.to_string()).select(columns).first(connection)?;
    let corrupt = StoreError::Corrupt { column: "audit_heads.peaks" };
    Chain::resume(tenant, count("audit_heads.size", size)?, &hash, &peaks).map_err(|_| corrupt)
}

fn count(column: &'static str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt { column })
}

impl Row {
    fn entry(self) -> Result<(Entry, Hash), StoreError> {
        let entry = Entry {
            sequence: count("audit_events.sequence", self.sequence)?,
            at: stamp(instant("audit_events.at", self.at)?),
            action: self.action,
            actor: self.actor,
            request: self.request_id,
            subject: self.subject_digest.map(hex::encode),
            object: self.object,
            reason: self.reason,
        };
        let hash = self.hash.try_into().map_err(|_| StoreError::Corrupt { column: "audit_events.hash" })?;
        Ok((entry, hash))
    }
}
