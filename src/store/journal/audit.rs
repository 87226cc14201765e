//! The keyholder's audit lines: append-only, numbered without gaps, each hash covering the line before it.
//!
//! ```text
//! hash_0 = 32 zero bytes
//! hash_n = SHA-256(hash_(n-1) ‖ len(p_1) ‖ p_1 ‖ ... )     over the line's fields as text, in the order of the table
//! ```
//! Who can write to the database can rewrite the whole chain from some line on; comparing the head with a copy kept
//! elsewhere shows that. Within an untouched head every change, removal, insertion or reordering shows.

use std::time::Duration;

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{Opening, subject_digest};
use crate::{
    domain::id::{SubjectId, TenantId, VerificationId},
    store::{
        chain::chained_hash,
        columns::{instant, micros},
        conn::AnyConnection,
        error::StoreError,
        schema::journal::{audit_head, audit_lines},
    },
};

/// What happened, to whom, at whose request, and why; never what was seen.
#[derive(Debug, Clone, Default)]
pub struct AuditEvent {
    pub event: &'static str,
    /// A code, empty where there is nothing to explain.
    pub reason: &'static str,
    /// Who asked, e.g. by the fingerprint of a certificate; empty for what the keyholder does by itself.
    pub caller: String,
    pub tenant: Option<TenantId>,
    pub subject: Option<SubjectId>,
    pub verification: Option<VerificationId>,
}

impl AuditEvent {
    pub fn about(opening: &Opening) -> Self {
        Self {
            caller: opening.caller.clone(),
            tenant: Some(opening.tenant),
            subject: Some(opening.subject),
            verification: Some(opening.verification),
            ..Self::default()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    pub sequence: i64,
    pub at: OffsetDateTime,
    pub event: String,
    pub reason: String,
    pub caller: String,
    /// Empty where the event concerns no tenant; so for subject and verification.
    pub tenant: String,
    pub subject_digest: Vec<u8>,
    pub verification: String,
    pub hash: Vec<u8>,
}

/// What a walk along the hash chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    Whole {
        lines: i64,
        head: Vec<u8>,
    },
    /// The first line that does not fit to those before it; one past the last where lines are missing at the end.
    BrokenAt {
        sequence: i64,
    },
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = audit_lines)]
struct Row {
    sequence: i64,
    at: i64,
    event: String,
    reason: String,
    caller: String,
    tenant_id: String,
    subject_digest: Vec<u8>,
    verification_id: String,
    hash: Vec<u8>,
}

/// The end of the chain, held until commit.
pub(super) struct Head {
    sequence: i64,
    hash: Vec<u8>,
}

const HEAD_ROW: i32 = 1;

/// Lets one transaction at a time extend the chain. The update changes nothing; it takes the row's lock.
pub(super) fn lock_head(connection: &mut AnyConnection) -> Result<Head, StoreError> {
    let lock = diesel::update(audit_head::table.find(HEAD_ROW)).set(audit_head::id.eq(HEAD_ROW));
    lock.execute(connection)?;
    let (sequence, hash) =
        audit_head::table.find(HEAD_ROW).select((audit_head::sequence, audit_head::hash)).first(connection)?;
    Ok(Head { sequence, hash })
}

pub(super) fn append(
    connection: &mut AnyConnection,
    head: Head,
    event: &AuditEvent,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let mut row = Row {
        sequence: head.sequence + 1,
        at: micros(now),
        event: event.event.to_owned(),
        reason: event.reason.to_owned(),
        caller: event.caller.clone(),
        tenant_id: event.tenant.map(|id| id.to_string()).unwrap_or_default(),
        subject_digest: match (event.tenant, event.subject) {
            (Some(tenant), Some(subject)) => subject_digest(tenant, subject).to_vec(),
            _ => Vec::new(),
        },
        verification_id: event.verification.map(|id| id.to_string()).unwrap_or_default(),
        hash: Vec::new(),
    };
    row.hash = row.chained_hash(&head.hash);
    diesel::insert_into(audit_lines::table).values(&row).execute(connection)?;
    let new_head = (audit_head::sequence.eq(row.sequence), audit_head::hash.eq(&row.hash));
    diesel::update(audit_head::table.find(HEAD_ROW)).set(new_head).execute(connection)?;
    Ok(())
}

pub(super) fn lines(connection: &mut AnyConnection, after: i64, limit: u32) -> Result<Vec<AuditLine>, StoreError> {
    rows(connection, after, i64::from(limit))?.into_iter().map(AuditLine::try_from).collect()
}

/// How long a walk may take: a million lines are seconds.
pub(super) const VERIFY_WAIT: Duration = Duration::from_secs(3_600);

/// Walks along the chain while it grows; only its end is looked at under the lock.
pub(super) fn verify(connection: &mut AnyConnection) -> Result<Chain, StoreError> {
    let mut walk = Walk { sequence: 0, hash: vec![0; 32] };
    if let Some(broken) = walk.walk_on(connection)? {
        return Ok(broken);
    }
    connection.write(|connection| {
        let head = lock_head(connection)?;
        if let Some(broken) = walk.walk_on(connection)? {
            return Ok(broken);
        }
        let Walk { sequence, hash } = walk;
        if head.sequence == sequence && head.hash == hash {
            Ok(Chain::Whole { lines: sequence, head: hash })
        } else {
            Ok(Chain::BrokenAt { sequence: sequence + 1 })
        }
    })
}

/// The last line that fitted.
struct Walk {
    sequence: i64,
    hash: Vec<u8>,
}

impl Walk {
    /// Up to the last line there is; where the chain is broken, if it is.
    fn walk_on(&mut self, connection: &mut AnyConnection) -> Result<Option<Chain>, StoreError> {
        const ROWS_AT_ONCE: i64 = 1_000;
        loop {
            let rows = rows(connection, self.sequence, ROWS_AT_ONCE)?;
            let last = rows.len() < ROWS_AT_ONCE as usize;
            for row in rows {
                self.sequence += 1;
                if row.sequence != self.sequence || row.hash != row.chained_hash(&self.hash) {
                    return Ok(Some(Chain::BrokenAt { sequence: self.sequence }));
                }
                self.hash = row.hash;
            }
            if last {
                return Ok(None);
            }
        }
    }
}

fn rows(connection: &mut AnyConnection, after: i64, limit: i64) -> Result<Vec<Row>, StoreError> {
    let query = audit_lines::table.filter(audit_lines::sequence.gt(after)).order(audit_lines::sequence).limit(limit);
    Ok(query.load(connection)?)
}

impl Row {
    fn chained_hash(&self, previous: &[u8]) -> Vec<u8> {
        let (sequence, at) = (self.sequence.to_string(), self.at.to_string());
        let parts = [
            sequence.as_bytes(),
            at.as_bytes(),
            self.event.as_bytes(),
            self.reason.as_bytes(),
            self.caller.as_bytes(),
            self.tenant_id.as_bytes(),
            &self.subject_digest,
            self.verification_id.as_bytes(),
        ];
        chained_hash(previous, parts)
    }
}

impl TryFrom<Row> for AuditLine {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            sequence: row.sequence,
            at: instant("audit_lines.at", row.at)?,
            event: row.event,
            reason: row.reason,
            caller: row.caller,
            tenant: row.tenant_id,
            subject_digest: row.subject_digest,
            verification: row.verification_id,
            hash: row.hash,
        })
    }
}
