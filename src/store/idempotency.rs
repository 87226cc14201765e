//! Calls that may come twice: who works on one, and the answer it had. The answer is written in the transaction of the effect,
//! so that there is never one without the other.

use diesel::prelude::*;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool},
    error::{Conflict, StoreError},
    schema::main::idempotency_records as records,
};
use crate::{
    domain::id::{SubjectId, TenantId},
    vault::{DataKey, Place},
};

/// How long an answer is kept.
const KEPT: Duration = Duration::DAY;

/// What a call is known by: a keyed hash of tenant, operation and the caller's key.
pub type RecordId = [u8; 32];

/// The right to carry a call out, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    tenant: TenantId,
    record: RecordId,
    name: String,
}

pub enum Claimed {
    /// Carry it out.
    Yours(Claim),
    /// Another call is at it, at most until then.
    Running {
        until: OffsetDateTime,
    },
    Done(Done),
}

/// A call that was carried out.
pub struct Done {
    record: RecordId,
    pub fingerprint: Vec<u8>,
    pub status: u16,
    pub location: Option<String>,
    pub subject: Option<SubjectId>,
    answer: Option<Vec<u8>>,
}

impl Done {
    /// The body of the answer, if it was kept. `key` is the data key of the record's subject.
    pub fn open_answer(&self, key: &DataKey) -> Result<Option<Vec<u8>>, StoreError> {
        let open = |sealed: &Vec<u8>| Ok(key.open(&place(&hex::encode(self.record)), sealed)?.to_vec());
        self.answer.as_ref().map(open).transpose()
    }
}

/// The answer to a claimed call, to be written with its effect.
pub struct Receipt {
    claim: Claim,
    status: u16,
    location: Option<String>,
    subject: Option<SubjectId>,
    answer: Option<Vec<u8>>,
}

impl Receipt {
    /// Without a body, where there is none or where it is not to be kept.
    pub fn bare(claim: Claim, status: u16, location: Option<String>) -> Self {
        Self { claim, status, location, subject: None, answer: None }
    }

    /// Of a call about a person: gone with the person.
    pub fn of(self, subject: SubjectId) -> Self {
        Self { subject: Some(subject), ..self }
    }

    /// The same with a body, sealed under that person's key.
    pub fn about(self, subject: SubjectId, key: &DataKey, body: &[u8]) -> Result<Self, StoreError> {
        let answer = Some(key.seal(&place(&hex::encode(self.claim.record)), body)?);
        Ok(Self { answer, ..self.of(subject) })
    }
}

/// An answer that is kept, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    pub status: Option<i64>,
    pub location: Option<String>,
    pub created_at: OffsetDateTime,
}

pub struct Idempotency<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = records)]
struct Row {
    id: Vec<u8>,
    tenant_id: String,
    subject_id: Option<String>,
    fingerprint: Vec<u8>,
    claim: String,
    claimed_until: i64,
    status: Option<i64>,
    location: Option<String>,
    answer: Option<Vec<u8>>,
    created_at: i64,
}

impl Idempotency<'_> {
    /// Claims a call until `until`. A claim that has run out belongs to a call that is gone, and is taken over.
    pub async fn claim(
        &self,
        tenant: TenantId,
        record: RecordId,
        fingerprint: [u8; 32],
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Claimed, StoreError> {
        loop {
            let claimed =
                self.pool.write(tenant, move |connection| claim(connection, tenant, record, fingerprint, now, until));
            match claimed.await.map_err(|error| error.or_conflict(Conflict::Id)) {
                // Another one came first, between our looking and our writing: now it is there to be seen.
                Err(StoreError::Conflict(_)) => {}
                other => return other,
            }
        }
    }

    /// What is kept about a person, newest first.
    pub async fn about(&self, tenant: TenantId, subject: SubjectId) -> Result<Vec<KeptAnswer>, StoreError> {
        let query = records::table
            .filter(records::tenant_id.eq(tenant.to_string()))
            .filter(records::subject_id.eq(subject.to_string()))
            .order(records::created_at.desc())
            .select((records::status, records::location, records::created_at));
        let rows: Vec<(Option<i64>, Option<String>, i64)> =
            self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(status, location, created_at)| {
            Ok(KeptAnswer { status, location, created_at: instant("idempotency_records.created_at", created_at)? })
        };
        rows.into_iter().map(read).collect()
    }

    /// Gives a claim back after a call that had no effect.
    pub async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        let open = own(&claim).filter(records::status.is_null());
        self.pool.run(claim.tenant, move |connection| Ok(diesel::delete(open).execute(connection).map(drop)?)).await
    }
}

