//! What was done for a tenant, across its persons: enrolments and verifications, without their content.

use std::{fmt, str::FromStr};

use diesel::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    columns::{instant, parse},
    conn::Pool,
    consents::{outdated, permitting},
    error::StoreError,
    page::{Page, rows_to_load},
    schema::main::{consents, enrolments, subjects, verifications},
};
use crate::domain::{
    decision::FalseMatchRate,
    id::{EnrolmentId, SubjectId, TenantId, VerificationId},
    matching::ModelId,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryKind {
    Enrolment(EnrolmentId),
    Verification(VerificationId, FalseMatchRate),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    pub kind: HistoryKind,
    pub subject: SubjectId,
    pub model: ModelId,
    pub created_at: OffsetDateTime,
}

/// The part that ids of both kinds share: it sorts by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryCursor(Uuid);

impl fmt::Display for HistoryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_simple().fmt(f)
    }
}

impl FromStr for HistoryCursor {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(Self)
    }
}

impl HistoryEntry {
    fn cursor(&self) -> HistoryCursor {
        HistoryCursor(match self.kind {
            HistoryKind::Enrolment(id) => id.as_uuid(),
            HistoryKind::Verification(id, _) => id.as_uuid(),
        })
    }
}

/// How much there is of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantCounts {
    pub subjects: i64,
    pub active_consents: i64,
    pub enrolments: i64,
    pub verifications: i64,
}

/// How much there is about one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub enrolments: i64,
    pub verifications: i64,
    /// The last enrolment or verification.
    pub last_used_at: Option<OffsetDateTime>,
}

pub struct History<'a> {
    pub(super) pool: &'a Pool,
}

impl History<'_> {
    /// Newest first; `before` is the `next` of the page before. Of one person, or of all.
    pub async fn list(
        &self,
        tenant: TenantId,
        subject: Option<SubjectId>,
        before: Option<HistoryCursor>,
        limit: u32,
    ) -> Result<Page<HistoryEntry, HistoryCursor>, StoreError> {
        // '~' sorts after every id. A page of the whole is within a page of each.
        let before = before.map_or_else(|| "~".to_owned(), |cursor| cursor.to_string());
        macro_rules! newest {
            ($connection:expr, $table:ident, $prefix:literal, $columns:expr) => {{
                let mut query = $table::table
                    .filter($table::tenant_id.eq(tenant.to_string()))
                    .filter($table::id.lt(format!(concat!($prefix, "_{}"), before)))
                    .order($table::id.desc())
                    .limit(rows_to_load(limit))
                    .select($columns)
                    .into_boxed();
                if let Some(subject) = subject {
                    query = query.filter($table::subject_id.eq(subject.to_string()));
                }
                query.load($connection)?
            }};
        }
        let loaded = self.pool.run(tenant, move |connection| {
            use enrolments as e;
            use verifications as v;
            let enrolled: Vec<(String, String, String, i64)> =
                newest!(connection, enrolments, "enr", (e::id, e::subject_id, e::model_id, e::created_at));
            let verified: Vec<(String, String, String, i64, String)> = newest!(
                connection,
                verifications,
                "ver",
                (v::id, v::subject_id, v::model_id, v::created_at, v::false_match_rate)
            );
            Ok((enrolled, verified))
        });
        let (enrolled, verified) = loaded.await?;
        let enrolled = enrolled.into_iter().map(|(id, subject, model, at)| {
            entry(HistoryKind::Enrolment(parse("enrolments.id", &id)?), &subject, &model, at)
        });
        let verified = verified.into_iter().map(|(id, subject, model, at, rate)| {
            let rate = parse("verifications.false_match_rate", &rate)?;
            entry(HistoryKind::Verification(parse("verifications.id", &id)?, rate), &subject, &model, at)
        });
        let mut entries = enrolled.chain(verified).collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.cursor()));
        Ok(Page::from_rows(entries, limit, HistoryEntry::cursor))
    }

    /// `NotFound` for nobody.
    pub async fn held(&self, tenant: TenantId, subject: SubjectId) -> Result<Held, StoreError> {
        macro_rules! rows {
            ($table:ident) => {
                $table::table
                    .filter($table::tenant_id.eq(tenant.to_string()))
                    .filter($table::subject_id.eq(subject.to_string()))
                    .count()
            };
        }
        let (enrolments, verifications) = (rows!(enrolments), rows!(verifications));
        let person = subjects::table
            .filter(subjects::tenant_id.eq(tenant.to_string()))
            .filter(subjects::id.eq(subject.to_string()))
            .select(subjects::last_used_at);
        let counted = self.pool.run(tenant, move |connection| {
            let last_used_at: Option<i64> = person.first(connection)?;
            Ok((last_used_at, enrolments.get_result(connection)?, verifications.get_result(connection)?))
        });
        let (last_used_at, enrolments, verifications) = counted.await?;
        let last_used_at = last_used_at.map(|at| instant("subjects.last_used_at", at)).transpose()?;
        Ok(Held { enrolments, verifications, last_used_at })
    }

    pub async fn counts(&self, tenant: TenantId, now: OffsetDateTime) -> Result<TenantCounts, StoreError> {
        let own = tenant.to_string();
        self.pool
            .run(tenant, move |connection| {
                let active = consents::table
                    .filter(consents::tenant_id.eq(&own))
                    .filter(permitting(now))
                    .filter(diesel::dsl::not(outdated()));
                Ok(TenantCounts {
                    subjects: subjects::table.filter(subjects::tenant_id.eq(&own)).count().get_result(connection)?,
                    active_consents: active.count().get_result(connection)?,
                    enrolments: enrolments::table
                        .filter(enrolments::tenant_id.eq(&own))
                        .count()
                        .get_result(connection)?,
                    verifications: verifications::table
                        .filter(verifications::tenant_id.eq(&own))
                        .count()
                        .get_result(connection)?,
                })
            })
            .await
    }
}

fn entry(kind: HistoryKind, subject: &str, model: &str, created_at: i64) -> Result<HistoryEntry, StoreError> {
    Ok(HistoryEntry {
        kind,
        subject: parse("subject_id", subject)?,
        model: parse("model_id", model)?,
        created_at: instant("created_at", created_at)?,
    })
}
