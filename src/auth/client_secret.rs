//! The secret half of a client's credential: 256 random bits, shown once, kept only as a keyed hash.
//!
//! No slow password hash: a guess against 256 bits is hopeless at any speed, and a fast check keeps the token endpoint
//! from becoming a way to burn our CPU. The pepper (a key outside the database) makes a stolen table useless for checking
//! a leaked secret. The client id is part of the hashed message, so a hash copied to another client's row opens nothing.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::random_32;
use crate::domain::id::ClientId;

/// Separates these hashes from any other use of HMAC under the same key.
const DOMAIN: &[u8] = b"velum client secret v1";

/// A client secret in the clear: `velum_secret_` and 64 hexadecimal digits. The prefix lets secret scanners find leaks.
pub struct ClientSecret(Zeroizing<String>);

impl ClientSecret {
    pub const PREFIX: &'static str = "velum_secret_";

    pub fn generate() -> Self {
        let digits = Zeroizing::new(hex::encode(random_32().as_slice()));
        let mut text = Zeroizing::new(String::with_capacity(Self::PREFIX.len() + digits.len()));
        text.push_str(Self::PREFIX);
        text.push_str(&digits);
        Self(text)
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

/// What is stored of a client secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecretHash([u8; 32]);

impl ClientSecretHash {
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The key of the hash. Lives in the secrets folder, never in the database.
pub struct Pepper(Zeroizing<[u8; 32]>);

impl Pepper {
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    pub fn hash(&self, client: ClientId, secret: &ClientSecret) -> ClientSecretHash {
        ClientSecretHash(self.mac(client, secret.expose_text()))
    }

    /// Whether `presented` is the secret behind `stored`. An unknown client (`None`) costs the same work as a known one,
    /// so that the answer's time does not say which client ids exist.
    pub fn matches(&self, client: ClientId, presented: &str, stored: Option<&ClientSecretHash>) -> bool {
        let computed = self.mac(client, presented);
        let expected = stored.map_or([0; 32], |hash| hash.0);
        let equal = bool::from(computed.ct_eq(&expected));
        equal & stored.is_some()
    }

    /// A name for everything that shares this key, which tells nothing of it.
    pub fn installation(&self) -> String {
        hex::encode(&self.keyed_hash(b"velum installation v1", &[])[..8])
    }

    fn mac(&self, client: ClientId, secret: &str) -> [u8; 32] {
        self.keyed_hash(DOMAIN, &[client.to_string().as_bytes(), secret.as_bytes()])
    }

    /// HMAC-SHA-256(pepper, domain || 0x00 || part || 0x00 || ... || last part); none but the last part may contain 0x00.
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    pub(super) fn keyed_hash(&self, domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes keys of any length");
        mac.update(domain);
        for part in parts {
            mac.update(&[0]);
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(byte: u8) -> Pepper {
        Pepper::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn a_secret_is_recognisable_and_never_the_same_twice() {
        let (one, other) = (ClientSecret::generate(), ClientSecret::generate());
        let digits = one.expose_text().strip_prefix("velum_secret_").unwrap();
        assert_eq!(digits.len(), 64);
        assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one.expose_text(), other.expose_text());
    }

    #[test]
    fn only_the_right_secret_of_the_right_client_matches() {
        let (client, secret, pepper) = (ClientId::generate(), ClientSecret::generate(), pepper(7));
        let stored = pepper.hash(client, &secret);
        assert!(pepper.matches(client, secret.expose_text(), Some(&stored)));
        assert!(!pepper.matches(client, ClientSecret::generate().expose_text(), Some(&stored)));
        assert!(!pepper.matches(client, "", Some(&stored)));
        assert!(!pepper.matches(ClientId::generate(), secret.expose_text(), Some(&stored)));
        assert!(!pepper.matches(client, secret.expose_text(), None));
    }

    #[test]
    fn another_pepper_makes_the_stored_hash_useless() {
        let (client, secret) = (ClientId::generate(), ClientSecret::generate());
        let stored = pepper(7).hash(client, &secret);
        assert!(!pepper(8).matches(client, secret.expose_text(), Some(&stored)));
    }

    #[test]
    fn the_hash_of_a_known_secret_never_changes() {
        // Stored hashes outlive releases: this vector was computed with Python's hmac module.
        let client: ClientId = "cli_0192f3a0b1c27d3e8f405162738495a6".parse().unwrap();
        let secret = ClientSecret(Zeroizing::new(format!("velum_secret_{}", "ab".repeat(32))));
        let expected = "44fb73f062d54057e6d788d65ef7318c6ac4e1bbbe249049c074fa95706f2dd4";
        assert_eq!(hex::encode(pepper(7).hash(client, &secret).to_bytes()), expected);
    }
}
