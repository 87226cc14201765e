//! Officers: persons who sign in at the console, their sessions, and the attempts at signing in. An officer's name, the hash
//! of the password and the secret of the authenticator rest sealed under a data key of the officer's own.

use diesel::{
    prelude::*,
    sql_query,
    sql_types::{BigInt, Binary},
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{
    audit,
    columns::{instant, micros, parse},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::{officer_sessions as sessions, officers, sign_in_attempts as attempts},
};
use crate::{
    audit::Event,
    domain::{
        attempts::AttemptRule,
        id::{OfficerId, TenantId},
    },
    vault::{BlindIndexKey, DataKey, Place, VaultError},
};

/// Nobody is slowed down by what was so long ago; longer than the longest wait.
const ATTEMPTS_KEPT: Duration = Duration::days(2);

#[derive(Clone)]
pub struct Officer {
    pub id: OfficerId,
    pub tenant: TenantId,
    pub created_at: OffsetDateTime,
    pub disabled_at: Option<OffsetDateTime>,
    /// Of a password that was handed out: it opens until then, and only to be changed.
    pub password_until: Option<OffsetDateTime>,
    name: Vec<u8>,
    password_hash: Vec<u8>,
    totp_secret: Vec<u8>,
}

/// `key`: the officer's data key.
impl Officer {
    pub fn open_name(&self, key: &DataKey) -> Result<String, StoreError> {
        self.open_text(key, "name", &self.name).map(|name| name.to_string())
    }

    pub fn open_password_hash(&self, key: &DataKey) -> Result<Zeroizing<String>, StoreError> {
        self.open_text(key, "password_hash", &self.password_hash)
    }

    pub fn open_totp_secret(&self, key: &DataKey) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        Ok(key.open(&place(&self.id.to_string(), "totp_secret"), &self.totp_secret)?)
    }

    fn open_text(&self, key: &DataKey, column: &str, sealed: &[u8]) -> Result<Zeroizing<String>, StoreError> {
        let mut plain = key.open(&place(&self.id.to_string(), column), sealed)?;
        let text = String::from_utf8(std::mem::take(&mut *plain));
        text.map(Zeroizing::new).map_err(|_| StoreError::Sealed(VaultError::Malformed))
    }
}

pub struct NewOfficer<'a> {
    pub id: OfficerId,
    pub name: &'a str,
    pub credentials: Credentials<'a>,
}

/// What is handed to an officer, as it is kept.
pub struct Credentials<'a> {
    pub password_hash: &'a str,
    pub password_until: OffsetDateTime,
    pub totp_secret: &'a [u8],
}

/// A session that begins.
pub struct NewSession {
    pub token_hash: [u8; 32],
    pub now: OffsetDateTime,
    /// Older sessions than these are over, and are removed on this occasion.
    pub started_after: OffsetDateTime,
    pub used_after: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub started_at: OffsetDateTime,
    pub last_used_at: OffsetDateTime,
}

/// A name as it is counted and found: a keyed hash.
#[derive(Clone, PartialEq, Eq)]
pub struct NameIndex(Vec<u8>);

pub struct Officers<'a> {
    pub(super) pool: &'a Pool,
    pub(super) blind_index: &'a BlindIndexKey,
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = officers)]
struct Row {
    id: String,
    tenant_id: String,
    name: Vec<u8>,
    name_index: Vec<u8>,
    password_hash: Vec<u8>,
    password_until: Option<i64>,
    totp_secret: Vec<u8>,
    totp_step: i64,
    created_at: i64,
    disabled_at: Option<i64>,
}

