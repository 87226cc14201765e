//! Consents: what each person permitted, and the lock that makes "active at the moment of writing" true.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool},
    error::{Conflict, StoreError},
    schema::main::consents,
    subjects::lock,
};
use crate::domain::{
    consent::{Consent, Purpose},
    id::{ConsentId, SubjectId, TenantId},
};

pub struct Consents<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = consents)]
struct Row {
    id: String,
    tenant_id: String,
    subject_id: String,
    purpose: String,
    notice_version: String,
    granted_at: i64,
    expires_at: Option<i64>,
    withdrawn_at: Option<i64>,
}

impl Consents<'_> {
    /// `NotFound` when the tenant has no such subject.
    pub async fn insert(&self, tenant: TenantId, consent: &Consent, act: Act) -> Result<(), StoreError> {
        let row = Row {
            id: consent.id.to_string(),
            tenant_id: tenant.to_string(),
            subject_id: consent.subject.to_string(),
            purpose: consent.purpose.to_string(),
            notice_version: consent.notice_version.clone(),
            granted_at: micros(consent.granted_at),
            expires_at: consent.expires_at.map(micros),
            withdrawn_at: consent.withdrawn_at.map(micros),
        };
        let subject = consent.subject;
        let inserted = self.pool.write(tenant, move |connection| {
            lock(connection, tenant, subject)?;
            diesel::insert_into(consents::table).values(&row).execute(connection)?;
            act.complete(connection, tenant)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id))
    }

    /// Every consent of a subject, newest first.
    pub async fn list(&self, tenant: TenantId, subject: SubjectId) -> Result<Vec<Consent>, StoreError> {
        let query = consents::table
            .filter(consents::tenant_id.eq(tenant.to_string()))
            .filter(consents::subject_id.eq(subject.to_string()))
            .order(consents::id.desc());
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(Consent::try_from).collect()
    }

    pub async fn find(&self, tenant: TenantId, subject: SubjectId, id: ConsentId) -> Result<Consent, StoreError> {
        self.pool.run(tenant, move |connection| find(connection, tenant, subject, id)).await
    }

    /// Withdraws permission for the consent's purpose: this consent and every other of that subject and purpose that still
    /// stands, for a person says no to the use, not to a piece of paper. Repeating it keeps the first time.
    /// Once it returns, no template and no verification can be written under it, in any process.
    pub async fn withdraw(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        id: ConsentId,
        now: OffsetDateTime,
        act: impl FnOnce(&Consent) -> Result<Act, StoreError> + Send + 'static,
    ) -> Result<Consent, StoreError> {
        self.pool
            .write(tenant, move |connection| {
                lock(connection, tenant, subject)?;
                let consent = find(connection, tenant, subject, id)?;
                let standing = consents::table
                    .filter(consents::tenant_id.eq(tenant.to_string()))
                    .filter(consents::subject_id.eq(subject.to_string()))
                    .filter(consents::purpose.eq(consent.purpose.as_str()))
                    .filter(consents::withdrawn_at.is_null());
                let withdrawn =
                    diesel::update(standing).set(consents::withdrawn_at.eq(micros(now))).execute(connection)?;
                let consent = find(connection, tenant, subject, id)?;
                let act = act(&consent)?;
                if withdrawn > 0 {
                    act.complete(connection, tenant)?;
                } else {
                    act.complete_unchanged(connection)?;
                }
                Ok(consent)
            })
            .await
    }

    /// The newest consent that permits `purpose` at `now`.
    pub async fn active(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        purpose: &Purpose,
        now: OffsetDateTime,
    ) -> Result<Option<Consent>, StoreError> {
        let purpose = purpose.clone();
        let row = self.pool.run(tenant, move |connection| active(connection, tenant, subject, &purpose, now)).await?;
        row.map(Consent::try_from).transpose()
    }
}

/// Makes sure, inside a writing transaction, that a consent is active and stays so until commit: `withdraw` and
/// `Subjects::delete` wait for the lock that is taken here, or have committed before, and their work is seen.
pub(super) fn lock_active(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    purpose: &Purpose,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    lock(connection, tenant, subject)?;
    active(connection, tenant, subject, purpose, now)?.map(drop).ok_or(StoreError::NoConsent)
}

/// The newest active consent.
fn active(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    purpose: &Purpose,
    now: OffsetDateTime,
) -> Result<Option<Row>, StoreError> {
    let newest = consents::table
        .filter(consents::tenant_id.eq(tenant.to_string()))
        .filter(consents::subject_id.eq(subject.to_string()))
        .filter(consents::purpose.eq(purpose.as_str()))
        .filter(consents::withdrawn_at.is_null())
        .filter(consents::expires_at.is_null().or(consents::expires_at.gt(micros(now))))
        .order(consents::id.desc())
        .first(connection);
    Ok(newest.optional()?)
}

fn find(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    id: ConsentId,
) -> Result<Consent, StoreError> {
    let row: Row = consents::table
        .filter(consents::tenant_id.eq(tenant.to_string()))
        .filter(consents::subject_id.eq(subject.to_string()))
        .filter(consents::id.eq(id.to_string()))
        .first(connection)?;
    row.try_into()
}

impl TryFrom<Row> for Consent {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let optional = |column, at: Option<i64>| at.map(|at| instant(column, at)).transpose();
        Ok(Self {
            id: parse("consents.id", &row.id)?,
            subject: parse("consents.subject_id", &row.subject_id)?,
            purpose: parse("consents.purpose", &row.purpose)?,
            notice_version: row.notice_version,
            granted_at: instant("consents.granted_at", row.granted_at)?,
            expires_at: optional("consents.expires_at", row.expires_at)?,
            withdrawn_at: optional("consents.withdrawn_at", row.withdrawn_at)?,
        })
    }
}
