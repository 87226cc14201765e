//! Another key-encryption key takes over: every wrapped key is unwrapped and wrapped anew, while the service works.
//!
//! What is left to do is what the rows say (`kek_id` is not the current key's), so that a run which was killed is taken up by
//! the next one, and several may run at once. A key under which nothing is left is retired: its name is kept, and from then
//! on it wraps nothing, whoever still has its file. Who wraps a row looks at that name in the same transaction and holds it
//! until commit, so that no row can slip in under a key that is being retired.

use std::collections::{BTreeMap, BTreeSet};

use diesel::{
    prelude::*,
    sql_query,
    sql_types::{BigInt, Nullable, Text},
};
use time::OffsetDateTime;

use super::{
    KeyStore,
    columns::{micros, parse},
    conn::{AnyConnection, Reach},
    error::StoreError,
    keystore::{own, wrapped},
    schema::keystore::{address_keys, data_keys, wrapping_keys},
};
use crate::{
    domain::id::{SubjectId, TenantId},
    vault::{KekId, VaultError, WrappedKey},
};

/// Rows of one transaction: a few milliseconds for which their owners wait.
const ROWS_AT_ONCE: i64 = 200;

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrapped {
    pub rows: u64,
    /// Rows that do not open: their key is missing, or they were altered. They stay as they are.
    pub unreadable: Vec<SubjectId>,
    /// Where the next step goes on; `None` when this was the last.
    pub next: Option<SubjectId>,
}

#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = Nullable<BigInt>)]
    retired_at: Option<i64>,
}

/// To be called in the transaction that writes a row wrapped by `kek`: until its commit nobody retires that key.
pub(super) fn hold(connection: &mut AnyConnection, kek: &str) -> Result<(), StoreError> {
    let query = format!("SELECT retired_at FROM wrapping_keys WHERE id = $1 {}", connection.shared_lock());
    let look = |connection: &mut AnyConnection| -> Result<Option<Held>, StoreError> {
        Ok(sql_query(&query).bind::<Text, _>(kek).get_result(connection).optional()?)
    };
    let held = match look(connection)? {
        Some(held) => Some(held),
        None => {
            register(connection, kek)?;
            look(connection)?
        }
    };
    match held {
        Some(Held { retired_at: None }) => Ok(()),
        _ => Err(VaultError::RetiredKey(kek.to_owned()).into()),
    }
}

fn register(connection: &mut AnyConnection, kek: &str) -> Result<(), StoreError> {
    let known = "INSERT INTO wrapping_keys (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
    Ok(sql_query(known).bind::<Text, _>(kek).execute(connection).map(drop)?)
}

/// A wrapping, and what replaces it.
struct Exchange {
    old: WrappedKey,
    new: WrappedKey,
}

struct Owner {
    tenant: TenantId,
    subject: SubjectId,
}

type WrappedRow = (String, String, Option<String>, Option<Vec<u8>>, Option<String>, Option<Vec<u8>>);

impl KeyStore {
    /// The key that wraps now.
    pub fn current_kek(&self) -> KekId {
        self.keyring.keys().current().clone()
    }

    /// Every key whose file is here and that was not retired.
    pub fn known_keks(&self) -> Vec<KekId> {
        self.keyring.keys().ids().cloned().collect()
    }

    /// Looks into the folder of the key-encryption keys and at the names of the retired ones.
    pub async fn refresh_keys(&self) -> Result<(), StoreError> {
        Ok(self.keyring.refresh(self.retired_keks().await?)?)
    }

    /// How many keys (of persons, and of addresses) each key-encryption key wraps.
    pub async fn keys_by_kek(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let counted = self.database.pool.run(Reach::Every, |connection| {
            let persons: Vec<(Option<String>, i64)> = data_keys::table
                .filter(data_keys::kek_id.is_not_null())
                .group_by(data_keys::kek_id)
                .select((data_keys::kek_id, diesel::dsl::count_star()))
                .load(connection)?;
            let next: Vec<(Option<String>, i64)> = data_keys::table
                .filter(data_keys::next_kek_id.is_not_null())
                .group_by(data_keys::next_kek_id)
                .select((data_keys::next_kek_id, diesel::dsl::count_star()))
                .load(connection)?;
            let addresses: Vec<(String, i64)> = address_keys::table
                .group_by(address_keys::kek_id)
                .select((address_keys::kek_id, diesel::dsl::count_star()))
                .load(connection)?;
            Ok((persons.into_iter().chain(next), addresses))
        });
        let (persons, addresses) = counted.await?;
        let mut counts = BTreeMap::new();
        let persons = persons.filter_map(|(kek, rows)| Some((kek?, rows)));
        for (kek, rows) in persons.chain(addresses) {
            *counts.entry(kek).or_default() += rows.unsigned_abs();
        }
        Ok(counts)
    }