impl Officers<'_> {
    /// Capitals and spaces around do not make another name.
    pub fn name_index(&self, name: &str) -> NameIndex {
        let name = name.trim().to_lowercase();
        NameIndex(self.blind_index.index_across_tenants("officers.name", &name).as_bytes().to_vec())
    }

    pub async fn add(
        &self,
        tenant: TenantId,
        new: NewOfficer<'_>,
        key: &DataKey,
        event: Event,
    ) -> Result<(), StoreError> {
        let id = new.id.to_string();
        let row = Row {
            name: key.seal(&place(&id, "name"), new.name.trim().as_bytes())?,
            name_index: self.name_index(new.name).0,
            password_hash: key.seal(&place(&id, "password_hash"), new.credentials.password_hash.as_bytes())?,
            password_until: Some(micros(new.credentials.password_until)),
            totp_secret: key.seal(&place(&id, "totp_secret"), new.credentials.totp_secret)?,
            totp_step: 0,
            created_at: micros(event.at),
            disabled_at: None,
            tenant_id: tenant.to_string(),
            id,
        };
        let inserted = self.pool.write(tenant, move |connection| {
            diesel::insert_into(officers::table).values(&row).execute(connection)?;
            audit::append(connection, tenant, &event).map(drop)
        });
        inserted.await.map_err(|error| error.or_conflict(Conflict::OfficerName).or_parent_not_found())
    }

    /// Of whichever tenant: the name is what tells.
    pub async fn find_by_name(&self, name: &NameIndex) -> Result<Option<Officer>, StoreError> {
        let query = officers::table.filter(officers::name_index.eq(name.0.clone()));
        let row: Option<Row> =
            self.pool.run(Reach::Every, move |connection| Ok(query.first(connection).optional()?)).await?;
        row.map(Officer::try_from).transpose()
    }

    pub async fn list(&self, tenant: TenantId) -> Result<Vec<Officer>, StoreError> {
        let query = officers::table.filter(officers::tenant_id.eq(tenant.to_string())).order(officers::id);
        let rows: Vec<Row> = self.pool.run(tenant, move |connection| Ok(query.load(connection)?)).await?;
        rows.into_iter().map(Officer::try_from).collect()
    }

    /// Gives the officer another password and another authenticator, ends every session, and lets an account that was
    /// disabled in again.
    pub async fn reset(
        &self,
        officer: &Officer,
        name: NameIndex,
        credentials: Credentials<'_>,
        key: &DataKey,
        event: Event,
    ) -> Result<(), StoreError> {
        let (tenant, id) = (officer.tenant, officer.id.to_string());
        let changes = (
            officers::password_hash.eq(key.seal(&place(&id, "password_hash"), credentials.password_hash.as_bytes())?),
            officers::password_until.eq(micros(credentials.password_until)),
            officers::totp_secret.eq(key.seal(&place(&id, "totp_secret"), credentials.totp_secret)?),
            officers::totp_step.eq(0),
            officers::disabled_at.eq(None::<i64>),
        );
        let (own, sessions) = (own(officer), sessions_of(officer));
        self.pool
            .write(tenant, move |connection| {
                diesel::update(own).set(changes).execute(connection)?;
                diesel::delete(sessions).execute(connection)?;
                forget(connection, &name)?;
                audit::append(connection, tenant, &event).map(drop)
            })
            .await
    }

    /// Lets the officer in no more, and ends every session. Disabling again keeps the first time.
    pub async fn disable(&self, officer: &Officer, event: Event) -> Result<(), StoreError> {
        let (tenant, own, sessions) = (officer.tenant, own(officer), sessions_of(officer));
        self.pool
            .write(tenant, move |connection| {
                let active = own.filter(officers::disabled_at.is_null());
                let disable = diesel::update(active).set(officers::disabled_at.eq(micros(event.at)));
                if disable.execute(connection)? == 0 {
                    return Ok(());
                }
                diesel::delete(sessions).execute(connection)?;
                audit::append(connection, tenant, &event).map(drop)
            })
            .await
    }

    /// Counts an attempt as failed before its outcome is known, so that attempts at the same time cannot all be the first.
    /// `Err(until)` where the name is blocked.
    pub async fn begin_attempt(
        &self,
        name: &NameIndex,
        rule: AttemptRule,
        longest: Duration,
        now: OffsetDateTime,
    ) -> Result<Result<(), OffsetDateTime>, StoreError> {
        let name = name.clone();
        self.pool
            .write(Reach::Every, move |connection| {
                let old = attempts::counted_at.lt(micros(now - ATTEMPTS_KEPT));
                diesel::delete(attempts::table.filter(old)).execute(connection)?;
                hold(connection, &name, now)?;
                let own = attempts::table.find(&name.0);
                let (failures, until): (i64, i64) =
                    own.select((attempts::failures, attempts::blocked_until)).first(connection)?;
                let until = instant("sign_in_attempts.blocked_until", until)?;
                if until > now {
                    return Ok(Err(until));
                }
                let delay = rule.delay(failures + 1).min(longest);
                // Not `now`: who comes at the same time may have looked at the clock a moment earlier.
                let until = if delay.is_zero() { OffsetDateTime::UNIX_EPOCH } else { now + delay };
                let counted = (attempts::failures.eq(failures + 1), attempts::blocked_until.eq(micros(until)));
                diesel::update(own).set(counted).execute(connection)?;
                Ok(Ok(()))
            })
            .await
    }

    /// Records that the attempt failed, where the name is somebody's. As much work where it is nobody's, but for the log.
    pub async fn refuse(
        &self,
        name: &NameIndex,
        event: Option<(TenantId, Event)>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let name = name.clone();
        self.pool
            .write(Reach::Every, move |connection| {
                hold(connection, &name, now)?;
                match &event {
                    Some((tenant, event)) => audit::append(connection, *tenant, event).map(drop),
                    None => Ok(()),
                }
            })
            .await
    }

    /// Begins a session, unless the code of this step was taken before, or the officer was reset or disabled meanwhile.
    pub async fn sign_in(
        &self,
        officer: &Officer,
        name: NameIndex,
        step: i64,
        session: NewSession,
        event: Event,
    ) -> Result<bool, StoreError> {
        let (tenant, officer) = (officer.tenant, officer.clone());
        self.pool
            .write(tenant, move |connection| {
                let fresh = unchanged(&officer).filter(officers::totp_step.lt(step));
                if diesel::update(fresh).set(officers::totp_step.eq(step)).execute(connection)? == 0 {
                    return Ok(false);
                }
                forget(connection, &name)?;
                begin(connection, &officer, &session)?;
                audit::append(connection, tenant, &event)?;
                Ok(true)
            })
            .await
    }

    /// Takes a password of the officer's own in place of the present one, and a new session in place of all others. Whether
    /// it did: not when the officer was reset or disabled meanwhile.
    pub async fn change_password(
        &self,
        officer: &Officer,
        name: NameIndex,
        password_hash: &str,
        key: &DataKey,
        session: NewSession,
        event: Event,
    ) -> Result<bool, StoreError> {
        let (tenant, officer) = (officer.tenant, officer.clone());
        let sealed = key.seal(&place(&officer.id.to_string(), "password_hash"), password_hash.as_bytes())?;
        self.pool
            .write(tenant, move |connection| {
                let changes = (officers::password_hash.eq(sealed), officers::password_until.eq(None::<i64>));
                if diesel::update(unchanged(&officer)).set(changes).execute(connection)? == 0 {
                    return Ok(false);
                }
                forget(connection, &name)?;
                diesel::delete(sessions_of(&officer)).execute(connection)?;
                begin(connection, &officer, &session)?;
                audit::append(connection, tenant, &event)?;
                Ok(true)
            })
            .await
    }

    /// Of whichever tenant: the token is what tells.
    pub async fn session(&self, token_hash: [u8; 32]) -> Result<Option<(Session, Officer)>, StoreError> {
        let query = sessions::table.find(token_hash.to_vec()).inner_join(officers::table).select((
            sessions::started_at,
            sessions::last_used_at,
            Row::as_select(),
        ));
        let found: Option<(i64, i64, Row)> =
            self.pool.run(Reach::Every, move |connection| Ok(query.first(connection).optional()?)).await?;
        let read = |(started_at, last_used_at, row): (i64, i64, Row)| {
            let session = Session {
                started_at: instant("officer_sessions.started_at", started_at)?,
                last_used_at: instant("officer_sessions.last_used_at", last_used_at)?,
            };
            Ok((session, row.try_into()?))
        };
        found.map(read).transpose()
    }

    /// Notes that a session was used.
    pub async fn touch(&self, tenant: TenantId, token_hash: [u8; 32], now: OffsetDateTime) -> Result<(), StoreError> {
        let own = session_of(tenant, token_hash);
        let touch = diesel::update(own).set(sessions::last_used_at.eq(micros(now)));
        self.pool.run(tenant, move |connection| Ok(touch.execute(connection).map(drop)?)).await
    }

    /// Ends a session. One that is over already is nothing to record.
    pub async fn sign_out(&self, tenant: TenantId, token_hash: [u8; 32], event: Event) -> Result<(), StoreError> {
        let own = session_of(tenant, token_hash);
        self.pool
            .write(tenant, move |connection| {
                if diesel::delete(own).execute(connection)? > 0 {
                    audit::append(connection, tenant, &event)?;
                }
                Ok(())
            })
            .await
    }
}

