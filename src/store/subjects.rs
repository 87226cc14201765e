//! Subjects: the persons of a tenant, known to it by an external reference that rests sealed and is found by blind index.

use std::collections::HashSet;

use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    consents::erase_if_withdrawn_since,
    erasures::NewErasureRequest,
    error::{Conflict, StoreError},
    page::{Page, rows_to_load},
    schema::main::{
        access_requests, consents, enrolments, idempotency_records, subjects, verification_attempts, verifications,
    },
};
use crate::{
    domain::{
        id::{SubjectId, TenantId},
        restriction::Restriction,
    },
    vault::{BlindIndexKey, DataKey, Place, VaultError},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub id: SubjectId,
    pub created_at: OffsetDateTime,
    /// The last enrolment or verification.
    pub last_used_at: Option<OffsetDateTime>,
    pub restriction: Option<Restriction>,
    external_ref: Vec<u8>,
}

impl Subject {
    /// The tenant's own name for this person. `key` is this subject's data key.
    pub fn open_external_ref(&self, key: &DataKey) -> Result<Zeroizing<String>, StoreError> {
        let mut plain = key.open(&place(&self.id.to_string()), &self.external_ref)?;
        let text = String::from_utf8(std::mem::take(&mut *plain));
        text.map(Zeroizing::new).map_err(|_| StoreError::Sealed(VaultError::Malformed))
    }
}

pub struct NewSubject<'a> {
    pub id: SubjectId,
    pub external_ref: &'a str,
    pub created_at: OffsetDateTime,
}

/// How many rows of each table an erasure removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeletedRows {
    pub subjects: usize,
    pub consents: usize,
    pub enrolments: usize,
    pub verifications: usize,
    pub attempts: usize,
    pub idempotency_records: usize,
    /// Of requests that were carried out before there were any: none.
    #[serde(default)]
    pub access_requests: usize,
    /// Reasons that were written on earlier erasure requests of the person: cleared, not rows of their own.
    #[serde(default)]
    pub reasons: usize,
}

pub struct Subjects<'a> {
    pub(super) pool: &'a Pool,
    pub(super) blind_index: &'a BlindIndexKey,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = subjects)]
struct Row {
    id: String,
    tenant_id: String,
    external_ref: Vec<u8>,
    external_ref_index: Vec<u8>,
    created_at: i64,
    last_used_at: Option<i64>,
    restricted_at: Option<i64>,
    restriction: Option<String>,
}

