//! What a token's end is noted under, in the database and in its copy.

use time::OffsetDateTime;

use super::id::ClientId;

/// What was ended before its time, until it would have ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// [`token_member`] or [`client_member`].
    pub member: String,
    pub expires_at: OffsetDateTime,
}

pub fn token_member(token_id: &str) -> String {
    format!("t:{token_id}")
}

/// Stands for every token of a disabled client.
pub fn client_member(client: ClientId) -> String {
    format!("c:{client}")
}
