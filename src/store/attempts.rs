//! Failed verifications of a person in a row, and until when there is no further one. Kept with the person's rows, so that
//! no restart forgets them.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    columns::{instant, micros},
    conn::{AnyConnection, Pool},
    error::StoreError,
    schema::main::verification_attempts as attempts,
    subjects::lock,
};
use crate::domain::{
    attempts::AttemptRule,
    id::{SubjectId, TenantId},
};

pub struct Attempts<'a> {
    pub(super) pool: &'a Pool,
}

impl Attempts<'_> {
    /// Until when the person is not verified.
    pub async fn blocked_until(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        now: OffsetDateTime,
    ) -> Result<Option<OffsetDateTime>, StoreError> {
        let found = self.pool.run(tenant, move |connection| read(connection, tenant, subject)).await?;
        Ok(found.map(|(_, until)| until).filter(|until| *until > now))
    }

    /// How many attempts in a row have failed, and until when that blocks or has blocked the person.
    pub async fn series(
        &self,
        tenant: TenantId,
        subject: SubjectId,
    ) -> Result<Option<(i64, OffsetDateTime)>, StoreError> {
        self.pool.run(tenant, move |connection| read(connection, tenant, subject)).await
    }

    /// Counts an attempt as failed before its outcome is known, so that attempts at the same time cannot all be the first;
    /// a match takes it back ([`forget`]). `Err(until)` where the person is blocked.
    pub async fn begin(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        rule: AttemptRule,
        now: OffsetDateTime,
    ) -> Result<Result<(), OffsetDateTime>, StoreError> {
        self.pool
            .write(tenant, move |connection| {
                lock(connection, tenant, subject)?;
                let (failures, blocked_until) = read(connection, tenant, subject)?.unwrap_or((0, now));
                if blocked_until > now {
                    return Ok(Err(blocked_until));
                }
                let delay = rule.delay(failures + 1);
                // Not `now`: who comes at the same time may have looked at the clock a moment earlier.
                let until = if delay.is_zero() { OffsetDateTime::UNIX_EPOCH } else { now + delay };
                write(connection, tenant, subject, failures + 1, until)?;
                Ok(Ok(()))
            })
            .await
    }

    /// Takes back an attempt that came to no outcome.
    pub async fn undo(&self, tenant: TenantId, subject: SubjectId) -> Result<(), StoreError> {
        self.pool
            .write(tenant, move |connection| {
                lock(connection, tenant, subject)?;
                match read(connection, tenant, subject)? {
                    Some((failures, _)) if failures > 1 => {
                        write(connection, tenant, subject, failures - 1, OffsetDateTime::UNIX_EPOCH)
                    }
                    _ => forget(connection, tenant, subject),
                }
            })
            .await
    }
}

/// After a match nothing is held against the person.
pub(super) fn forget(connection: &mut AnyConnection, tenant: TenantId, subject: SubjectId) -> Result<(), StoreError> {
    Ok(diesel::delete(own(tenant, subject)).execute(connection).map(drop)?)
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(tenant: TenantId, subject: SubjectId) -> _ {
    let (tenant, subject): (String, String) = (tenant.to_string(), subject.to_string());
    attempts::table.find(subject).filter(attempts::tenant_id.eq(tenant))
}

fn read(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
) -> Result<Option<(i64, OffsetDateTime)>, StoreError> {
    let query = own(tenant, subject).select((attempts::failures, attempts::blocked_until));
    let row: Option<(i64, i64)> = query.first(connection).optional()?;
    row.map(|(failures, until)| Ok((failures, instant("verification_attempts.blocked_until", until)?))).transpose()
}

/// The person's row is held by now, so nobody else writes theirs.
fn write(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    failures: i64,
    blocked_until: OffsetDateTime,
) -> Result<(), StoreError> {
    forget(connection, tenant, subject)?;
    let row = (
        attempts::subject_id.eq(subject.to_string()),
        attempts::tenant_id.eq(tenant.to_string()),
        attempts::failures.eq(failures),
        attempts::blocked_until.eq(micros(blocked_until)),
    );
    Ok(diesel::insert_into(attempts::table).values(row).execute(connection).map(drop)?)
}
