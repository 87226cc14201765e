//! The key store: one wrapped data key for each subject, in a database of its own that no backup of the main one contains.
//! (The keys that hash addresses lie there too: `address_keys`.)
//!
//! A key's row outlives the key: destroying it empties the row and dates it, so that the subject can never get a second
//! key by accident (which would make an erasure look undone). One row, one primary key: creating and destroying at the same
//! time cannot both win.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{
    Database,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Reach},
    error::{Conflict, StoreError},
    ledger::{self, Mark},
    migrations,
    rewrap::hold,
    schema::keystore::data_keys,
};
use crate::{
    domain::id::{SubjectId, TenantId},
    vault::{DataKey, KeyEncryptionKeys, Keyring, VaultError, WrappedKey},
};

/// Cheap to clone.
#[derive(Clone)]
pub struct KeyStore {
    pub(super) database: Database,
    pub(super) keyring: Arc<Keyring>,
}

#[derive(Queryable, Insertable)]
#[diesel(table_name = data_keys)]
struct Row {
    subject_id: String,
    tenant_id: String,
    kek_id: Option<String>,
    wrapped: Option<Vec<u8>>,
    created_at: i64,
    destroyed_at: Option<i64>,
    next_kek_id: Option<String>,
    next_wrapped: Option<Vec<u8>>,
    next_since: Option<i64>,
    destroyed_keys: Option<String>,
}

/// A data key that was destroyed, named by what leads nobody to the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedKey {
    /// SHA-256 of the wrapped key, in hexadecimal digits: by it a backup of the key store can be asked whether it holds the key.
    pub wrapped_sha256: String,
    /// The key-encryption key that had wrapped it.
    pub wrapped_by: String,
}

impl DestroyedKey {
    fn of(key: WrappedKey) -> Self {
        Self { wrapped_sha256: hex::encode(Sha256::digest(&key.bytes)), wrapped_by: key.kek }
    }
}

/// Somebody who has, or had, a data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHolder {
    pub tenant: TenantId,
    pub subject: SubjectId,
    pub destroyed_at: Option<OffsetDateTime>,
}

impl KeyStore {
    /// `url` is `postgres://...` or `sqlite:PATH`, and not the main database's.
    pub async fn connect(url: &str, pool_size: usize, keys: impl Into<Keyring>) -> Result<Self, StoreError> {
        let database = Database::connect(url, pool_size, &migrations::KEYSTORE).await?;
        Ok(Self { database, keyring: Arc::new(keys.into()) })
    }

    /// Up to where this database agrees with the ledger of erasures.
    pub async fn ledger_mark(&self) -> Result<Mark, StoreError> {
        ledger::mark_of_keystore::read(&self.database.pool).await
    }

    pub async fn advance_ledger_mark(&self, to: Mark) -> Result<(), StoreError> {
        ledger::mark_of_keystore::advance(&self.database.pool, to).await
    }

    /// Nothing is agreed on any more: `place` is not in the ledger that there is now.
    pub async fn forget_ledger_mark(&self, place: Mark) -> Result<(), StoreError> {
        ledger::mark_of_keystore::forget(&self.database.pool, place).await
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.database.migrate().await
    }

    /// Makes a subject's data key. `Conflict` when it has one, or had one that was destroyed.
    pub async fn create(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        now: OffsetDateTime,
    ) -> Result<DataKey, StoreError> {
        match self.try_to_create(tenant, subject, now).await {
            // By another process, a moment ago.
            Err(StoreError::Sealed(VaultError::RetiredKey(_))) => {
                self.refresh_keys().await?;
                self.try_to_create(tenant, subject, now).await
            }
            outcome => outcome,
        }
    }

    async fn try_to_create(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        now: OffsetDateTime,
    ) -> Result<DataKey, StoreError> {
        let key = DataKey::generate()?;
        let wrapped = self.keyring.keys().wrap(&key, tenant, subject)?;
        let row = Row {
            subject_id: subject.to_string(),
            tenant_id: tenant.to_string(),
            kek_id: Some(wrapped.kek.clone()),
            wrapped: Some(wrapped.bytes),
            created_at: micros(now),
            destroyed_at: None,
            next_kek_id: None,
            next_wrapped: None,
            next_since: None,
            destroyed_keys: None,
        };
        let insert = move |connection: &mut AnyConnection| {
            hold(connection, &wrapped.kek)?;
            Ok(diesel::insert_into(data_keys::table).values(&row).execute(connection)?)
        };
        match self.database.pool.write(tenant, insert).await.map_err(|error| error.or_conflict(Conflict::DataKey)) {
            Ok(_) => Ok(key),
            Err(StoreError::Conflict(_)) if self.is_destroyed(tenant, subject).await? => {
                Err(StoreError::Conflict(Conflict::DataKeyDestroyed))
            }
            Err(error) => Err(error),
        }
    }

