//! Tokens that were ended before their time, and assertions that were used. A row is of use until what it names expires by
//! itself; each write sweeps out those that are past it.

use diesel::{
    dsl::{exists, select},
    prelude::*,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::{
    audit,
    columns::{instant, micros},
    conn::{AnyConnection, Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::{clients, revocation_head, revocations, used_assertions},
};
use crate::{
    audit::{Action, Actor, Event},
    domain::{
        id::{ClientId, TenantId},
        revocation::{Revocation, token_member},
    },
};

/// What a token is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRef {
    pub token_id: String,
    pub client: ClientId,
    pub expires_at: OffsetDateTime,
}

impl TokenRef {
    fn member(&self) -> String {
        token_member(&self.token_id)
    }
}

pub struct Tokens<'a> {
    pub(super) pool: &'a Pool,
}

impl Tokens<'_> {
    /// Ends a token. Safe to repeat; the first time counts.
    pub async fn revoke(
        &self,
        tenant: TenantId,
        token: TokenRef,
        by: Actor,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let event = Event::of(by, Action::TokenRevoked, &token.token_id, now);
        let revoked = self.pool.write(Reach::Every, move |connection| {
            revoke(connection, &token.member(), token.expires_at, now)?;
            audit::append(connection, tenant, &event).map(drop)
        });
        match revoked.await.map_err(|error| error.or_conflict(Conflict::Id)) {
            Err(StoreError::Conflict(_)) => Ok(()),
            other => other,
        }
    }

    /// Whether a token is still good: neither ended itself, nor its client disabled or gone.
    pub async fn is_live(&self, token_id: &str, client: ClientId) -> Result<bool, StoreError> {
        let revoked = exists(revocations::table.filter(revocations::member.eq(token_member(token_id))));
        let active = exists(clients::table.find(client.to_string()).filter(clients::disabled_at.is_null()));
        let query = select((revoked, active));
        let (revoked, active): (bool, bool) =
            self.pool.run(Reach::Every, move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(active && !revoked)
    }

    /// Counts the revocations, one by one, in the order in which they were committed; never 0.
    pub async fn revocation_version(&self) -> Result<i64, StoreError> {
        let query = revocation_head::table.select(revocation_head::version);
        self.pool.run(Reach::Every, move |connection| Ok(query.first(connection)?)).await
    }

    /// The revocations after one version up to another, as far as they still say something.
    pub async fn revocations(&self, after: i64, up_to: i64) -> Result<Vec<Revocation>, StoreError> {
        let query = revocations::table
            .filter(revocations::version.gt(after))
            .filter(revocations::version.le(up_to))
            .select((revocations::member, revocations::expires_at));
        let rows: Vec<(String, i64)> =
            self.pool.run(Reach::Every, move |connection| Ok(query.load(connection)?)).await?;
        let read = |(member, expires_at)| {
            Ok(Revocation { member, expires_at: instant("revocations.expires_at", expires_at)? })
        };
        rows.into_iter().map(read).collect()
    }

    /// Whether this assertion was new. From then on it is not.
    pub async fn use_assertion(
        &self,
        client: ClientId,
        assertion_id: &str,
        expires_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let row = (
            used_assertions::client_id.eq(client.to_string()),
            // The client chose it: of any length, holding anything.
            used_assertions::assertion_id.eq(hex::encode(Sha256::digest(assertion_id))),
            used_assertions::expires_at.eq(micros(expires_at)),
        );
        let used = self.pool.write(Reach::Every, move |connection| {
            diesel::delete(used_assertions::table.filter(used_assertions::expires_at.lt(micros(now - KEPT))))
                .execute(connection)?;
            diesel::insert_into(used_assertions::table).values(row).execute(connection)?;
            Ok(())
        });
        match used.await.map_err(|error| error.or_conflict(Conflict::Id)) {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A row stays past its end: a process whose clock is ahead must not bring a token or an assertion back to life.
const KEPT: Duration = Duration::HOUR;

/// Writes a revocation inside a writing transaction. The head's row is held until commit, so that versions are committed in
/// their order and without gaps.
pub(super) fn revoke(
    connection: &mut AnyConnection,
    member: &str,
    expires_at: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let next = revocation_head::version.eq(revocation_head::version + 1);
    diesel::update(revocation_head::table).set(next).execute(connection)?;
    let version: i64 = revocation_head::table.select(revocation_head::version).first(connection)?;
    diesel::delete(revocations::table.filter(revocations::expires_at.lt(micros(now - KEPT)))).execute(connection)?;
    let row = (
        revocations::version.eq(version),
        revocations::member.eq(member),
        revocations::expires_at.eq(micros(expires_at)),
    );
    Ok(diesel::insert_into(revocations::table).values(row).execute(connection).map(drop)?)
}
