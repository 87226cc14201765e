//! Work that is done later, in the main database: who changes something queues what follows from it in the same transaction,
//! so that neither is there without the other.
//!
//! Why this is ours: the kept queues for Rust bring a database driver of their own (apalis and its kin use sqlx), and a job
//! inserted through another connection is not in our transaction. It would be lost, or would run for an effect that was rolled
//! back. What is left to do is one table and the few queries below.
//!
//! A worker leases a job for a while and prolongs that as long as it lives. A job whose lease ran out is taken over; the name
//! of the lease then changes, and nothing that the old worker still says about the job counts. Its effects may come twice
//! all the same (it may have died between effect and word), so a handler can be repeated, or writes its effect and
//! [`finish`] in one transaction.

use diesel::{
    prelude::*,
    sql_query,
    sql_types::{BigInt, Nullable, Text},
};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    audit,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::jobs,
};
use crate::{
    audit::Event,
    domain::{
        id::{JobId, TenantId},
        job::{ATTEMPTS_MAX, JobKind},
    },
};

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub kind: JobKind,
    /// `None`: for every tenant.
    pub tenant: Option<TenantId>,
    /// What it is about: ids, never content.
    pub payload: Value,
    /// While a job of this kind and key waits or is at work, another is not queued.
    pub unique_key: Option<String>,
    pub due_at: OffsetDateTime,
    pub created_at: OffsetDateTime,
}

/// The right to work on a job, as long as it is prolonged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    job: JobId,
    name: String,
}

impl Lease {
    pub fn job(&self) -> JobId {
        self.job
    }
}

/// A job to work on now.
#[derive(Debug, Clone)]
pub struct LeasedJob {
    pub lease: Lease,
    pub kind: JobKind,
    pub tenant: Option<TenantId>,
    pub payload: Value,
    /// This one counted.
    pub attempt: u32,
}

/// A job as the operator sees it. Its kind may be one that a newer program queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub id: JobId,
    pub kind: String,
    pub tenant: Option<TenantId>,
    pub payload: String,
    pub due_at: OffsetDateTime,
    pub attempts: i64,
    pub leased_until: Option<OffsetDateTime>,
    pub last_error: Option<String>,
    pub created_at: OffsetDateTime,
    /// Since when nobody tries any more.
    pub dead_at: Option<OffsetDateTime>,
}

/// How the queue is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that are due, at work included.
    pub due: i64,
    /// Jobs whose time has not come.
    pub later: i64,
    pub dead: i64,
    /// Since when the oldest of the due ones is.
    pub oldest_due_at: Option<OffsetDateTime>,
}

pub struct Jobs<'a> {
    pub(super) pool: &'a Pool,
}

