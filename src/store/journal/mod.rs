//! The keyholder's journal: which verifications were opened, how much of each budget is spent, and audit lines.
//!
//! The keyholder asks `admit` before it decrypts anything. One transaction then checks that the verification id is fresh
//! and that no budget is spent, notes both, and writes an audit line; a refusal writes its line too. Every transaction
//! takes the head of the audit chain first, so they run one after the other and no budget can be overdrawn in between.
//!
//! An id is remembered for [`REMEMBERED`]. Ids say when they were made (UUIDv7), and one that says it was longer ago than
//! [`FRESH`], or that it will be, is refused: so an id that was forgotten is not taken for a fresh one.
//!
//! A subject appears here only as a digest of its id; `forget` removes its counters and refuses it from then on (were the
//! counters merely reset, a hostile edge could call `forget` to get a fresh budget).

mod audit;

use diesel::prelude::*;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime, Time};

pub use self::audit::{AuditEvent, AuditLine, Chain};
use super::{
    Database,
    columns::micros,
    conn::{AnyConnection, Reach},
    error::StoreError,
    migrations,
    schema::journal::{budget_counters, forgotten_subjects, opened_verifications},
};
use crate::domain::id::{SubjectId, TenantId, VerificationId};

/// How far an id's own time may be from ours: more than clocks are apart, and than any request takes.
const FRESH: Duration = Duration::days(7);
/// Longer than `FRESH`, by as much as the clock may be set back without an id being taken twice.
const REMEMBERED: Duration = Duration::days(9);
/// Ids that are forgotten with one opening, so that no opening takes long, whatever was left behind.
const FORGOTTEN_AT_ONCE: i64 = 100;

/// Cheap to clone.
#[derive(Clone)]
pub struct KeyholderJournal {
    database: Database,
}

/// A request to open the decisions of one verification: one bit about one subject.
#[derive(Debug, Clone)]
pub struct Opening {
    pub verification: VerificationId,
    pub tenant: TenantId,
    pub subject: SubjectId,
    /// Who asks, for the audit line.
    pub caller: String,
}

/// How many verifications may be opened in one UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    pub per_subject: u32,
    pub per_tenant: u32,
    /// Of all tenants together.
    pub per_day: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetScope {
    Subject,
    Tenant,
    Day,
}

