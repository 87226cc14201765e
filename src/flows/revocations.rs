//! Tokens and clients that were ended: the database knows, Redis has a copy.

use std::time::Instant;

use super::{FlowError, Flows};
use crate::{
    auth::jwt::VerifiedToken,
    cache,
    domain::revocation::{client_member, token_member},
    measure,
};

/// Whether a token is still good. From the copy, where it is known to be complete; else from the database. Where neither can be
/// asked the answer is an error: closed, not open.
pub async fn is_live(flows: &Flows, token: &VerifiedToken) -> Result<bool, FlowError> {
    let client = token.principal.client;
    if let Some(copy) = flows.cache.revocations() {
        let members = [token_member(&token.token_id), client_member(client)];
        if let Some(revoked) = copy.any_revoked(&members.each_ref().map(String::as_str)).await {
            measure::revocation_check("redis");
            return Ok(!revoked);
        }
    }
    measure::revocation_check("database");
    Ok(flows.store.tokens().is_live(&token.token_id, client).await?)
}

/// Brings the copy up to the database, and believes it for a while. Several times a second, and after each revocation. That it
/// could not be done is no failure: what is not believed is not asked.
pub async fn synchronise(flows: &Flows) {
    if let Some(copy) = flows.cache.revocations()
        && let Err(error) = try_synchronise(flows, copy).await
    {
        tracing::debug!(error = &*error as &dyn std::error::Error, "the copy of the revocations is behind");
    }
}

async fn try_synchronise(
    flows: &Flows,
    copy: &cache::RevocationCopy,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let looked = Instant::now();
    let mut truth = flows.store.tokens().revocation_version().await?;
    let mut known = copy.version().await?;
    if known > truth {
        // Somebody else may have written both meanwhile.
        truth = flows.store.tokens().revocation_version().await?;
    }
    if known > truth {
        tracing::warn!(
            event = "revocations_ahead",
            "Redis holds more revocations than the database, which was set back; they are replaced"
        );
        copy.empty().await?;
        known = 0;
    }
    if known < truth {
        let missing = flows.store.tokens().revocations(known, truth).await?;
        copy.extend(known, truth, &missing, flows.now().unix_timestamp()).await?;
        if copy.version().await? < truth {
            return Ok(());
        }
    }
    copy.believe(truth, looked);
    Ok(())
}
