//! Verifications: that a comparison took place, how it was asked, and its answer, sealed under the subject's data key.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    attempts,
    audit::Act,
    columns::{instant, micros, parse},
    conn::Pool,
    consents::lock_active,
    error::{Conflict, StoreError},
    page::{Page, rows_to_load},
    schema::main::verifications,
    subjects::used,
};
use crate::{
    domain::{
        consent::Purpose,
        decision::{Decision, FalseMatchRate},
        id::{SubjectId, TenantId, VerificationId},
        matching::{ModelId, Threshold},
    },
    vault::{DataKey, Place},
};

#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    pub id: VerificationId,
    pub subject: SubjectId,
    pub model: ModelId,
    pub false_match_rate: FalseMatchRate,
    pub threshold: Threshold,
    pub decision: Decision,
    pub created_at: OffsetDateTime,
}

pub struct NewVerification<'a> {
    pub verification: Verification,
    /// The use that must be permitted at the moment of writing.
    pub purpose: &'a Purpose,
}

pub struct Verifications<'a> {
    pub(super) pool: &'a Pool,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = verifications)]
struct Row {
    id: String,
    tenant_id: String,
    subject_id: String,
    model_id: String,
    false_match_rate: String,
    threshold: f64,
    decision: Vec<u8>,
    created_at: i64,
}

impl Verifications<'_> {
    /// Writes a verification if, in the same transaction, a consent for its purpose is active (else `NoConsent`). A match ends
    /// the series of failed attempts before it.
    pub async fn insert(
        &self,
        tenant: TenantId,
        new: NewVerification<'_>,
        key: &DataKey,
        act: Act,
    ) -> Result<(), StoreError> {
        let NewVerification { verification, purpose } = new;
        let id = verification.id.to_string();
        let row = Row {
            decision: key.seal(&place(&id), &[u8::from(verification.decision.is_match())])?,
            id,
            tenant_id: tenant.to_string(),
            subject_id: verification.subject.to_string(),
            model_id: verification.model.to_string(),
            false_match_rate: verification.false_match_rate.to_string(),
            threshold: verification.threshold.0,
            created_at: micros(verification.created_at),
        };
        let (subject, purpose, now) = (verification.subject, purpose.clone(), verification.created_at);
        let is_match = verification.decision.is_match();
        let inserted = self.pool.write(tenant, move |connection| {
            lock_active(connection, tenant, subject, &purpose, now)?;
            used(connection, tenant, subject, now)?;
            if is_match {
                attempts::forget(connection, tenant, subject)?;
            }
            diesel::insert_into(verifications::table).values(&row).execute(connection)?;
            act.complete(connection, tenant)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id))
    }

    /// A subject's verifications, newest first; `before` is the `next` of the page before. `key` is the subject's data key.
    pub async fn list(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        before: Option<VerificationId>,
        limit: u32,
        key: &DataKey,
    ) -> Result<Page<Verification, VerificationId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let query = verifications::table
            .filter(verifications::tenant_id.eq(tenant.to_string()))
            .filter(verifications::subject_id.eq(subject.to_string()))
            .filter(verifications::id.lt(before))
            .order(verifications::id.desc())
            .limit(rows_to_load(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(|row| row.open(key)).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |verification| verification.id))
    }
}

fn place(id: &str) -> Place<'_> {
    Place { table: "verifications", row: id, column: "decision" }
}

impl Row {
    fn open(self, key: &DataKey) -> Result<Verification, StoreError> {
        let decision = match key.open(&place(&self.id), &self.decision)?.as_slice() {
            [0] => Decision::NoMatch,
            [1] => Decision::Match,
            _ => return Err(StoreError::Corrupt { column: "verifications.decision" }),
        };
        Ok(Verification {
            id: parse("verifications.id", &self.id)?,
            subject: parse("verifications.subject_id", &self.subject_id)?,
            model: parse("verifications.model_id", &self.model_id)?,
            false_match_rate: parse("verifications.false_match_rate", &self.false_match_rate)?,
            threshold: Threshold(self.threshold),
            decision,
            created_at: instant("verifications.created_at", self.created_at)?,
        })
    }
}
