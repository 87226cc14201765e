//! Who is calling, and what they may do.
//!
//! `jwt` issues and verifies access tokens; `client_secret` and `assertion` check the credentials they are bought with;
//! `api_key` takes the place of both. All end in a `Caller`: the only thing the rest of the program learns about one.
//! `password`, `totp` and `session_token` are for officers, who are persons and come with a browser.
//! `evidence` is the other thing that keys sign: documents for third parties.

pub mod api_key;
pub mod assertion;
pub mod client_secret;
pub mod evidence;
mod idempotency;
pub mod jwt;
pub mod package_link;
pub mod password;
mod role;
pub mod session_token;
mod signing_key;
mod subject_digest;
pub mod totp;

use std::{collections::BTreeSet, fmt, str::FromStr};

pub use self::role::Role;
use crate::domain::id::{ApiKeyId, ClientId, TenantId};

/// Who calls, however he proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub tenant: TenantId,
    pub identity: Identity,
    pub scopes: Scopes,
}

/// By which credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Client(ClientId),
    ApiKey(ApiKeyId),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(id) => id.fmt(f),
            Self::ApiKey(id) => id.fmt(f),
        }
    }
}

impl From<Principal> for Caller {
    fn from(principal: Principal) -> Self {
        Self { tenant: principal.tenant, identity: Identity::Client(principal.client), scopes: principal.scopes }
    }
}

impl Caller {
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(scope)
    }
}

/// The client that an access token was issued to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: TenantId,
    pub client: ClientId,
    pub scopes: Scopes,
}

/// One permission, as it is written in a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Register, list, change and delete subjects.
    Subjects,
    /// Record and withdraw consents.
    Consents,
    /// Enrol faces and delete enrolments.
    FacesEnrol,
    /// Compare a face with one subject (1:1).
    FacesVerify,
    /// Search a face in a collection (1:N).
    FacesIdentify,
    /// Data subject requests: erasure and access.
    DataSubjectRequests,
    /// Read audit events and checkpoints.
    AuditRead,
    /// Manage credentials of the tenant.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 8] = [
        Self::Subjects,
        Self::Consents,
        Self::FacesEnrol,
        Self::FacesVerify,
        Self::FacesIdentify,
        Self::DataSubjectRequests,
        Self::AuditRead,
        Self::Admin,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subjects => "subjects",
            Self::Consents => "consents",
            Self::FacesEnrol => "faces:enrol",
            Self::FacesVerify => "faces:verify",
            Self::FacesIdentify => "faces:identify",
            Self::DataSubjectRequests => "dsr",
            Self::AuditRead => "audit:read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a scope; scopes are subjects, consents, faces:enrol, faces:verify, faces:identify, dsr, audit:read and admin"
)]
pub struct InvalidScope {
    pub text: String,
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| InvalidScope { text: text.to_owned() })
    }
}

/// A set of scopes; as text, the space-separated list of RFC 6749, section 3.3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// What an ordinary client app needs: people, their consents, enrolment and verification.
    pub fn client_app() -> Self {
        [Scope::Subjects, Scope::Consents, Scope::FacesEnrol, Scope::FacesVerify].into_iter().collect()
    }

    pub fn contains(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A token may carry fewer scopes than its client, never more.
    pub fn covers(&self, requested: &Scopes) -> bool {
        requested.0.is_subset(&self.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = Scope> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Scope::as_str).collect();
        f.write_str(&names.join(" "))
    }
}

impl FromStr for Scopes {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        text.split_ascii_whitespace().map(str::parse).collect()
    }
}

/// 32 bytes from the system's random source. Without one, no credential of this program means anything: it stops.
#[expect(clippy::expect_used, reason = "no safe way to go on without randomness")]
fn random_32() -> zeroize::Zeroizing<[u8; 32]> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).expect("the system's random source answers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_round_trip_through_their_text() {
        let scopes: Scopes = Scope::ALL.into_iter().collect();
        assert_eq!(scopes.to_string().parse(), Ok(scopes));
        assert_eq!("".parse(), Ok(Scopes::default()));
    }

    #[test]
    fn an_unknown_scope_is_named_in_the_refusal() {
        let refusal = "subjects everything".parse::<Scopes>().unwrap_err();
        assert_eq!(refusal.text, "everything");
    }

    #[test]
    fn a_client_covers_fewer_scopes_but_never_more() {
        let client = Scopes::client_app();
        assert!(client.covers(&"faces:verify".parse().unwrap()));
        assert!(client.covers(&Scopes::default()));
        assert!(!client.covers(&"faces:verify admin".parse().unwrap()));
    }
}
