//! The keys that hash the addresses of callers: in the key store, for no backup of the main database may hold them, and one for
//! each period, so that every process on every host gives an address the same hash.

use diesel::prelude::*;
use time::OffsetDateTime;

use super::{
    KeyStore,
    columns::micros,
    conn::{AnyConnection, Reach},
    error::{Conflict, StoreError},
    rewrap::hold,
    schema::keystore::address_keys,
};
use crate::vault::{AddressKey, WrappedKey};

#[derive(Queryable, Insertable)]
#[diesel(table_name = address_keys)]
struct Row {
    starts_at: i64,
    kek_id: String,
    wrapped: Vec<u8>,
}

impl KeyStore {
    /// The key of the period that begins at `starts_at`: whoever asks first makes it. The keys of earlier periods are
    /// destroyed with that, so that nobody can ever hash an address as they did.
    pub async fn address_key(&self, starts_at: OffsetDateTime) -> Result<AddressKey, StoreError> {
        let starts_at = micros(starts_at);
        let fresh = self.keyring.keys().wrap_address_key(&AddressKey::generate()?, starts_at)?;
        let fresh = Row { starts_at, kek_id: fresh.kek, wrapped: fresh.bytes };
        let work = move |connection: &mut AnyConnection| {
            match connection.write(|connection| {
                hold(connection, &fresh.kek_id)?;
                insert(connection, &fresh)
            }) {
                Err(StoreError::Conflict(_)) => {} // another process was earlier
                other => other?,
            }
            let row: Row = address_keys::table.find(starts_at).first(connection)?;
            diesel::delete(address_keys::table.filter(address_keys::starts_at.lt(starts_at))).execute(connection)?;
            connection.scrub()?;
            Ok(row)
        };
        let row = self.database.pool.run(Reach::Every, work).await?;
        let wrapped = WrappedKey { kek: row.kek_id, bytes: row.wrapped };
        Ok(self.with_keys(&wrapped, |keys| keys.unwrap_address_key(&wrapped, starts_at))?)
    }
}

fn insert(connection: &mut AnyConnection, row: &Row) -> Result<(), StoreError> {
    let inserted = diesel::insert_into(address_keys::table).values(row).execute(connection);
    inserted.map(drop).map_err(|error| StoreError::from(error).or_conflict(Conflict::Id))
}
