//! Consents: what each person permitted, and the lock that makes "active at the moment of writing" true. References to
//! documents, which may name somebody, are sealed under the person's data key.

use std::sync::Arc;

use diesel::{
    dsl::{exists, not},
    prelude::*,
};
use time::OffsetDateTime;

use super::{
    audit::Act,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool},
    erasures::{self, NewErasureRequest},
    error::{Conflict, StoreError},
    notices::{generation_of, newest_generation},
    page::{Page, rows_to_load},
    schema::main::{consents, notices},
    subjects::{self, lock},
};
use crate::{
    domain::{
        consent::{Consent, Method, Purpose, Reference, ShownNotice, Statement},
        id::{ConsentId, SubjectId, TenantId},
        notice::Generation,
    },
    vault::{DataKey, Place, VaultError},
};

/// How many consents of a person to one purpose may stand at a time. Whoever has so many lacks none: each of them permits it.
pub const STANDING_CONSENTS_MAX: i64 = 100;

pub struct Consents<'a> {
    pub(super) pool: &'a Pool,
}

pub struct NewWithdrawal {
    pub statement: Statement,
    pub key: Arc<DataKey>,
    /// To be opened where the person agrees to nothing any more.
    pub erasure: Option<NewErasureRequest>,
}

#[derive(Queryable, Selectable, Insertable)]
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
    notice_id: Option<String>,
    notice_generation: i64,
    granted_by: Option<String>,
    method: Option<String>,
    evidence: Option<Vec<u8>>,
    given_by: String,
    guardian: Option<Vec<u8>>,
    withdrawn_by: Option<String>,
    withdrawal_method: Option<String>,
    withdrawal_evidence: Option<Vec<u8>>,
}

impl Consents<'_> {
    /// `NotFound` when the tenant has no such subject or no such notice; `NoticeSuperseded` when the notice is of an earlier
    /// generation than the newest of its purpose: nobody can agree to it any more; `TooManyConsents` where enough of them
    /// stand.
    pub async fn insert(&self, tenant: TenantId, consent: &Consent, key: &DataKey, act: Act) -> Result<(), StoreError> {
        let row = Row::sealed(tenant, consent, key)?;
        let (subject, purpose, notice) = (consent.subject, consent.purpose.clone(), consent.notice.clone());
        let granted_at = consent.granted.at;
        let inserted = self.pool.write(tenant, move |connection| {
            lock(connection, tenant, subject)?;
            let generation = match notice.id {
                Some(id) => generation_of(connection, tenant, &purpose, id)?,
                None => Generation::default(),
            };
            if generation < newest_generation(connection, tenant, &purpose)? {
                return Err(StoreError::Conflict(Conflict::NoticeSuperseded));
            }
            if standing(connection, tenant, subject, Some(&purpose), granted_at)? >= STANDING_CONSENTS_MAX {
                return Err(StoreError::Conflict(Conflict::TooManyConsents));
            }
            let row = Row { notice_generation: generation.0, ..row };
            diesel::insert_into(consents::table).values(&row).execute(connection)?;
            act.complete(connection, tenant)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::Id))
    }

    /// Newest first; `before` is the `next` of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        before: Option<ConsentId>,
        limit: u32,
        key: &DataKey,
    ) -> Result<Page<Consent, ConsentId>, StoreError> {
        // '~' sorts after every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        let query = of_subject(tenant, subject)
            .filter(consents::id.lt(before))
            .order(consents::id.desc())
            .limit(rows_to_load(limit))
            .select((Row::as_select(), outdated()));
        let rows: Vec<(Row, bool)> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        let items = rows.into_iter().map(|(row, superseded)| row.open(superseded, key)).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, limit, |consent: &Consent| consent.id))
    }

    pub async fn find(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        id: ConsentId,
        key: &DataKey,
    ) -> Result<Consent, StoreError> {
        let (row, superseded) = self.pool.run(tenant, move |connection| find(connection, tenant, subject, id)).await?;
        row.open(superseded, key)
    }

    /// Withdraws permission for the consent's purpose: this consent and every other of that subject and purpose that was not
    /// withdrawn, for a person says no to the use, not to a piece of paper. Repeating it keeps the first time.
    /// Once it returns, no template and no verification can be written under it, in any process.
    pub async fn withdraw(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        id: ConsentId,
        new: NewWithdrawal,
        act: impl FnOnce(&Consent) -> Result<Act, StoreError> + Send + 'static,
    ) -> Result<Consent, StoreError> {
        let NewWithdrawal { statement, key, erasure } = new;
        self.pool
            .write(tenant, move |connection| {
                lock(connection, tenant, subject)?;
                let (named, _) = find(connection, tenant, subject, id)?;
                let not_withdrawn: Vec<String> = of_subject(tenant, subject)
                    .filter(consents::purpose.eq(named.purpose))
                    .filter(consents::withdrawn_at.is_null())
                    .select(consents::id)
                    .load(connection)?;
                for consent in &not_withdrawn {
                    save_withdrawal(connection, tenant, consent, &statement, &key)?;
                }
                let (row, superseded) = find(connection, tenant, subject, id)?;
                let consent = row.open(superseded, &key)?;
                let act = act(&consent)?;
                if not_withdrawn.is_empty() {
                    act.complete_unchanged(connection)?;
                    return Ok(consent);
                }
                act.complete(connection, tenant)?;
                // What is to be kept for the person's sake does not go by itself. `lift_restriction` asks again.
                if let Some(erasure) = erasure
                    && subjects::restriction_of(connection, tenant, subject)?.is_none()
                {
                    erase_unless_agreed(connection, tenant, subject, &erasure)?;
                }
                Ok(consent)
            })
            .await
    }

    /// The newest consent that permits `purpose` at `now`. `ConsentSuperseded` where there would be one, had the notice not
    /// changed materially; `Restricted` where nothing may be processed whatever was agreed to.
    pub async fn active(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        purpose: &Purpose,
        now: OffsetDateTime,
    ) -> Result<Option<ConsentId>, StoreError> {
        let purpose = purpose.clone();
        self.pool.run(tenant, move |connection| active(connection, tenant, subject, &purpose, now)).await
    }
}