impl Jobs<'_> {
    /// For a job that follows from nothing else that is written.
    pub async fn enqueue(&self, job: NewJob) -> Result<(), StoreError> {
        self.pool.write(Reach::Every, move |connection| enqueue(connection, &job)).await
    }

    /// Leases up to `at_most` jobs that are due, oldest first. Jobs of a kind that this program does not know are left to one
    /// that does. A job whose last worker vanished in its last attempt is dead: it may be what the workers die of.
    pub async fn lease(
        &self,
        now: OffsetDateTime,
        until: OffsetDateTime,
        at_most: u32,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        self.lease_of(JobKind::ALL.to_vec(), now, until, at_most).await
    }

    /// The same of some kinds alone.
    pub async fn lease_of(
        &self,
        kinds: Vec<JobKind>,
        now: OffsetDateTime,
        until: OffsetDateTime,
        at_most: u32,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        self.pool.write(Reach::Every, move |connection| lease(connection, &kinds, now, until, at_most)).await
    }

    pub async fn prolong(&self, lease: &Lease, until: OffsetDateTime) -> Result<(), StoreError> {
        let prolonged = diesel::update(held(lease)).set(jobs::leased_until.eq(micros(until)));
        self.pool.write(Reach::Every, move |connection| one(prolonged.execute(connection)?)).await
    }

    pub async fn finish(&self, lease: Lease) -> Result<(), StoreError> {
        self.pool.write(Reach::Every, move |connection| finish(connection, &lease)).await
    }

    /// Done for now, and to be done again.
    pub async fn put_off(&self, lease: &Lease, due_at: OffsetDateTime) -> Result<(), StoreError> {
        let changes = (jobs::due_at.eq(micros(due_at)), jobs::attempts.eq(0), jobs::last_error.eq(None::<String>));
        let put_off = diesel::update(held(lease)).set((changes, free()));
        self.pool.write(Reach::Every, move |connection| one(put_off.execute(connection)?)).await
    }

    /// To be tried again at `retry_at`, or never (`dead`). `error` is a code.
    pub async fn fail(
        &self,
        lease: &Lease,
        error: &'static str,
        retry_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        self.fail_with(lease, error, retry_at, now, None).await
    }

    /// The same, recorded in the audit log of a tenant.
    pub async fn fail_with(
        &self,
        lease: &Lease,
        error: &'static str,
        retry_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
        event: Option<(TenantId, Event)>,
    ) -> Result<(), StoreError> {
        let dead_at = retry_at.is_none().then(|| micros(now));
        let changes =
            (jobs::last_error.eq(error), jobs::due_at.eq(micros(retry_at.unwrap_or(now))), jobs::dead_at.eq(dead_at));
        let failed = diesel::update(held(lease)).set((changes, free()));
        self.pool
            .write(Reach::Every, move |connection| {
                one(failed.execute(connection)?)?;
                event.map_or(Ok(()), |(tenant, event)| audit::append(connection, tenant, &event).map(drop))
            })
            .await
    }

    /// Left as if it had not been begun, for whoever comes next.
    pub async fn give_back(&self, lease: &Lease) -> Result<(), StoreError> {
        let given = diesel::update(held(lease)).set((jobs::attempts.eq(jobs::attempts - 1), free()));
        self.pool.write(Reach::Every, move |connection| one(given.execute(connection)?)).await
    }

    /// Oldest first; only the dead ones, or only the others.
    pub async fn list(&self, dead: bool, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        let query = jobs::table.order((jobs::due_at, jobs::id)).limit(limit.into()).into_boxed();
        let query =
            if dead { query.filter(jobs::dead_at.is_not_null()) } else { query.filter(jobs::dead_at.is_null()) };
        let rows: Vec<Row> = self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(JobRow::try_from).collect()
    }

    /// Brings a dead job back, to be tried at the event's moment as if it were new. The audit log of its tenant says so; of a
    /// job for every tenant, each one's.
    pub async fn retry(&self, job: JobId, event: Event) -> Result<(), StoreError> {
        let dead = jobs::table.find(job.to_string()).filter(jobs::dead_at.is_not_null());
        let changes = (jobs::dead_at.eq(None::<i64>), jobs::due_at.eq(micros(event.at)), jobs::attempts.eq(0));
        let revive = move |connection: &mut AnyConnection| {
            let of: Option<String> = dead.clone().select(jobs::tenant_id).first(connection)?;
            let revived = diesel::update(dead).set(changes).execute(connection).map_err(StoreError::from);
            // By somebody else, a moment ago.
            if revived.map_err(|error| error.or_conflict(Conflict::JobQueued))? == 0 {
                return Err(StoreError::NotFound);
            }
            match tenant(of.as_deref())? {
                Some(tenant) => audit::append(connection, tenant, &event).map(drop),
                None => audit::append_to_all(connection, &event),
            }
        };
        self.pool.write(Reach::Every, revive).await
    }

    pub async fn backlog(&self, now: OffsetDateTime) -> Result<Backlog, StoreError> {
        let alive = || jobs::table.filter(jobs::dead_at.is_null());
        let now = micros(now);
        self.pool
            .run(Reach::Every, move |connection| {
                let oldest: Option<i64> = alive()
                    .filter(jobs::due_at.le(now))
                    .select(jobs::due_at)
                    .order(jobs::due_at)
                    .first(connection)
                    .optional()?;
                Ok(Backlog {
                    due: alive().filter(jobs::due_at.le(now)).count().get_result(connection)?,
                    later: alive().filter(jobs::due_at.gt(now)).count().get_result(connection)?,
                    dead: jobs::table.filter(jobs::dead_at.is_not_null()).count().get_result(connection)?,
                    oldest_due_at: oldest.map(|at| instant("jobs.due_at", at)).transpose()?,
                })
            })
            .await
    }
}

