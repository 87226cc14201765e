//! What was kept long enough, counted and deleted. Both ask one condition, so that what was announced is what goes.

use diesel::{
    QueryableByName,
    prelude::*,
    sql_query,
    sql_types::{BigInt, Text},
};
use time::OffsetDateTime;

use super::{
    audit,
    columns::micros,
    conn::{Pool, Reach},
    error::StoreError,
};
use crate::{
    audit::{Action, Actor, Event},
    domain::{consent::Purpose, erasure::ErasureState, id::TenantId, retention::RecordKind},
};

pub struct Retention<'a> {
    pub(super) pool: &'a Pool,
}

impl Retention<'_> {
    /// How many rows of a kind have been kept since `cutoff` or longer: of a tenant, or of a kind that belongs to none.
    pub async fn count(
        &self,
        tenant: Option<TenantId>,
        kind: RecordKind,
        cutoff: OffsetDateTime,
    ) -> Result<u64, StoreError> {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            rows: i64,
        }
        let query = sql_query(format!("SELECT count(*) AS rows {}", old_rows(kind)))
            .bind::<BigInt, _>(micros(cutoff))
            .bind::<Text, _>(own(tenant));
        let counted: Count = self.pool.run(reach(tenant), move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(counted.rows.unsigned_abs())
    }

    /// Deletes up to `at_most` of them in a transaction of its own; how many. What says something about persons is recorded
    /// as deleted in the same transaction. Entries of the audit log go where it was let begin later alone.
    pub async fn delete(
        &self,
        tenant: Option<TenantId>,
        kind: RecordKind,
        cutoff: OffsetDateTime,
        at_most: u32,
        (actor, now): (Actor, OffsetDateTime),
    ) -> Result<u64, StoreError> {
        let Rule { table, key, .. } = rule(kind);
        let deleted = self.pool.write(reach(tenant), move |connection| {
            // Who has a row in his hands at this moment is not waited for: tomorrow is another day.
            let (old, free) = (old_rows(kind), connection.passing_over_locked());
            let delete = format!(
                "WITH old AS MATERIALIZED (SELECT {key} {old} LIMIT {at_most} {free}) \
                 DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM old)"
            );
            let rows =
                sql_query(delete).bind::<BigInt, _>(micros(cutoff)).bind::<Text, _>(own(tenant)).execute(connection)?;
            if let Some(tenant) = tenant.filter(|_| rows > 0 && kind.is_missed()) {
                let told = format!("{}: {rows}", kind.as_str());
                audit::append(connection, tenant, &Event::of(actor, Action::RetentionDeleted, told, now))?;
            }
            Ok(rows)
        });
        Ok(deleted.await? as u64)
    }

    /// After the last of them: takes what is gone out of the files too, as far as the database can.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        self.pool.run(Reach::Every, |connection| Ok(connection.scrub()?)).await
    }
}

/// Which rows of which table go. In a condition `$1` is the moment since which they must have been kept.
struct Rule {
    table: &'static str,
    key: &'static str,
    condition: String,
}

fn rule(kind: RecordKind) -> Rule {
    let rule = |table, key, condition: &str| Rule { table, key, condition: condition.to_owned() };
    match kind {
        RecordKind::UnusedTemplates => rule(
            "enrolments",
            "id",
            "created_at <= $1 AND EXISTS (SELECT 1 FROM subjects WHERE subjects.id = enrolments.subject_id \
             AND coalesce(subjects.last_used_at, subjects.created_at) <= $1)",
        ),
        RecordKind::TemplatesWithoutConsent => rule(
            "enrolments",
            "id",
            &format!(
                "created_at <= $1 AND NOT EXISTS (SELECT 1 FROM consents \
                 WHERE consents.tenant_id = enrolments.tenant_id AND consents.subject_id = enrolments.subject_id \
                 AND consents.purpose = '{}' AND (consents.withdrawn_at IS NULL OR consents.withdrawn_at > $1) \
                 AND (consents.expires_at IS NULL OR consents.expires_at > $1))",
                // Words and underscores alone.
                Purpose::face_verification()
            ),
        ),
        RecordKind::EndedConsents => rule("consents", "id", "(withdrawn_at <= $1 OR expires_at <= $1)"),
        RecordKind::Verifications => rule("verifications", "id", "created_at <= $1"),
        RecordKind::AuditEvents => rule(
            "audit_events",
            "tenant_id, sequence",
            "sequence <= (SELECT max(size) FROM audit_checkpoints WHERE audit_checkpoints.tenant_id = audit_events.tenant_id \
             AND audit_checkpoints.at <= $1)",
        ),
        RecordKind::UsageDays => rule("usage_days", "tenant_id, day", "day < $1 / 86400000000"),
        RecordKind::IdempotencyRecords => rule("idempotency_records", "id", "created_at <= $1"),
        RecordKind::UsedAssertions => rule("used_assertions", "client_id, assertion_id", "expires_at <= $1"),
        RecordKind::Revocations => rule("revocations", "version", "expires_at <= $1"),
    }
}

fn old_rows(kind: RecordKind) -> String {
    let Rule { table, condition, .. } = rule(kind);
    let own = if kind.of_tenants() { "tenant_id = $2" } else { "$2 = ''" };
    // A duty to keep stands against any end, and so does a person for whose sake everything is kept.
    let held = match kind.purpose() {
        Some(_) => format!(
            " AND NOT EXISTS (SELECT 1 FROM subjects WHERE subjects.tenant_id = {table}.tenant_id \
             AND subjects.id = {table}.subject_id AND subjects.restricted_at IS NOT NULL) \
             AND NOT EXISTS (SELECT 1 FROM erasure_requests WHERE erasure_requests.tenant_id = {table}.tenant_id \
             AND erasure_requests.subject_id = {table}.subject_id AND erasure_requests.state = '{}')",
            ErasureState::OnHold.as_str()
        ),
        None => String::new(),
    };
    format!("FROM {table} WHERE {condition} AND {own}{held}")
}

fn own(tenant: Option<TenantId>) -> String {
    tenant.map(|tenant| tenant.to_string()).unwrap_or_default()
}

fn reach(tenant: Option<TenantId>) -> Reach {
    tenant.map_or(Reach::Every, Reach::Tenant)
}