#[diesel::dsl::auto_type(no_type_alias)]
fn own(officer: &Officer) -> _ {
    let (tenant, id): (String, String) = (officer.tenant.to_string(), officer.id.to_string());
    officers::table.filter(officers::tenant_id.eq(tenant)).filter(officers::id.eq(id))
}

/// The officer, as long as nobody changed the password and nobody disabled the account.
#[diesel::dsl::auto_type(no_type_alias)]
fn unchanged(officer: &Officer) -> _ {
    let (tenant, id): (String, String) = (officer.tenant.to_string(), officer.id.to_string());
    let password_hash: Vec<u8> = officer.password_hash.clone();
    officers::table
        .filter(officers::tenant_id.eq(tenant))
        .filter(officers::id.eq(id))
        .filter(officers::disabled_at.is_null())
        .filter(officers::password_hash.eq(password_hash))
}

#[diesel::dsl::auto_type(no_type_alias)]
fn sessions_of(officer: &Officer) -> _ {
    let (tenant, id): (String, String) = (officer.tenant.to_string(), officer.id.to_string());
    sessions::table.filter(sessions::tenant_id.eq(tenant)).filter(sessions::officer_id.eq(id))
}

#[diesel::dsl::auto_type(no_type_alias)]
fn session_of(tenant: TenantId, token_hash: [u8; 32]) -> _ {
    let (tenant, token_hash): (String, Vec<u8>) = (tenant.to_string(), token_hash.to_vec());
    sessions::table.filter(sessions::tenant_id.eq(tenant)).filter(sessions::token_hash.eq(token_hash))
}

