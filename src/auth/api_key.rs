//! API keys, for servers that call without buying tokens first.
//!
//! ```text
//! velum_live_<64 hexadecimal digits><8 hexadecimal digits>        velum_test_... in the embedded mode
//!            256 random bits          first 32 bits of SHA-256 over all that stands before them
//! ```
//! The checksum lets a secret scanner, or a client with a typing error, tell a key from something that only looks like one
//! without asking us. The key is shown once; what is stored is its keyed hash ([`Pepper::hash_api_key`]).

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{client_secret::Pepper, random_32};

/// What a key works for. A key of one never opens the other, so that one which was tried out cannot end up in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Live,
    Test,
}

impl Environment {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Live => "velum_live_",
            Self::Test => "velum_test_",
        }
    }
}

const RANDOM_DIGITS: usize = 64;
const CHECKSUM_DIGITS: usize = 8;
/// Random digits that are shown for people to tell keys apart: 24 of 256 bits.
const SHOWN_DIGITS: usize = 6;

/// A key in the clear. It cannot be printed by accident.
pub struct ApiKey {
    environment: Environment,
    text: Zeroizing<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not an API key")]
pub struct InvalidApiKey;

/// What is stored of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyHash(pub(super) [u8; 32]);

impl ApiKeyHash {
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Compares in constant time.
    pub fn is(&self, stored: &[u8]) -> bool {
        self.0.as_slice().ct_eq(stored).into()
    }
}

impl ApiKey {
    pub fn generate(environment: Environment) -> Self {
        let prefix = environment.prefix();
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + RANDOM_DIGITS + CHECKSUM_DIGITS));
        text.push_str(prefix);
        text.push_str(&Zeroizing::new(hex::encode(random_32().as_slice())));
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self { environment, text }
    }

    /// Whether a bearer credential is meant to be an API key, well-formed or not.
    pub fn resembles(text: &str) -> bool {
        text.starts_with(Environment::Live.prefix()) || text.starts_with(Environment::Test.prefix())
    }

    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let known = [Environment::Live, Environment::Test];
        let environment = known.into_iter().find(|known| text.starts_with(known.prefix())).ok_or(InvalidApiKey)?;
        let digits = &text[environment.prefix().len()..];
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() != RANDOM_DIGITS + CHECKSUM_DIGITS || !is_hex {
            return Err(InvalidApiKey);
        }
        let (before, given) = text.split_at(text.len() - CHECKSUM_DIGITS);
        if checksum(before) != given {
            return Err(InvalidApiKey);
        }
        Ok(Self { environment, text: Zeroizing::new(text.to_owned()) })
    }

    pub fn environment(&self) -> Environment {
        self.environment
    }

    pub fn expose_text(&self) -> &str {
        &self.text
    }

    /// Enough to recognise a key by, and of no use to guess the rest.
    pub fn shown_prefix(&self) -> &str {
        &self.text[..self.environment.prefix().len() + SHOWN_DIGITS]
    }
}

fn checksum(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..CHECKSUM_DIGITS / 2])
}

impl Pepper {
    pub fn hash_api_key(&self, key: &ApiKey) -> ApiKeyHash {
        ApiKeyHash(self.keyed_hash(b"velum api key v1", &[key.expose_text().as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_shows_little_of_itself() {
        let key = ApiKey::generate(Environment::Live);
        assert_eq!(key.expose_text().len(), "velum_live_".len() + 72);
        let read = ApiKey::parse(key.expose_text()).unwrap();
        assert_eq!((read.environment(), read.expose_text()), (Environment::Live, key.expose_text()));
        assert_eq!(key.shown_prefix().len(), "velum_live_".len() + 6);
        assert_ne!(
            ApiKey::generate(Environment::Test).expose_text(),
            ApiKey::generate(Environment::Test).expose_text()
        );
    }

    #[test]
    fn every_single_wrong_character_shows() {
        let key = ApiKey::generate(Environment::Test);
        let text = key.expose_text();
        for position in 0..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[position] = if wrong[position] == b'0' { b'1' } else { b'0' };
            assert!(ApiKey::parse(std::str::from_utf8(&wrong).unwrap()).is_err(), "position {position}");
        }
        let live = text.replace("test", "live");
        for bad in
            ["", "velum_live_", &text[1..], &text[..text.len() - 1], &format!("{text}0"), &text.to_uppercase(), &live]
        {
            assert!(ApiKey::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_same_pepper_finds_a_key_again() {
        let (one, other) = ([1; 32], [2; 32]);
        let pepper = |bytes: [u8; 32]| Pepper::new(Zeroizing::new(bytes));
        let key = ApiKey::generate(Environment::Live);
        let stored = pepper(one).hash_api_key(&key);
        assert!(stored.is(&pepper(one).hash_api_key(&key).to_bytes()));
        assert!(!stored.is(&pepper(other).hash_api_key(&key).to_bytes()));
        assert!(!stored.is(&[]));
    }
}