impl Subjects<'_> {
    pub async fn insert(
        &self,
        tenant: TenantId,
        new: NewSubject<'_>,
        key: &DataKey,
        act: Act,
    ) -> Result<(), StoreError> {
        let id = new.id.to_string();
        let row = Row {
            external_ref: key.seal(&place(&id), new.external_ref.as_bytes())?,
            external_ref_index: self.index(tenant, new.external_ref),
            tenant_id: tenant.to_string(),
            created_at: micros(new.created_at),
            last_used_at: None,
            restricted_at: None,
            restriction: None,
            id,
        };
        let inserted = self.pool.write(tenant, move |connection| {
            diesel::insert_into(subjects::table).values(&row).execute(connection)?;
            act.complete(connection, tenant)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::ExternalRef).or_parent_not_found())
    }

    pub async fn find(&self, tenant: TenantId, id: SubjectId) -> Result<Subject, StoreError> {
        let query = own(tenant, id);
        let row: Row = self.pool.run(tenant, move |connection| Ok(query.first(connection)?)).await?;
        row.try_into()
    }

    /// Gives a person another name. `Conflict` where another person of the tenant has it.
    pub async fn rename(
        &self,
        tenant: TenantId,
        id: SubjectId,
        external_ref: &str,
        key: &DataKey,
        act: Act,
    ) -> Result<(), StoreError> {
        let index = self.index(tenant, external_ref);
        let sealed = key.seal(&place(&id.to_string()), external_ref.as_bytes())?;
        let renamed = self.pool.write(tenant, move |connection| {
            lock(connection, tenant, id)?;
            let present: Vec<u8> = own(tenant, id).select(subjects::external_ref_index).first(connection)?;
            if present == index {
                return act.complete_unchanged(connection);
            }
            let changes = (subjects::external_ref.eq(sealed), subjects::external_ref_index.eq(index));
            diesel::update(own(tenant, id)).set(changes).execute(connection)?;
            act.complete(connection, tenant)
        });
        renamed.await.map_err(|error| error.or_conflict(Conflict::ExternalRef))
    }

    /// From its return on nothing of this person is processed, in any process. Repeating it keeps the first time and ground.
    pub async fn restrict(
        &self,
        tenant: TenantId,
        id: SubjectId,
        restriction: Restriction,
        act: impl FnOnce(&Restriction) -> Result<Act, StoreError> + Send + 'static,
    ) -> Result<Restriction, StoreError> {
        let restrict = move |connection: &mut AnyConnection| {
            lock(connection, tenant, id)?;
            if let Some(standing) = restriction_of(connection, tenant, id)? {
                act(&standing)?.complete_unchanged(connection)?;
                return Ok(standing);
            }
            let changes = (
                subjects::restricted_at.eq(micros(restriction.since)),
                subjects::restriction.eq(restriction.ground.as_str()),
            );
            diesel::update(own(tenant, id)).set(changes).execute(connection)?;
            act(&restriction)?.complete(connection, tenant)?;
            Ok(restriction)
        };
        self.pool.write(tenant, restrict).await
    }

    /// Opens `erasure`, if there is one, for a person who has withdrawn meanwhile and agrees to nothing any more. Safe to repeat.
    pub async fn lift_restriction(
        &self,
        tenant: TenantId,
        id: SubjectId,
        erasure: Option<NewErasureRequest>,
        act: Act,
    ) -> Result<(), StoreError> {
        let lift = move |connection: &mut AnyConnection| {
            lock(connection, tenant, id)?;
            let Some(lifted) = restriction_of(connection, tenant, id)? else {
                return act.complete_unchanged(connection);
            };
            let changes = (subjects::restricted_at.eq(None::<i64>), subjects::restriction.eq(None::<String>));
            diesel::update(own(tenant, id)).set(changes).execute(connection)?;
            act.complete(connection, tenant)?;
            match &erasure {
                Some(erasure) => erase_if_withdrawn_since(connection, tenant, id, lifted.since, erasure),
                None => Ok(()),
            }
        };
        self.pool.write(tenant, lift).await
    }

    /// Of these persons, of whichever tenants, those who are there.
    pub async fn there(&self, ids: &[SubjectId]) -> Result<HashSet<SubjectId>, StoreError> {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let query = subjects::table.filter(subjects::id.eq_any(ids)).select(subjects::id);
        let rows: Vec<String> = self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        rows.iter().map(|id| parse("subjects.id", id)).collect()
    }

    pub async fn find_by_external_ref(
        &self,
        tenant: TenantId,
        external_ref: &str,
    ) -> Result<Option<Subject>, StoreError> {
        let query = subjects::table
            .filter(subjects::tenant_id.eq(tenant.to_string()))
            .filter(subjects::external_ref_index.eq(self.index(tenant, external_ref)));
        let row: Option<Row> = self.pool.run(tenant, move |connection| Ok(query.first(connection).optional()?)).await?;
        row.map(Subject::try_from).transpose()
    }

    /// Newest first; `before` is the `next` of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        before: Option<SubjectId>,
        limit: u32,
    ) -> Result<Page<Subject, SubjectId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let query = subjects::table
            .filter(subjects::tenant_id.eq(tenant.to_string()))
            .filter(subjects::id.lt(before))
            .order(subjects::id.desc())
            .limit(rows_to_load(limit));
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(Subject::try_from).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |subject| subject.id))
    }

    fn index(&self, tenant: TenantId, external_ref: &str) -> Vec<u8> {
        self.blind_index.index(tenant, "subjects.external_ref", external_ref).as_bytes().to_vec()
    }
}