/// Opens the request of a person of whom no consent, for whatever purpose, permits anything any more.
fn erase_unless_agreed(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    erasure: &NewErasureRequest,
) -> Result<(), StoreError> {
    match standing(connection, tenant, subject, None, erasure.event.at)? {
        0 => erasures::open_unless_open(connection, erasure),
        _ => Ok(()),
    }
}

/// How many consents permit something at that moment: one purpose, or any.
fn standing(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    purpose: Option<&Purpose>,
    now: OffsetDateTime,
) -> Result<i64, StoreError> {
    let mut query = of_subject(tenant, subject).filter(permitting(now)).filter(not(outdated())).into_boxed();
    if let Some(purpose) = purpose {
        query = query.filter(consents::purpose.eq(purpose.to_string()));
    }
    Ok(query.count().get_result(connection)?)
}

/// What a withdrawal since that moment would have opened, had the person's data not been restricted.
pub(super) fn erase_if_withdrawn_since(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    since: OffsetDateTime,
    erasure: &NewErasureRequest,
) -> Result<(), StoreError> {
    let withdrawn = of_subject(tenant, subject).filter(consents::withdrawn_at.ge(micros(since)));
    match withdrawn.count().get_result::<i64>(connection)? {
        0 => Ok(()),
        _ => erase_unless_agreed(connection, tenant, subject, erasure),
    }
}

/// Makes sure, inside a writing transaction, that a consent is active and stays so until commit: `withdraw`, `restrict` and
/// an erasure wait for the lock that is taken here, or have committed before, and their work is seen.
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

fn active(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    purpose: &Purpose,
    now: OffsetDateTime,
) -> Result<Option<ConsentId>, StoreError> {
    subjects::refuse_restricted(connection, tenant, subject)?;
    let standing = of_subject(tenant, subject)
        .filter(consents::purpose.eq(purpose.to_string()))
        .filter(permitting(now))
        .select((consents::id, outdated()))
        // Of the newest generation first, of those the newest.
        .order((consents::notice_generation.desc(), consents::id.desc()));
    match standing.first::<(String, bool)>(connection).optional()? {
        None => Ok(None),
        Some((_, true)) => Err(StoreError::ConsentSuperseded),
        Some((id, false)) => parse("consents.id", &id).map(Some),
    }
}

fn find(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    id: ConsentId,
) -> Result<(Row, bool), StoreError> {
    let named = of_subject(tenant, subject).filter(consents::id.eq(id.to_string()));
    Ok(named.select((Row::as_select(), outdated())).first(connection)?)
}

#[diesel::dsl::auto_type(no_type_alias)]
fn of_subject(tenant: TenantId, subject: SubjectId) -> _ {
    let (tenant, subject): (String, String) = (tenant.to_string(), subject.to_string());
    consents::table.filter(consents::tenant_id.eq(tenant)).filter(consents::subject_id.eq(subject))
}

/// Neither withdrawn nor expired.
#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn permitting(now: OffsetDateTime) -> _ {
    let now: i64 = micros(now);
    consents::withdrawn_at.is_null().and(consents::expires_at.is_null().or(consents::expires_at.gt(now)))
}