    /// A subject's data key; `None` when it never had one or when it was destroyed.
    pub async fn get(&self, tenant: TenantId, subject: SubjectId) -> Result<Option<DataKey>, StoreError> {
        let query = own(tenant, subject);
        let row: Option<Row> =
            self.database.pool.run(tenant, move |connection| Ok(query.first(connection).optional()?)).await?;
        Ok(row.map(|row| self.unwrap(tenant, row)).transpose()?.flatten().map(|(_, key)| key))
    }

    /// The data keys of several subjects, for a list; who has none is missing from the answer.
    pub async fn get_many(
        &self,
        tenant: TenantId,
        subjects: &[SubjectId],
    ) -> Result<HashMap<SubjectId, DataKey>, StoreError> {
        let ids: Vec<_> = subjects.iter().map(ToString::to_string).collect();
        let query = data_keys::table
            .filter(data_keys::tenant_id.eq(tenant.to_string()))
            .filter(data_keys::subject_id.eq_any(ids));
        let rows: Vec<Row> = self.database.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().filter_map(|row| self.unwrap(tenant, row).transpose()).collect()
    }

    /// Of these subjects, of whichever tenants, those whose key was destroyed.
    pub async fn destroyed(&self, subjects: &[SubjectId]) -> Result<HashSet<SubjectId>, StoreError> {
        let ids: Vec<_> = subjects.iter().map(ToString::to_string).collect();
        let query = data_keys::table
            .filter(data_keys::subject_id.eq_any(ids))
            .filter(data_keys::destroyed_at.is_not_null())
            .select(data_keys::subject_id);
        let rows: Vec<String> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        rows.iter().map(|id| parse("data_keys.subject_id", id)).collect()
    }

    /// Whose keys there are and were, of every tenant, in the order of ids; up to `limit` after one.
    pub async fn holders(&self, after: Option<SubjectId>, limit: u32) -> Result<Vec<KeyHolder>, StoreError> {
        // Every id sorts after the empty text.
        let after = after.map(|subject| subject.to_string()).unwrap_or_default();
        let query = data_keys::table
            .filter(data_keys::subject_id.gt(after))
            .order(data_keys::subject_id)
            .limit(i64::from(limit))
            .select((data_keys::tenant_id, data_keys::subject_id, data_keys::destroyed_at));
        let rows: Vec<(String, String, Option<i64>)> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(tenant, subject, destroyed_at): (String, String, Option<i64>)| {
            Ok(KeyHolder {
                tenant: parse("data_keys.tenant_id", &tenant)?,
                subject: parse("data_keys.subject_id", &subject)?,
                destroyed_at: destroyed_at.map(|at| instant("data_keys.destroyed_at", at)).transpose()?,
            })
        };
        rows.into_iter().map(read).collect()
    }

