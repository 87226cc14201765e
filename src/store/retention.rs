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
    domain::{
        consent::Purpose,
        erasure::ErasureState,
        id::TenantId,
        retention::{Line, RecordKind, Serves},
    },
};

pub struct Retention<'a> {
    pub(super) pool: &'a Pool,
}

impl Retention<'_> {
    /// How many rows of a line have been kept long enough at `now`: of a tenant, or of a kind that belongs to none.
    pub async fn count(&self, tenant: Option<TenantId>, line: &Line, now: OffsetDateTime) -> Result<u64, StoreError> {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            rows: i64,
        }
        let query = sql_query(format!("SELECT count(*) AS rows {}", old_rows(line)))
            .bind::<BigInt, _>(micros(line.cutoff(now)))
            .bind::<Text, _>(own(tenant));
        let counted: Count = self.pool.run(reach(tenant), move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(counted.rows.unsigned_abs())
    }

    /// Deletes up to `at_most` of them in a transaction of its own; how many. What says something about persons is recorded
    /// as deleted in the same transaction. Entries of the audit log go where it was let begin later alone.
    pub async fn delete(
        &self,
        tenant: Option<TenantId>,
        line: &Line,
        at_most: u32,
        (actor, now): (Actor, OffsetDateTime),
    ) -> Result<u64, StoreError> {
        let Rule { table, key, .. } = rule(line);
        let (kind, old, cutoff) = (line.kind, old_rows(line), line.cutoff(now));
        let deleted = self.pool.write(reach(tenant), move |connection| {
            // Who has a row in his hands at this moment is not waited for: tomorrow is another day.
            let free = connection.passing_over_locked();
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

/// Which rows of which table go. In a condition `$1` is the moment since which they must have been kept, `$2` the tenant. SQLite
/// counts them by their first appearance: `$1` comes first.
struct Rule {
    table: &'static str,
    key: &'static str,
    condition: String,
}

fn rule(line: &Line) -> Rule {
    let rule = |table, key, condition: &str| Rule { table, key, condition: condition.to_owned() };
    match line.kind {
        RecordKind::UnusedTemplates => rule(
            "enrolments",
            "id",
            "created_at <= $1 AND EXISTS (SELECT 1 FROM subjects WHERE subjects.id = enrolments.subject_id \
             AND coalesce(subjects.last_used_at, subjects.created_at) <= $1)",
        ),
        RecordKind::TemplatesWithoutConsent => rule(
            "enrolments",
            "id",
            // The newest generation of that moment is asked for once, not for each consent. `+ 0`: it is no reason to look for a
            // person's consents by it, among those of everybody.
            &format!(
                "created_at <= $1 AND NOT EXISTS (SELECT 1 FROM consents \
                 WHERE consents.tenant_id = enrolments.tenant_id AND consents.subject_id = enrolments.subject_id \
                 AND consents.purpose = '{purpose}' AND (consents.withdrawn_at IS NULL OR consents.withdrawn_at > $1) \
                 AND (consents.expires_at IS NULL OR consents.expires_at > $1) \
                 AND consents.notice_generation + 0 >= (SELECT coalesce(max(notices.generation), 0) FROM notices \
                 WHERE notices.published_at <= $1 AND notices.tenant_id = $2 AND notices.purpose = '{purpose}'))",
                purpose = quoted(&Purpose::face_verification())
            ),
        ),
        // Three searches, each by an index of its own: one condition for all three would be asked of every row.
        RecordKind::EndedConsents => rule(
            "consents",
            "id",
            &format!(
                "id IN (SELECT id FROM consents WHERE withdrawn_at <= $1 AND tenant_id = $2 \
                 UNION ALL SELECT id FROM consents WHERE expires_at <= $1 AND tenant_id = $2 \
                 UNION ALL SELECT given.id FROM (SELECT purpose, max(generation) AS generation FROM notices \
                 WHERE published_at <= $1 AND tenant_id = $2 GROUP BY purpose) AS newest \
                 CROSS JOIN consents AS given WHERE given.tenant_id = $2 AND given.purpose = newest.purpose \
                 AND given.notice_generation < newest.generation){}",
                of_purposes(&line.serves)
            ),
        ),
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

/// Of a table whose rows have each their purpose.
fn of_purposes(serves: &Serves) -> String {
    match serves {
        Serves::One(purpose) => format!(" AND purpose = '{}'", quoted(purpose)),
        Serves::EveryBut(others) if !others.is_empty() => {
            let others: Vec<_> = others.iter().map(|purpose| format!("'{}'", quoted(purpose))).collect();
            format!(" AND purpose NOT IN ({})", others.join(", "))
        }
        Serves::EveryBut(_) | Serves::Service => String::new(),
    }
}

/// A purpose is letters, digits and underscores: nothing that would have to be escaped.
fn quoted(purpose: &Purpose) -> &str {
    purpose.as_str()
}

fn old_rows(line: &Line) -> String {
    let Rule { table, condition, .. } = rule(line);
    let own = match line.kind {
        // Said in each of its searches; said once more it would be how SQLite begins.
        RecordKind::EndedConsents => "",
        kind if kind.of_tenants() => " AND tenant_id = $2",
        _ => " AND $2 = ''",
    };
    // A duty to keep stands against any end, and so does a person for whose sake everything is kept.
    let held = match line.kind.about_persons() {
        true => format!(
            " AND NOT EXISTS (SELECT 1 FROM subjects WHERE subjects.tenant_id = {table}.tenant_id \
             AND subjects.id = {table}.subject_id AND subjects.restricted_at IS NOT NULL) \
             AND NOT EXISTS (SELECT 1 FROM erasure_requests WHERE erasure_requests.tenant_id = {table}.tenant_id \
             AND erasure_requests.subject_id = {table}.subject_id AND erasure_requests.state = '{}')",
            ErasureState::OnHold.as_str()
        ),
        false => String::new(),
    };
    format!("FROM {table} WHERE {condition}{own}{held}")
}

fn own(tenant: Option<TenantId>) -> String {
    tenant.map(|tenant| tenant.to_string()).unwrap_or_default()
}

fn reach(tenant: Option<TenantId>) -> Reach {
    tenant.map_or(Reach::Every, Reach::Tenant)
}