impl BudgetScope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Day => "day",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("this verification was opened before")]
    AlreadyOpened,
    #[error("this verification's id was not made about now")]
    Untimely,
    #[error("this subject was erased")]
    Forgotten,
    /// Seconds until the next UTC midnight, when budgets start anew.
    #[error("the {} budget is spent; it starts anew in {retry_after_s} s", scope.as_str())]
    BudgetSpent { scope: BudgetScope, retry_after_s: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl KeyholderJournal {
    pub async fn connect(url: &str, pool_size: usize) -> Result<Self, StoreError> {
        Ok(Self { database: Database::connect(url, pool_size, &migrations::JOURNAL).await? })
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.database.migrate().await
    }

    /// Admits one opening, or says why not. Only after `Ok` may anything be decrypted; the budgets are then spent and the
    /// verification id is used, whatever happens next.
    pub async fn admit(&self, opening: Opening, budgets: Budgets, now: OffsetDateTime) -> Result<(), JournalError> {
        let verdict = self.database.pool.write(Reach::Every, move |connection| {
            let head = audit::lock_head(connection)?;
            let verdict = judge(connection, &opening, &budgets, now)?;
            if verdict.is_ok() {
                spend(connection, &opening, now)?;
            }
            let reason = verdict.as_ref().err().map_or("", |refusal| refusal.reason());
            let event = if verdict.is_ok() { "opening_admitted" } else { "opening_refused" };
            let event = AuditEvent { event, reason, ..AuditEvent::about(&opening) };
            audit::append(connection, head, &event, now)?;
            Ok(verdict)
        });
        verdict.await?.map_err(|refusal| match refusal {
            Refusal::AlreadyOpened => JournalError::AlreadyOpened,
            Refusal::Untimely => JournalError::Untimely,
            Refusal::Forgotten => JournalError::Forgotten,
            Refusal::Spent(scope) => JournalError::BudgetSpent { scope, retry_after_s: until_midnight_s(now) },
        })
    }

    /// Removes a subject's counters and refuses it from now on. Its audit lines and used verification ids stay: they hold
    /// no more than a digest of its id. Safe to repeat.
    ///
    /// How many counters it were, also when repeated; `None` where a program of before removed them, which did not note it.
    pub async fn forget(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        caller: String,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, StoreError> {
        self.database
            .pool
            .write(Reach::Every, move |connection| {
                let head = audit::lock_head(connection)?;
                let digest = subject_digest(tenant, subject);
                let counters = budget_counters::table
                    .filter(budget_counters::scope.eq(BudgetScope::Subject.as_str()))
                    .filter(budget_counters::id.eq(hex::encode(digest)));
                let removed = diesel::delete(counters).execute(connection)? as i64;
                let noted = forgotten_subjects::table.find(digest.to_vec()).select(forgotten_subjects::counters);
                if let Some(noted) = noted.first::<Option<i64>>(connection).optional()? {
                    return Ok(noted.map(i64::unsigned_abs));
                }
                let row = (
                    forgotten_subjects::subject_digest.eq(digest.to_vec()),
                    forgotten_subjects::forgotten_at.eq(micros(now)),
                    forgotten_subjects::counters.eq(Some(removed)),
                );
                diesel::insert_into(forgotten_subjects::table).values(row).execute(connection)?;
                let event = AuditEvent {
                    event: "subject_forgotten",
                    caller,
                    tenant: Some(tenant),
                    subject: Some(subject),
                    ..AuditEvent::default()
                };
                audit::append(connection, head, &event, now)?;
                Ok(Some(removed.unsigned_abs()))
            })
            .await
    }

    /// Writes an audit line of the keyholder's own, e.g. that it started or that an opening failed after admission.
    pub async fn note(&self, event: AuditEvent, now: OffsetDateTime) -> Result<(), StoreError> {
        self.database
            .pool
            .write(Reach::Every, move |connection| {
                let head = audit::lock_head(connection)?;
                audit::append(connection, head, &event, now)
            })
            .await
    }

    /// Answers as long as an opening could be: asks what [`Self::admit`] asks, about nobody, in a transaction that may
    /// write, and writes nothing.
    pub async fn ready(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let nobody = Opening {
            verification: VerificationId::generate_at(now),
            tenant: TenantId::generate(),
            subject: SubjectId::generate(),
            caller: String::new(),
        };
        let budgets = Budgets { per_subject: u32::MAX, per_tenant: u32::MAX, per_day: u32::MAX };
        self.database
            .pool
            .write(Reach::Every, move |connection| {
                audit::lock_head(connection)?;
                judge(connection, &nobody, &budgets, now).map(drop)
            })
            .await
    }

    /// Decisions of all tenants that were opened on this UTC day.
    pub async fn opened_today(&self, now: OffsetDateTime) -> Result<i64, StoreError> {
        let count = move |connection: &mut AnyConnection| opened(connection, BudgetScope::Day, ALL_OPENINGS, now);
        Ok(self.database.pool.run(Reach::Every, count).await?.unwrap_or(0))
    }

    /// Audit lines after `sequence`, oldest first.
    pub async fn audit_lines(&self, after: i64, limit: u32) -> Result<Vec<AuditLine>, StoreError> {
        self.database.pool.run(Reach::Every, move |connection| audit::lines(connection, after, limit)).await
    }

    /// Recomputes the hash chain from its first line to the head it has now; openings go on meanwhile.
    pub async fn verify_chain(&self) -> Result<Chain, StoreError> {
        self.database.pool.run_within(audit::VERIFY_WAIT, Reach::Every, audit::verify).await
    }
}

/// SHA-256 of tenant and subject id, with a name of its own: enough to find a subject's lines by its id, and nothing to
/// find the id by (ids hold 74 random bits).
pub fn subject_digest(tenant: TenantId, subject: SubjectId) -> [u8; 32] {
    Sha256::digest(format!("velum keyholder subject\n{tenant}\n{subject}")).into()
}

enum Refusal {
    AlreadyOpened,
    Untimely,
    Forgotten,
    Spent(BudgetScope),
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::AlreadyOpened => "already_opened",
            Self::Untimely => "verification_untimely",
            Self::Forgotten => "subject_forgotten",
            Self::Spent(BudgetScope::Subject) => "subject_budget_spent",
            Self::Spent(BudgetScope::Tenant) => "tenant_budget_spent",
            Self::Spent(BudgetScope::Day) => "day_budget_spent",
        }
    }
}