fn claim(
    connection: &mut AnyConnection,
    tenant: TenantId,
    record: RecordId,
    fingerprint: [u8; 32],
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Claimed, StoreError> {
    let old = records::created_at.lt(micros(now - KEPT));
    diesel::delete(records::table.filter(records::tenant_id.eq(tenant.to_string())).filter(old)).execute(connection)?;
    let found: Option<Row> = records::table
        .find(record.to_vec())
        .filter(records::tenant_id.eq(tenant.to_string()))
        .first(connection)
        .optional()?;
    let claim = Claim { tenant, record, name: Uuid::now_v7().to_string() };
    let Some(row) = found else {
        let row = Row {
            id: record.to_vec(),
            tenant_id: tenant.to_string(),
            subject_id: None,
            fingerprint: fingerprint.to_vec(),
            claim: claim.name.clone(),
            claimed_until: micros(until),
            status: None,
            location: None,
            answer: None,
            created_at: micros(now),
        };
        diesel::insert_into(records::table).values(&row).execute(connection)?;
        return Ok(Claimed::Yours(claim));
    };
    if row.status.is_some() {
        return row.done(record).map(Claimed::Done);
    }
    let held_until = instant("idempotency_records.claimed_until", row.claimed_until)?;
    if held_until > now {
        return Ok(Claimed::Running { until: held_until });
    }
    let changes = (
        records::claim.eq(&claim.name),
        records::claimed_until.eq(micros(until)),
        records::fingerprint.eq(fingerprint.to_vec()),
    );
    // The claim that was seen must still be the one that stands.
    let stale =
        records::table.find(record.to_vec()).filter(records::claim.eq(row.claim)).filter(records::status.is_null());
    match diesel::update(stale).set(changes).execute(connection)? {
        0 => Ok(Claimed::Running { until }),
        _ => Ok(Claimed::Yours(claim)),
    }
}

/// Writes the answer inside the transaction of the effect. Who lost the claim meanwhile has no effect either.
pub(super) fn complete(connection: &mut AnyConnection, receipt: Option<&Receipt>) -> Result<(), StoreError> {
    let Some(receipt) = receipt else { return Ok(()) };
    let changes = (
        records::status.eq(Some(i64::from(receipt.status))),
        records::location.eq(receipt.location.as_deref()),
        records::subject_id.eq(receipt.subject.map(|subject| subject.to_string())),
        records::answer.eq(receipt.answer.as_deref()),
    );
    let open = own(&receipt.claim).filter(records::status.is_null());
    match diesel::update(open).set(changes).execute(connection)? {
        0 => Err(StoreError::Conflict(Conflict::ClaimLost)),
        _ => Ok(()),
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(claim: &Claim) -> _ {
    let (record, tenant, name): (Vec<u8>, String, String) =
        (claim.record.to_vec(), claim.tenant.to_string(), claim.name.clone());
    records::table.filter(records::id.eq(record)).filter(records::tenant_id.eq(tenant)).filter(records::claim.eq(name))
}

fn place(record: &str) -> Place<'_> {
    Place { table: "idempotency_records", row: record, column: "answer" }
}

impl Row {
    fn done(self, record: RecordId) -> Result<Done, StoreError> {
        let corrupt = || StoreError::Corrupt { column: "idempotency_records.status" };
        Ok(Done {
            record,
            fingerprint: self.fingerprint,
            status: self.status.and_then(|status| u16::try_from(status).ok()).ok_or_else(corrupt)?,
            location: self.location,
            subject: self.subject_id.map(|id| parse("idempotency_records.subject_id", &id)).transpose()?,
            answer: self.answer,
        })
    }
}