    /// Whether a subject's key was destroyed.
    pub async fn is_destroyed(&self, tenant: TenantId, subject: SubjectId) -> Result<bool, StoreError> {
        let query = own(tenant, subject).filter(data_keys::destroyed_at.is_not_null()).count();
        let rows: i64 = self.database.pool.run(tenant, move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(rows > 0)
    }

    /// Destroys a subject's data key: from here on nothing sealed under it opens, in backups of the main database neither.
    /// Safe to repeat, and good for a subject that never had a key: it will not get one.
    ///
    /// Which keys it were, also when repeated: two while the subject's key was exchanged, none where it never had one. `None`
    /// where a program of before destroyed it, which noted nothing.
    pub async fn destroy(
        &self,
        tenant: TenantId,
        subject: SubjectId,
        now: OffsetDateTime,
    ) -> Result<Option<Vec<DestroyedKey>>, StoreError> {
        let destroy = move |connection: &mut AnyConnection| {
            connection.write(|connection| destroy_row(connection, tenant, subject, now))
        };
        self.database
            .pool
            .run(tenant, move |connection| {
                let destroyed = match destroy(connection) {
                    // The row came into being while there was none yet to hold.
                    Err(StoreError::Conflict(Conflict::DataKey)) => destroy(connection)?,
                    other => other?,
                };
                connection.scrub()?;
                Ok(destroyed)
            })
            .await
    }

    fn unwrap(&self, tenant: TenantId, row: Row) -> Result<Option<(SubjectId, DataKey)>, StoreError> {
        let subject = parse("data_keys.subject_id", &row.subject_id)?;
        let unwrap = |wrapped: WrappedKey| self.with_keys(&wrapped, |keys| keys.unwrap(&wrapped, tenant, subject));
        let Some(key) = wrapped(row.kek_id, row.wrapped).map(unwrap).transpose()? else { return Ok(None) };
        let next = wrapped(row.next_kek_id, row.next_wrapped).map(unwrap).transpose()?;
        Ok(Some((subject, key.followed_by(next))))
    }

    /// Unwraps with the keys in use; where they lack this one, with those that lie in the folder now.
    pub(super) fn with_keys<T>(
        &self,
        wrapped: &WrappedKey,
        unwrap: impl Fn(&KeyEncryptionKeys) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        match unwrap(&self.keyring.keys()) {
            Err(VaultError::UnknownKey(kek)) => match self.keyring.look_for(&wrapped.kek) {
                Some(keys) => unwrap(&keys),
                None => Err(VaultError::UnknownKey(kek)),
            },
            outcome => outcome,
        }
    }
}

pub(super) fn wrapped(kek: Option<String>, bytes: Option<Vec<u8>>) -> Option<WrappedKey> {
    Some(WrappedKey { kek: kek?, bytes: bytes? })
}

#[diesel::dsl::auto_type(no_type_alias)]
pub(super) fn own(tenant: TenantId, subject: SubjectId) -> _ {
    let (tenant, subject): (String, String) = (tenant.to_string(), subject.to_string());
    data_keys::table.filter(data_keys::tenant_id.eq(tenant)).filter(data_keys::subject_id.eq(subject))
}

const DESTROYED_KEYS: &str = "data_keys.destroyed_keys";

/// Inside a writing transaction.
fn destroy_row(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    now: OffsetDateTime,
) -> Result<Option<Vec<DestroyedKey>>, StoreError> {
    // The update changes nothing; it takes the row's lock.
    let locked = own(tenant, subject);
    if diesel::update(locked).set(data_keys::created_at.eq(data_keys::created_at)).execute(connection)? == 0 {
        insert_tombstone(connection, tenant, subject, now)?;
        return Ok(Some(Vec::new()));
    }
    let row: Row = own(tenant, subject).first(connection)?;
    let corrupt = |_| StoreError::Corrupt { column: DESTROYED_KEYS };
    if row.destroyed_at.is_some() {
        return row.destroyed_keys.as_deref().map(serde_json::from_str).transpose().map_err(corrupt);
    }
    let both = [wrapped(row.kek_id, row.wrapped), wrapped(row.next_kek_id, row.next_wrapped)];
    let destroyed: Vec<_> = both.into_iter().flatten().map(DestroyedKey::of).collect();
    let noted = serde_json::to_string(&destroyed).map_err(corrupt)?;
    empty_row(connection, tenant, subject, &noted, now)?;
    Ok(Some(destroyed))
}

fn empty_row(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    noted: &str,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let changes = (
        data_keys::kek_id.eq(None::<String>),
        data_keys::wrapped.eq(None::<Vec<u8>>),
        data_keys::destroyed_at.eq(micros(now)),
        data_keys::next_kek_id.eq(None::<String>),
        data_keys::next_wrapped.eq(None::<Vec<u8>>),
        data_keys::next_since.eq(None::<i64>),
        data_keys::destroyed_keys.eq(Some(noted)),
    );
    Ok(diesel::update(own(tenant, subject)).set(changes).execute(connection).map(drop)?)
}

fn insert_tombstone(
    connection: &mut AnyConnection,
    tenant: TenantId,
    subject: SubjectId,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let row = Row {
        subject_id: subject.to_string(),
        tenant_id: tenant.to_string(),
        kek_id: None,
        wrapped: None,
        created_at: micros(now),
        destroyed_at: Some(micros(now)),
        next_kek_id: None,
        next_wrapped: None,
        next_since: None,
        destroyed_keys: Some("[]".to_owned()),
    };
    let inserted = diesel::insert_into(data_keys::table).values(&row).execute(connection);
    inserted.map(drop).map_err(|error| StoreError::from(error).or_conflict(Conflict::DataKey))
}