fn judge(
    connection: &mut AnyConnection,
    opening: &Opening,
    budgets: &Budgets,
    now: OffsetDateTime,
) -> Result<Result<(), Refusal>, StoreError> {
    if opening.verification.made_at().is_none_or(|made_at| (made_at - now).abs() > FRESH) {
        return Ok(Err(Refusal::Untimely));
    }
    let used: i64 = opened_verifications::table
        .filter(opened_verifications::verification_id.eq(opening.verification.to_string()))
        .count()
        .get_result(connection)?;
    if used > 0 {
        return Ok(Err(Refusal::AlreadyOpened));
    }
    if is_forgotten(connection, &subject_digest(opening.tenant, opening.subject))? {
        return Ok(Err(Refusal::Forgotten));
    }
    for (scope, id) in counters(opening) {
        let limit = match scope {
            BudgetScope::Subject => budgets.per_subject,
            BudgetScope::Tenant => budgets.per_tenant,
            BudgetScope::Day => budgets.per_day,
        };
        if opened(connection, scope, &id, now)?.unwrap_or(0) >= i64::from(limit) {
            return Ok(Err(Refusal::Spent(scope)));
        }
    }
    Ok(Ok(()))
}

fn spend(connection: &mut AnyConnection, opening: &Opening, now: OffsetDateTime) -> Result<(), StoreError> {
    let row = (
        opened_verifications::verification_id.eq(opening.verification.to_string()),
        opened_verifications::opened_at.eq(micros(now)),
    );
    diesel::insert_into(opened_verifications::table).values(row).execute(connection)?;
    for (scope, id) in counters(opening) {
        if opened(connection, scope, &id, now)?.is_some() {
            let counter = budget_counters::table.find((day(now), scope.as_str(), id));
            let increment = budget_counters::opened.eq(budget_counters::opened + 1);
            diesel::update(counter).set(increment).execute(connection)?;
        } else {
            let row = (
                budget_counters::day.eq(day(now)),
                budget_counters::scope.eq(scope.as_str()),
                budget_counters::id.eq(id),
                budget_counters::opened.eq(1),
            );
            diesel::insert_into(budget_counters::table).values(row).execute(connection)?;
        }
    }
    forget_old_ids(connection, now)?;
    // Yesterday's stay, in case the clock is set back a little.
    let stale = budget_counters::table.filter(budget_counters::day.lt(day(now) - 1));
    diesel::delete(stale).execute(connection)?;
    Ok(())
}

/// An id that lies ahead is remembered until its own time has passed for as long.
fn forget_old_ids(connection: &mut AnyConnection, now: OffsetDateTime) -> Result<(), StoreError> {
    let old: Vec<String> = opened_verifications::table
        .filter(opened_verifications::verification_id.lt(VerificationId::text_at(now - REMEMBERED)))
        .order(opened_verifications::verification_id)
        .limit(FORGOTTEN_AT_ONCE)
        .select(opened_verifications::verification_id)
        .load(connection)?;
    let Some(newest) = old.last() else { return Ok(()) };
    let old = opened_verifications::table.filter(opened_verifications::verification_id.le(newest));
    Ok(diesel::delete(old).execute(connection).map(drop)?)
}

/// The counters that one opening draws on.
/// Under which name those of a whole day are counted.
const ALL_OPENINGS: &str = "all";

fn counters(opening: &Opening) -> [(BudgetScope, String); 3] {
    [
        (BudgetScope::Subject, hex::encode(subject_digest(opening.tenant, opening.subject))),
        (BudgetScope::Tenant, opening.tenant.to_string()),
        (BudgetScope::Day, ALL_OPENINGS.to_owned()),
    ]
}

fn opened(
    connection: &mut AnyConnection,
    scope: BudgetScope,
    id: &str,
    now: OffsetDateTime,
) -> Result<Option<i64>, StoreError> {
    let counter = budget_counters::table.find((day(now), scope.as_str(), id)).select(budget_counters::opened);
    Ok(counter.first(connection).optional()?)
}

fn is_forgotten(connection: &mut AnyConnection, digest: &[u8; 32]) -> Result<bool, StoreError> {
    let rows: i64 = forgotten_subjects::table
        .filter(forgotten_subjects::subject_digest.eq(digest.to_vec()))
        .count()
        .get_result(connection)?;
    Ok(rows > 0)
}

/// Days since 1970-01-01 UTC.
fn day(now: OffsetDateTime) -> i64 {
    now.unix_timestamp().div_euclid(86_400)
}

fn until_midnight_s(now: OffsetDateTime) -> u64 {
    let now = now.to_offset(time::UtcOffset::UTC);
    let midnight = now.replace_time(Time::MIDNIGHT) + time::Duration::DAY;
    (midnight - now).whole_seconds().unsigned_abs() + 1
}
