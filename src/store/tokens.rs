//! Tokens that were ended before their time, and assertions that were used. A row is of use until what it names expires by
//! itself; each write sweeps out those that are past it.

use diesel::{
    dsl::{exists, select},
    prelude::*,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{
    columns::micros,
    conn::{Pool, Reach},
    error::{Conflict, StoreError},
    schema::main::{clients, revoked_tokens, used_assertions},
};
use crate::domain::id::ClientId;

/// What a token is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRef {
    pub token_id: String,
    pub client: ClientId,
    pub expires_at: OffsetDateTime,
}

pub struct Tokens<'a> {
    pub(super) pool: &'a Pool,
}

impl Tokens<'_> {
    /// Ends a token. Safe to repeat; the first time counts.
    pub async fn revoke(&self, token: TokenRef, now: OffsetDateTime) -> Result<(), StoreError> {
        let row = (
            revoked_tokens::token_id.eq(token.token_id),
            revoked_tokens::client_id.eq(token.client.to_string()),
            revoked_tokens::expires_at.eq(micros(token.expires_at)),
            revoked_tokens::revoked_at.eq(micros(now)),
        );
        let revoked = self.pool.write(Reach::Every, move |connection| {
            diesel::delete(revoked_tokens::table.filter(revoked_tokens::expires_at.lt(micros(now))))
                .execute(connection)?;
            diesel::insert_into(revoked_tokens::table).values(row).execute(connection)?;
            Ok(())
        });
        match revoked.await.map_err(|error| error.or_conflict(Conflict::Id)) {
            Err(StoreError::Conflict(_)) => Ok(()),
            other => other,
        }
    }

    /// Whether a token is still good: neither ended itself, nor its client disabled or gone.
    pub async fn is_live(&self, token_id: &str, client: ClientId) -> Result<bool, StoreError> {
        let revoked = exists(revoked_tokens::table.find(token_id.to_owned()));
        let active = exists(clients::table.find(client.to_string()).filter(clients::disabled_at.is_null()));
        let query = select((revoked, active));
        let (revoked, active): (bool, bool) =
            self.pool.run(Reach::Every, move |connection| Ok(query.get_result(connection)?)).await?;
        Ok(active && !revoked)
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
            diesel::delete(used_assertions::table.filter(used_assertions::expires_at.lt(micros(now))))
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