    /// Wraps the next rows after `after` under the current key. Call it until there is no `next`.
    pub async fn rewrap(&self, after: Option<SubjectId>) -> Result<Rewrapped, StoreError> {
        let keys = self.keyring.keys();
        let current = keys.current().to_string();
        let others = data_keys::kek_id.ne(current.clone()).or(data_keys::next_kek_id.ne(current.clone()));
        let query = data_keys::table
            .filter(others.assume_not_null())
            .filter(data_keys::subject_id.gt(after.map_or_else(String::new, |subject| subject.to_string())))
            .order(data_keys::subject_id)
            .limit(ROWS_AT_ONCE)
            .select((
                data_keys::tenant_id,
                data_keys::subject_id,
                data_keys::kek_id,
                data_keys::wrapped,
                data_keys::next_kek_id,
                data_keys::next_wrapped,
            ));
        let rows: Vec<WrappedRow> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;

        let is_last = rows.len() < ROWS_AT_ONCE as usize;
        let (mut done, mut fresh) = (Rewrapped::default(), Vec::new());
        for (tenant, subject, kek, bytes, next_kek, next_bytes) in rows {
            let (tenant, subject) = (parse("data_keys.tenant_id", &tenant)?, parse("data_keys.subject_id", &subject)?);
            done.next = (!is_last).then_some(subject);
            let exchange = |old: WrappedKey| -> Result<Exchange, VaultError> {
                let key = self.with_keys(&old, |keys| keys.unwrap(&old, tenant, subject))?;
                Ok(Exchange { new: keys.wrap(&key, tenant, subject)?, old })
            };
            let present = wrapped(kek, bytes).map(exchange).transpose();
            let next = wrapped(next_kek, next_bytes).map(exchange).transpose();
            match (present, next) {
                (Ok(Some(present)), Ok(next)) => fresh.push((Owner { tenant, subject }, present, next)),
                (Ok(None), _) => {}
                (Err(_), _) | (_, Err(_)) => done.unreadable.push(subject),
            }
        }
        let replace = move |connection: &mut AnyConnection| {
            hold(connection, &current)?;
            fresh.into_iter().map(|(owner, present, next)| replace(connection, &owner, present, next)).sum()
        };
        done.rows = self.database.pool.write(Reach::Every, replace).await?;
        Ok(done)
    }

    /// The same for the keys that hash addresses, which are a handful.
    pub async fn rewrap_address_keys(&self) -> Result<u64, StoreError> {
        let keys = self.keyring.keys();
        let current = keys.current().to_string();
        let query = address_keys::table.filter(address_keys::kek_id.ne(current.clone()));
        let rows: Vec<(i64, String, Vec<u8>)> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let mut fresh = Vec::new();
        for (starts_at, kek, bytes) in rows {
            let wrapped = WrappedKey { kek, bytes };
            let key = self.with_keys(&wrapped, |keys| keys.unwrap_address_key(&wrapped, starts_at))?;
            fresh.push((starts_at, wrapped.bytes, keys.wrap_address_key(&key, starts_at)?));
        }
        let replace = move |connection: &mut AnyConnection| {
            hold(connection, &current)?;
            let mut rows = 0;
            for (starts_at, old, new) in fresh {
                let same = address_keys::table.find(starts_at).filter(address_keys::wrapped.eq(old));
                let changes = (address_keys::kek_id.eq(new.kek), address_keys::wrapped.eq(new.bytes));
                rows += diesel::update(same).set(changes).execute(connection)? as u64;
            }
            Ok(rows)
        };
        self.database.pool.write(Reach::Every, replace).await
    }

    /// Puts a key out of use, for ever. `KeyInUse`, and nothing done, as long as a row is wrapped by it.
    pub async fn retire(&self, kek: &KekId, now: OffsetDateTime) -> Result<(), StoreError> {
        let kek = kek.to_string();
        let retire = move |connection: &mut AnyConnection| {
            register(connection, &kek)?;
            // Waits for whoever holds the key: what they wrapped is counted below.
            diesel::update(wrapping_keys::table.find(&kek))
                .set(wrapping_keys::retired_at.eq(micros(now)))
                .execute(connection)?;
            let persons: i64 = data_keys::table.filter(data_keys::kek_id.eq(&kek)).count().get_result(connection)?;
            let addresses: i64 =
                address_keys::table.filter(address_keys::kek_id.eq(&kek)).count().get_result(connection)?;
            let next: i64 = data_keys::table.filter(data_keys::next_kek_id.eq(&kek)).count().get_result(connection)?;
            match (persons + next + addresses).unsigned_abs() {
                0 => Ok(()),
                rows => Err(StoreError::KeyInUse { kek, rows }),
            }
        };
        self.database.pool.write(Reach::Every, retire).await?;
        self.refresh_keys().await
    }

    /// Every key that was retired.
    pub async fn retired_keks(&self) -> Result<BTreeSet<KekId>, StoreError> {
        let query = wrapping_keys::table.filter(wrapping_keys::retired_at.is_not_null()).select(wrapping_keys::id);
        let ids: Vec<String> =
            self.database.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        ids.iter().map(|id| parse("wrapping_keys.id", id)).collect()
    }

    /// Takes what the old wrappings left behind out of the files, as far as the database can.
    pub async fn scrub(&self) -> Result<(), StoreError> {
        self.database.pool.run(Reach::Every, |connection| Ok(connection.scrub()?)).await
    }
}

/// Only in place of what was read: a key that was destroyed, exchanged or wrapped anew meanwhile stays as it is.
fn replace(
    connection: &mut AnyConnection,
    owner: &Owner,
    present: Exchange,
    next: Option<Exchange>,
) -> Result<u64, StoreError> {
    let own = || own(owner.tenant, owner.subject);
    let changes = (data_keys::kek_id.eq(present.new.kek), data_keys::wrapped.eq(present.new.bytes));
    let same = own().filter(data_keys::wrapped.eq(present.old.bytes));
    let rows = diesel::update(same).set(changes).execute(connection)?;
    if let Some(next) = next {
        let changes = (data_keys::next_kek_id.eq(next.new.kek), data_keys::next_wrapped.eq(next.new.bytes));
        diesel::update(own().filter(data_keys::next_wrapped.eq(next.old.bytes))).set(changes).execute(connection)?;
    }
    Ok(rows as u64)
}