/// Queues a job inside the transaction of what it follows from; nothing happens where one of its kind and key is there.
pub(super) fn enqueue(connection: &mut AnyConnection, job: &NewJob) -> Result<(), StoreError> {
    // In diesel's own words there is no `ON CONFLICT` that both databases know. Both number these marks in their order.
    let insert = "INSERT INTO jobs (id, kind, tenant_id, payload, unique_key, due_at, attempts, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT (kind, unique_key) WHERE dead_at IS NULL DO NOTHING";
    sql_query(insert)
        .bind::<Text, _>(JobId::generate().to_string())
        .bind::<Text, _>(job.kind.as_str())
        .bind::<Nullable<Text>, _>(job.tenant.map(|tenant| tenant.to_string()))
        .bind::<Text, _>(job.payload.to_string())
        .bind::<Nullable<Text>, _>(job.unique_key.clone())
        .bind::<BigInt, _>(micros(job.due_at))
        .bind::<BigInt, _>(micros(job.created_at))
        .execute(connection)?;
    Ok(())
}

/// Ends a job, inside the transaction of its effect where that has one: who lost the lease has no effect either.
pub(super) fn finish(connection: &mut AnyConnection, lease: &Lease) -> Result<(), StoreError> {
    one(diesel::delete(held(lease)).execute(connection)?)
}

fn lease(
    connection: &mut AnyConnection,
    kinds: &[JobKind],
    now: OffsetDateTime,
    until: OffsetDateTime,
    at_most: u32,
) -> Result<Vec<LeasedJob>, StoreError> {
    let vanished = jobs::table
        .filter(jobs::dead_at.is_null())
        .filter(jobs::leased_until.le(micros(now)))
        .filter(jobs::attempts.ge(i64::from(ATTEMPTS_MAX)));
    let dead = (jobs::dead_at.eq(Some(micros(now))), jobs::last_error.eq("worker_vanished"));
    diesel::update(vanished).set((dead, free())).execute(connection)?;

    let name = Uuid::now_v7().to_string();
    let kinds: Vec<String> = kinds.iter().map(|kind| format!("'{kind}'")).collect();
    let take = format!(
        "WITH due AS MATERIALIZED (SELECT id FROM jobs WHERE dead_at IS NULL AND due_at <= $1 \
         AND (leased_until IS NULL OR leased_until <= $1) AND kind IN ({}) ORDER BY due_at, id LIMIT $2 {}) \
         UPDATE jobs SET lease = $3, leased_until = $4, attempts = attempts + 1 WHERE id IN (SELECT id FROM due)",
        kinds.join(", "),
        connection.passing_over_locked()
    );
    let taken = sql_query(take)
        .bind::<BigInt, _>(micros(now))
        .bind::<BigInt, _>(i64::from(at_most))
        .bind::<Text, _>(&name)
        .bind::<BigInt, _>(micros(until))
        .execute(connection)?;
    if taken == 0 {
        return Ok(Vec::new());
    }
    let rows: Vec<Row> = jobs::table.filter(jobs::lease.eq(name)).order((jobs::due_at, jobs::id)).load(connection)?;
    let mut leased = Vec::with_capacity(rows.len());
    for row in rows {
        let job = jobs::table.find(row.id.clone());
        match LeasedJob::try_from(row) {
            Ok(readable) => leased.push(readable),
            // It must not keep the others from being done.
            Err(error) => {
                let dead = (jobs::dead_at.eq(Some(micros(now))), jobs::last_error.eq(error.code()));
                diesel::update(job).set((dead, free())).execute(connection)?;
            }
        }
    }
    Ok(leased)
}

/// The job, as long as this lease is the one that stands.
#[diesel::dsl::auto_type(no_type_alias)]
fn held(lease: &Lease) -> _ {
    let (job, name): (String, String) = (lease.job.to_string(), lease.name.clone());
    jobs::table.filter(jobs::id.eq(job)).filter(jobs::lease.eq(name))
}

type Free = (diesel::dsl::Eq<jobs::lease, Option<String>>, diesel::dsl::Eq<jobs::leased_until, Option<i64>>);

fn free() -> Free {
    (jobs::lease.eq(None), jobs::leased_until.eq(None))
}

fn one(changed: usize) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(StoreError::Conflict(Conflict::LeaseLost)) }
}