/// Given under a notice that has changed materially since.
#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn outdated() -> _ {
    exists(
        notices::table
            .filter(notices::tenant_id.eq(consents::tenant_id))
            .filter(notices::purpose.eq(consents::purpose))
            .filter(notices::generation.gt(consents::notice_generation)),
    )
}

fn save_withdrawal(
    connection: &mut AnyConnection,
    tenant: TenantId,
    id: &str,
    said: &Statement,
    key: &DataKey,
) -> Result<(), StoreError> {
    let changes = (
        consents::withdrawn_at.eq(micros(said.at)),
        consents::withdrawn_by.eq(&said.by),
        consents::withdrawal_method.eq(said.method.map(Method::as_str)),
        consents::withdrawal_evidence.eq(sealed(id, "withdrawal_evidence", said.evidence.as_ref(), key)?),
    );
    let own = consents::table.filter(consents::tenant_id.eq(tenant.to_string())).filter(consents::id.eq(id));
    Ok(diesel::update(own).set(changes).execute(connection).map(drop)?)
}

fn sealed(id: &str, column: &str, reference: Option<&Reference>, key: &DataKey) -> Result<Option<Vec<u8>>, VaultError> {
    reference.map(|reference| key.seal(&place(id, column), reference.expose_text().as_bytes())).transpose()
}

fn place<'a>(id: &'a str, column: &'a str) -> Place<'a> {
    Place { table: "consents", row: id, column }
}

impl Row {
    fn sealed(tenant: TenantId, consent: &Consent, key: &DataKey) -> Result<Self, StoreError> {
        let id = consent.id.to_string();
        let seal = |column, reference: Option<&Reference>| sealed(&id, column, reference, key);
        let (granted, withdrawn) = (&consent.granted, consent.withdrawn.as_ref());
        Ok(Self {
            tenant_id: tenant.to_string(),
            subject_id: consent.subject.to_string(),
            purpose: consent.purpose.to_string(),
            notice_version: consent.notice.version.clone(),
            granted_at: micros(granted.at),
            expires_at: consent.expires_at.map(micros),
            withdrawn_at: withdrawn.map(|statement| micros(statement.at)),
            notice_id: consent.notice.id.map(|id| id.to_string()),
            notice_generation: consent.notice.generation.0,
            granted_by: granted.by.clone(),
            method: granted.method.map(|method| method.as_str().to_owned()),
            evidence: seal("evidence", granted.evidence.as_ref())?,
            given_by: consent.given_by.as_str().to_owned(),
            guardian: seal("guardian", consent.guardian.as_ref())?,
            withdrawn_by: withdrawn.and_then(|statement| statement.by.clone()),
            withdrawal_method: withdrawn.and_then(|said| said.method).map(|method| method.as_str().to_owned()),
            withdrawal_evidence: seal("withdrawal_evidence", withdrawn.and_then(|said| said.evidence.as_ref()))?,
            id,
        })
    }

    fn open(self, superseded: bool, key: &DataKey) -> Result<Consent, StoreError> {
        let open = |column, sealed: Option<Vec<u8>>| {
            let open = |sealed: Vec<u8>| -> Result<Reference, StoreError> {
                let mut plain = key.open(&place(&self.id, column), &sealed)?;
                let text = String::from_utf8(std::mem::take(&mut *plain));
                text.map(Reference::new).map_err(|_| StoreError::Sealed(VaultError::Malformed))
            };
            sealed.map(open).transpose()
        };
        let method = |column, word: Option<String>| word.map(|word| parse(column, &word)).transpose();
        let withdrawn = match self.withdrawn_at {
            None => None,
            Some(at) => Some(Statement {
                at: instant("consents.withdrawn_at", at)?,
                by: self.withdrawn_by,
                method: method("consents.withdrawal_method", self.withdrawal_method)?,
                evidence: open("withdrawal_evidence", self.withdrawal_evidence)?,
            }),
        };
        Ok(Consent {
            id: parse("consents.id", &self.id)?,
            subject: parse("consents.subject_id", &self.subject_id)?,
            purpose: parse("consents.purpose", &self.purpose)?,
            notice: ShownNotice {
                version: self.notice_version,
                id: self.notice_id.map(|id| parse("consents.notice_id", &id)).transpose()?,
                generation: Generation(self.notice_generation),
            },
            granted: Statement {
                at: instant("consents.granted_at", self.granted_at)?,
                by: self.granted_by,
                method: method("consents.method", self.method)?,
                evidence: open("evidence", self.evidence)?,
            },
            given_by: parse("consents.given_by", &self.given_by)?,
            guardian: open("guardian", self.guardian)?,
            expires_at: self.expires_at.map(|at| instant("consents.expires_at", at)).transpose()?,
            withdrawn,
            superseded,
        })
    }
}