/// Removes every row of a subject, inside a writing transaction. Safe to repeat: what is gone counts as zero.
///
/// Who writes about this subject at the same time holds `lock` and so comes before, and is swept here, or comes after, and
/// finds no subject.
pub(super) fn delete_rows(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: SubjectId,
) -> Result<DeletedRows, StoreError> {
    macro_rules! delete_from {
        ($table:ident, $subject:ident) => {{
            let own_tenant = $table::tenant_id.eq(tenant.to_string());
            diesel::delete($table::table.filter(own_tenant).filter($table::$subject.eq(id.to_string())))
                .execute(connection)?
        }};
    }
    match lock(connection, tenant, id) {
        Err(StoreError::NotFound) => return Ok(DeletedRows::default()),
        other => other?,
    }
    Ok(DeletedRows {
        attempts: delete_from!(verification_attempts, subject_id),
        idempotency_records: delete_from!(idempotency_records, subject_id),
        access_requests: delete_from!(access_requests, subject_id),
        consents: delete_from!(consents, subject_id),
        enrolments: delete_from!(enrolments, subject_id),
        verifications: delete_from!(verifications, subject_id),
        subjects: delete_from!(subjects, id),
        reasons: 0,
    })
}

/// Holds a subject until commit: whoever writes about it takes this first, so that writers of one subject come one after
/// the other, with one lock and therefore without a deadlock. The update changes nothing; it takes the row's lock.
/// `NotFound` when the tenant has no such subject, or has it no more.
pub(super) fn lock(connection: &mut AnyConnection, tenant: TenantId, id: SubjectId) -> Result<(), StoreError> {
    let locked =
        diesel::update(own(tenant, id)).set(subjects::created_at.eq(subjects::created_at)).execute(connection)?;
    if locked == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// Whoever processes what is known of a person asks this inside the transaction that holds the person: `Restricted` unless
/// that is allowed.
pub(super) fn refuse_restricted(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: SubjectId,
) -> Result<(), StoreError> {
    match restriction_of(connection, tenant, id)? {
        None => Ok(()),
        Some(_) => Err(StoreError::Restricted),
    }
}

/// Of somebody who is not there: none.
pub(super) fn restriction_of(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: SubjectId,
) -> Result<Option<Restriction>, StoreError> {
    let columns = own(tenant, id).select((subjects::restricted_at, subjects::restriction));
    let (since, ground) = columns.first(connection).optional()?.unwrap_or_default();
    restriction(since, ground)
}

fn restriction(since: Option<i64>, ground: Option<String>) -> Result<Option<Restriction>, StoreError> {
    match (since, ground) {
        (None, None) => Ok(None),
        (Some(since), Some(ground)) => Ok(Some(Restriction {
            ground: parse("subjects.restriction", &ground)?,
            since: instant("subjects.restricted_at", since)?,
        })),
        _ => Err(StoreError::Corrupt { column: "subjects.restriction" }),
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(tenant: TenantId, id: SubjectId) -> _ {
    let (tenant, id): (String, String) = (tenant.to_string(), id.to_string());
    subjects::table.filter(subjects::tenant_id.eq(tenant)).filter(subjects::id.eq(id))
}

/// Notes inside a writing transaction that the person was enrolled or verified.
pub(super) fn used(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: SubjectId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    diesel::update(own(tenant, id)).set(subjects::last_used_at.eq(micros(now))).execute(connection)?;
    Ok(())
}

fn place(id: &str) -> Place<'_> {
    Place { table: "subjects", row: id, column: "external_ref" }
}

impl TryFrom<Row> for Subject {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse("subjects.id", &row.id)?,
            created_at: instant("subjects.created_at", row.created_at)?,
            last_used_at: row.last_used_at.map(|at| instant("subjects.last_used_at", at)).transpose()?,
            restriction: restriction(row.restricted_at, row.restriction)?,
            external_ref: row.external_ref,
        })
    }
}