#[derive(Queryable)]
struct Row {
    id: String,
    kind: String,
    tenant_id: Option<String>,
    payload: String,
    _unique_key: Option<String>,
    due_at: i64,
    attempts: i64,
    lease: Option<String>,
    leased_until: Option<i64>,
    last_error: Option<String>,
    created_at: i64,
    dead_at: Option<i64>,
}

fn tenant(id: Option<&str>) -> Result<Option<TenantId>, StoreError> {
    id.map(|id| parse("jobs.tenant_id", id)).transpose()
}

impl TryFrom<Row> for LeasedJob {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let corrupt = |column| move || StoreError::Corrupt { column };
        Ok(Self {
            lease: Lease { job: parse("jobs.id", &row.id)?, name: row.lease.ok_or_else(corrupt("jobs.lease"))? },
            kind: parse("jobs.kind", &row.kind)?,
            tenant: tenant(row.tenant_id.as_deref())?,
            payload: parse("jobs.payload", &row.payload)?,
            attempt: u32::try_from(row.attempts).map_err(|_| corrupt("jobs.attempts")())?,
        })
    }
}

impl TryFrom<Row> for JobRow {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let optional = |column, at: Option<i64>| at.map(|at| instant(column, at)).transpose();
        Ok(Self {
            id: parse("jobs.id", &row.id)?,
            kind: row.kind,
            tenant: tenant(row.tenant_id.as_deref())?,
            payload: row.payload,
            due_at: instant("jobs.due_at", row.due_at)?,
            attempts: row.attempts,
            leased_until: optional("jobs.leased_until", row.leased_until)?,
            last_error: row.last_error,
            created_at: instant("jobs.created_at", row.created_at)?,
            dead_at: optional("jobs.dead_at", row.dead_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{store::Store, vault::BlindIndexKey};

    const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

    /// A queue that rolled back leaves nothing; one that is committed leaves the job. On PostgreSQL as well, where tests have one.
    #[tokio::test]
    async fn a_job_is_queued_with_its_transaction_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        with_its_transaction_or_not_at_all(&format!("sqlite:{}", folder.path().join("test.db").display())).await;
        let Ok(server) = std::env::var("VELUM_TEST_POSTGRES_URL") else { return };
        let name = format!("velum_jobs_{}", Uuid::now_v7().simple());
        let admin = Pool::new(&server, 1).unwrap();
        let execute = async |sql: String| {
            admin.run(Reach::Every, move |connection| Ok(sql_query(sql).execute(connection)?)).await.unwrap();
        };
        execute(format!("CREATE DATABASE {name}")).await;
        with_its_transaction_or_not_at_all(&format!("{}/{name}", server.rsplit_once('/').unwrap().0)).await;
        execute(format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }

    async fn with_its_transaction_or_not_at_all(url: &str) {
        let store = Store::connect(url, 2, BlindIndexKey::from_bytes(Zeroizing::new([9; 32]))).await.unwrap();
        store.migrate().await.unwrap();
        let job = NewJob {
            kind: JobKind::Retention,
            tenant: None,
            payload: json!({}),
            unique_key: Some("one".to_owned()),
            due_at: NOW,
            created_at: NOW,
        };
        let pool = store.pool();
        let queue = async |fails: bool| {
            let job = job.clone();
            let written = pool.write(Reach::Every, move |connection| {
                enqueue(connection, &job)?;
                // Once more: in a transaction of PostgreSQL a statement that failed would end everything after it.
                enqueue(connection, &job)?;
                if fails { Err(StoreError::NotFound) } else { Ok(()) }
            });
            written.await.is_ok()
        };
        assert!(!queue(true).await);
        assert_eq!(store.jobs().list(false, 10).await.unwrap(), []);
        assert!(queue(false).await);
        assert_eq!(store.jobs().list(false, 10).await.unwrap().len(), 1);

        // An effect and the end of its job are one as well.
        let leased = store.jobs().lease(NOW, NOW + time::Duration::MINUTE, 1).await.unwrap();
        let lease = leased[0].lease.clone();
        let undone: Result<(), _> = pool
            .write(Reach::Every, move |connection| {
                finish(connection, &lease)?;
                Err(StoreError::NotFound)
            })
            .await;
        assert!(undone.is_err());
        assert_eq!(store.jobs().list(false, 10).await.unwrap().len(), 1);
    }
}
