//! The secret part of a link to a package: 256 random bits that are all it takes to fetch it. Shown once, kept as a keyed hash.

use std::str::FromStr;

use zeroize::Zeroizing;

use super::{client_secret::Pepper, random_32};

/// Separates these hashes from any other use of HMAC under the same key.
const DOMAIN: &[u8] = b"velum package link v1";
const DIGITS: usize = 64;

/// `velum_package_` and 64 hexadecimal digits. It cannot be printed by accident.
pub struct PackageToken(Zeroizing<String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is no link to a package")]
pub struct InvalidPackageToken;

impl PackageToken {
    pub const PREFIX: &'static str = "velum_package_";

    pub fn generate() -> Self {
        let digits = Zeroizing::new(hex::encode(random_32().as_slice()));
        let mut text = Zeroizing::new(String::with_capacity(Self::PREFIX.len() + DIGITS));
        text.push_str(Self::PREFIX);
        text.push_str(&digits);
        Self(text)
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

impl FromStr for PackageToken {
    type Err = InvalidPackageToken;

    fn from_str(text: &str) -> Result<Self, InvalidPackageToken> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(InvalidPackageToken)?;
        let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() != DIGITS || !is_hex {
            return Err(InvalidPackageToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl Pepper {
    /// What is kept of a link.
    pub fn hash_package_token(&self, token: &PackageToken) -> [u8; 32] {
        self.keyed_hash(DOMAIN, &[token.expose_text().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_nothing_else_is_one() {
        let token = PackageToken::generate();
        assert_eq!(token.expose_text().parse::<PackageToken>().unwrap().expose_text(), token.expose_text());
        let upper = token.expose_text().to_uppercase();
        for bad in ["", "velum_package_", &token.expose_text()[1..], &format!("{}0", token.expose_text()), &upper] {
            assert!(bad.parse::<PackageToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hash_depends_on_token_and_pepper() {
        let pepper = |byte| Pepper::new(Zeroizing::new([byte; 32]));
        let (one, other) = (PackageToken::generate(), PackageToken::generate());
        let hash = pepper(1).hash_package_token(&one);
        assert_eq!(hash, pepper(1).hash_package_token(&one));
        assert_ne!(hash, pepper(1).hash_package_token(&other));
        assert_ne!(hash, pepper(2).hash_package_token(&one));
    }
}