fn begin(connection: &mut AnyConnection, officer: &Officer, session: &NewSession) -> Result<(), StoreError> {
    let too_old = sessions::started_at.le(micros(session.started_after));
    let unused = sessions::last_used_at.le(micros(session.used_after));
    let over = sessions::table.filter(sessions::tenant_id.eq(officer.tenant.to_string())).filter(too_old.or(unused));
    diesel::delete(over).execute(connection)?;
    let row = (
        sessions::token_hash.eq(session.token_hash.to_vec()),
        sessions::tenant_id.eq(officer.tenant.to_string()),
        sessions::officer_id.eq(officer.id.to_string()),
        sessions::started_at.eq(micros(session.now)),
        sessions::last_used_at.eq(micros(session.now)),
    );
    Ok(diesel::insert_into(sessions::table).values(row).execute(connection).map(drop)?)
}

/// Holds the name's row until commit; makes it where there is none.
fn hold(connection: &mut AnyConnection, name: &NameIndex, now: OffsetDateTime) -> Result<(), StoreError> {
    let query = "INSERT INTO sign_in_attempts (name_index, failures, blocked_until, counted_at) VALUES ($1, 0, 0, $2) \
         ON CONFLICT (name_index) DO UPDATE SET counted_at = excluded.counted_at";
    let held = sql_query(query).bind::<Binary, _>(&name.0).bind::<BigInt, _>(micros(now)).execute(connection);
    Ok(held.map(drop)?)
}

/// After a success nothing is held against the name.
fn forget(connection: &mut AnyConnection, name: &NameIndex) -> Result<(), StoreError> {
    Ok(diesel::delete(attempts::table.find(&name.0)).execute(connection).map(drop)?)
}

fn place<'a>(id: &'a str, column: &'a str) -> Place<'a> {
    Place { table: "officers", row: id, column }
}

impl TryFrom<Row> for Officer {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse("officers.id", &row.id)?,
            tenant: parse("officers.tenant_id", &row.tenant_id)?,
            created_at: instant("officers.created_at", row.created_at)?,
            disabled_at: row.disabled_at.map(|at| instant("officers.disabled_at", at)).transpose()?,
            password_until: row.password_until.map(|at| instant("officers.password_until", at)).transpose()?,
            name: row.name,
            password_hash: row.password_hash,
            totp_secret: row.totp_secret,
        })
    }
}
