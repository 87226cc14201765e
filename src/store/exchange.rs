//! A person gets another data key, while the service works. Three walks over the key store, each of which may be repeated:
//!
//! 1. *begin*: the row gets the next key beside the present one. Whoever asks for the person's key from then on seals under the
//!    next and opens under both.
//! 2. *reseal*: as soon as nobody can hold the present key alone any more, everything of that person in the main database is
//!    sealed under the next one, in one transaction that holds the person.
//! 3. *finish*: as soon as nobody can hold a row that was read before, the next key takes the present one's place, which is gone.
//!
//! At every moment between, and after a crash at any of them, everything opens. [`crate::flows::exchange`] waits in between.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    KeyStore, Store,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Reach},
    error::StoreError,
    keystore::own,
    rewrap::hold,
    schema::{
        keystore::data_keys,
        main::{
            access_requests, consents, enrolments, idempotency_records, officers, opendsr_requests, subjects,
            verifications,
        },
    },
    subjects::lock,
};
use crate::{
    domain::id::{OfficerId, SubjectId, TenantId},
    vault::{DataKey, Place, WrappedKey},
};

/// Rows of one step.
const ROWS_AT_ONCE: i64 = 200;

/// A person whose key is exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanged {
    pub tenant: TenantId,
    pub subject: SubjectId,
}

/// How an exchange stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeState {
    /// Keys made before the moment asked about, and not begun with.
    pub older: u64,
    /// Persons who have two keys.
    pub under_way: u64,
    /// When the last of those got the second.
    pub last_begun: Option<OffsetDateTime>,
}

impl KeyStore {
    pub async fn exchange_state(&self, made_before: OffsetDateTime) -> Result<ExchangeState, StoreError> {
        let older = older_than(made_before).count();
        let under_way = data_keys::table.filter(data_keys::next_wrapped.is_not_null());
        let counted = self.database.pool.run(Reach::Every, move |connection| {
            let older: i64 = older.get_result(connection)?;
            let rows: i64 = under_way.count().get_result(connection)?;
            let last: Option<i64> = under_way.select(diesel::dsl::max(data_keys::next_since)).get_result(connection)?;
            Ok((older, rows, last))
        });
        let (older, under_way, last) = counted.await?;
        let last_begun = last.map(|last| instant("data_keys.next_since", last)).transpose()?;
        Ok(ExchangeState { older: older.unsigned_abs(), under_way: under_way.unsigned_abs(), last_begun })
    }

    /// Gives the next keys to some of those whose key was made before a moment; how many, 0 when there are none left.
    pub async fn begin_exchange(&self, made_before: OffsetDateTime, now: OffsetDateTime) -> Result<usize, StoreError> {
        let query = older_than(made_before).limit(ROWS_AT_ONCE).select((data_keys::tenant_id, data_keys::subject_id));
        let rows: Vec<(String, String)> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let keys = self.keyring.keys();
        let mut fresh = Vec::new();
        for (tenant, subject) in rows {
            let (tenant, subject) = (parse("data_keys.tenant_id", &tenant)?, parse("data_keys.subject_id", &subject)?);
            fresh.push((tenant, subject, keys.wrap(&DataKey::generate()?, tenant, subject)?));
        }
        let begin = move |connection: &mut AnyConnection| {
            hold(connection, keys.current().as_str())?;
            fresh.into_iter().map(|(tenant, subject, key)| add_next(connection, tenant, subject, key, now)).sum()
        };
        self.database.pool.write(Reach::Every, begin).await
    }

    /// The next persons, after `after`, who had two keys before a moment.
    pub async fn exchanging(
        &self,
        begun_before: OffsetDateTime,
        after: Option<SubjectId>,
    ) -> Result<Vec<Exchanged>, StoreError> {
        let query = data_keys::table
            .filter(data_keys::next_wrapped.is_not_null())
            .filter(data_keys::next_since.lt(micros(begun_before)))
            .filter(data_keys::subject_id.gt(after.map_or_else(String::new, |subject| subject.to_string())))
            .order(data_keys::subject_id)
            .limit(ROWS_AT_ONCE)
            .select((data_keys::tenant_id, data_keys::subject_id));
        let rows: Vec<(String, String)> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(tenant, subject): (String, String)| {
            Ok(Exchanged {
                tenant: parse("data_keys.tenant_id", &tenant)?,
                subject: parse("data_keys.subject_id", &subject)?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// The next key takes the place of the present one.
    pub async fn finish_exchange(&self, persons: Vec<Exchanged>) -> Result<(), StoreError> {
        let finish = move |connection: &mut AnyConnection| {
            persons.iter().try_for_each(|person| follow(connection, person))?;
            Ok(())
        };
        self.database.pool.write(Reach::Every, finish).await
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn older_than(made_before: OffsetDateTime) -> _ {
    let made_before: i64 = micros(made_before);
    data_keys::table
        .filter(data_keys::wrapped.is_not_null())
        .filter(data_keys::next_wrapped.is_null())
        .filter(data_keys::created_at.lt(made_before))
}

type NextKey = (Option<String>, Option<Vec<u8>>, Option<i64>);

/// Unless the key was destroyed, or somebody else began, meanwhile.
fn add_next(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    key: WrappedKey,
    now: OffsetDateTime,
) -> Result<usize, StoreError> {
    let alone = own(tenant, subject).filter(data_keys::wrapped.is_not_null()).filter(data_keys::next_wrapped.is_null());
    let changes = (
        data_keys::next_kek_id.eq(Some(key.kek)),
        data_keys::next_wrapped.eq(Some(key.bytes)),
        data_keys::next_since.eq(Some(micros(now))),
    );
    Ok(diesel::update(alone).set(changes).execute(connection)?)
}

fn follow(connection: &mut AnyConnection, person: &Exchanged) -> Result<(), StoreError> {
    let two = own(person.tenant, person.subject).filter(data_keys::next_wrapped.is_not_null());
    let columns = (data_keys::next_kek_id, data_keys::next_wrapped, data_keys::next_since);
    let row: Option<NextKey> = two.clone().select(columns).first(connection).optional()?;
    // Destroyed meanwhile, or finished by somebody else.
    let Some((Some(kek), Some(bytes), Some(since))) = row else { return Ok(()) };
    let next = WrappedKey { kek, bytes };
    let changes = (
        data_keys::kek_id.eq(Some(next.kek)),
        data_keys::wrapped.eq(Some(next.bytes.clone())),
        data_keys::created_at.eq(since),
        data_keys::next_kek_id.eq(None::<String>),
        data_keys::next_wrapped.eq(None::<Vec<u8>>),
        data_keys::next_since.eq(None::<i64>),
    );
    diesel::update(two.filter(data_keys::next_wrapped.eq(next.bytes))).set(changes).execute(connection)?;
    Ok(())
}

/// Seals one column of everything that is a person's anew. Only in place of what was read: a row that changed meanwhile was
/// sealed under the next key by whoever changed it.
macro_rules! reseal {
    ($connection:ident, $person:ident, $key:ident, $table:ident.$column:ident of $owner:ident, $name:expr) => {{
        let own = $table::table
            .filter($table::tenant_id.eq($person.tenant.to_string()))
            .filter($table::$owner.eq($person.subject.to_string()));
        let rows = own.select(($table::id, $table::$column.nullable())).load::<(_, Option<Vec<u8>>)>($connection)?;
        for (id, sealed) in rows {
            let Some(sealed) = sealed else { continue };
            let name = $name(&id);
            let place = Place { table: stringify!($table), row: &name, column: stringify!($column) };
            let fresh = $key.seal(&place, &$key.open(&place, &sealed)?)?;
            let same = $table::table.filter($table::id.eq(id)).filter($table::$column.eq(sealed));
            diesel::update(same).set($table::$column.eq(fresh)).execute($connection)?;
        }
    }};
}

/// Whose rows they are.
struct OfOfficer {
    tenant: TenantId,
    subject: OfficerId,
}

fn reseal_officer(connection: &mut AnyConnection, person: Exchanged, key: &DataKey) -> Result<(), StoreError> {
    let officer = OfOfficer { tenant: person.tenant, subject: OfficerId::of_key_holder(person.subject) };
    let text = |id: &String| id.clone();
    reseal!(connection, officer, key, officers.name of id, text);
    reseal!(connection, officer, key, officers.password_hash of id, text);
    reseal!(connection, officer, key, officers.totp_secret of id, text);
    Ok(())
}

impl Store {
    /// Seals everything that is sealed under a person's key anew. `key` has its successor with it. Whoever adds a sealed column
    /// adds it here.
    pub async fn reseal(&self, person: Exchanged, key: DataKey) -> Result<(), StoreError> {
        let text = |id: &String| id.clone();
        let bytes = |id: &Vec<u8>| hex::encode(id);
        let reseal = move |connection: &mut AnyConnection| {
            // Under the key of nobody: no person is to be held.
            reseal!(connection, person, key, opendsr_requests.addresses of key_id, text);
            match lock(connection, person.tenant, person.subject) {
                // An officer's key; or one of somebody who was made half-way or erased: then there is nothing to seal.
                Err(StoreError::NotFound) => return reseal_officer(connection, person, &key),
                other => other?,
            }
            reseal!(connection, person, key, subjects.external_ref of id, text);
            reseal!(connection, person, key, consents.evidence of subject_id, text);
            reseal!(connection, person, key, consents.guardian of subject_id, text);
            reseal!(connection, person, key, consents.withdrawal_evidence of subject_id, text);
            reseal!(connection, person, key, enrolments.template of subject_id, text);
            reseal!(connection, person, key, verifications.decision of subject_id, text);
            reseal!(connection, person, key, access_requests.package of subject_id, text);
            reseal!(connection, person, key, idempotency_records.answer of subject_id, bytes);
            Ok(())
        };
        self.database.pool.write(person.tenant, reseal).await
    }
}
