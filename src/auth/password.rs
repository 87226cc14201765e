//! Passwords of officers: Argon2id (RFC 9106) with 19 MiB, two passes and one lane, the first choice of OWASP's Password
//! Storage Cheat Sheet for a server that does other things besides. About a tenth of a second of one core: to be called in
//! the compute pool.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use zeroize::Zeroizing;

use super::random_32;

/// KiB, passes, lanes.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
const SALT_BYTES: usize = 16;

/// A password in the clear.
pub struct Password(Zeroizing<String>);

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    #[error("has fewer than {} characters", Password::CHARACTERS_MIN)]
    TooShort,
    #[error("has more than {} characters", Password::CHARACTERS_MAX)]
    TooLong,
    #[error("is one of those that are tried first")]
    Common,
    #[error("contains your name")]
    ContainsName,
    #[error("is the one you have")]
    Unchanged,
}

#[derive(Debug, thiserror::Error)]
#[error("a password could not be hashed: {0}")]
pub struct HashError(String);

impl Password {
    /// NIST SP 800-63B asks for 8 where there is a second factor, and 15 where there is none.
    pub const CHARACTERS_MIN: usize = 12;
    /// A sentence fits; a megabyte to hash does not.
    pub const CHARACTERS_MAX: usize = 128;

    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// 100 random bits, in five groups that can be read out: no letter that is taken for a digit.
    pub fn generate() -> Self {
        const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz234567890";
        let random = random_32();
        let mut text = Zeroizing::new(String::with_capacity(24));
        for (position, byte) in random.iter().take(20).enumerate() {
            if position > 0 && position % 4 == 0 {
                text.push('-');
            }
            text.push(char::from(LETTERS[usize::from(byte % 32)]));
        }
        Self(text)
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }

    /// What is stored: a PHC string, which names its own parameters.
    pub fn hash(&self) -> Result<Zeroizing<String>, HashError> {
        let hash = argon2()?.hash_password_with_salt(self.0.as_bytes(), &random_32()[..SALT_BYTES]);
        hash.map(|hash| Zeroizing::new(hash.to_string())).map_err(|error| HashError(error.to_string()))
    }

    /// Whether this is the password behind `stored`. Where there is none (`None`) it costs the same and is not.
    pub fn is_behind(&self, stored: Option<&str>) -> Result<bool, HashError> {
        let Some(stored) = stored else {
            let _nobodys = self.hash()?;
            return Ok(false);
        };
        let stored = PasswordHash::new(stored).map_err(|error| HashError(error.to_string()))?;
        Ok(argon2()?.verify_password(self.0.as_bytes(), &stored).is_ok())
    }

    /// Whether it may become the password of the officer of this name: long enough, and none that is tried first. What is in
    /// it is the officer's affair.
    pub fn check(&self, name: &str) -> Result<(), WeakPassword> {
        let (characters, text) = (self.0.chars().count(), Zeroizing::new(self.0.to_lowercase()));
        let name = name.trim().to_lowercase();
        let name = name.split('@').next().unwrap_or_default();
        if characters < Self::CHARACTERS_MIN {
            Err(WeakPassword::TooShort)
        } else if characters > Self::CHARACTERS_MAX {
            Err(WeakPassword::TooLong)
        } else if name.chars().count() >= 4 && text.contains(name) {
            Err(WeakPassword::ContainsName)
        } else if is_common(&text) {
            Err(WeakPassword::Common)
        } else {
            Ok(())
        }
    }
}

/// What is left without the words that everybody thinks of first must still be a password.
fn is_common(text: &str) -> bool {
    const WORDS: [&str; 14] = [
        "velum",
        "console",
        "officer",
        "compliance",
        "password",
        "passwort",
        "letmein",
        "welcome",
        "qwerty",
        "qwertz",
        "abc",
        "admin",
        "123",
        "secret",
    ];
    const LEFT_MIN: usize = 6;
    let rest = WORDS.iter().fold(text.to_owned(), |rest, word| rest.replace(word, ""));
    let distinct: std::collections::BTreeSet<char> = rest.chars().collect();
    distinct.len() < LEFT_MIN
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).map_err(|error| HashError(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[test]
    fn only_the_right_password_is_behind_a_hash() {
        let hash = password("correct horse battery").hash().unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", *hash);
        assert!(password("correct horse battery").is_behind(Some(&hash)).unwrap());
        assert!(!password("correct horse batterY").is_behind(Some(&hash)).unwrap());
        assert!(!password("correct horse battery").is_behind(None).unwrap());
        assert!(password("correct horse battery").is_behind(Some("no hash")).is_err());
    }

    /// Made with the reference implementation in C (through argon2-cffi), two passes, 19,456 KiB, one lane.
    #[test]
    fn the_hash_is_that_of_the_reference_implementation() {
        let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$/HetJC6LZ4lnwgLB+wJSS2a9bFu2Kq4HxwNWzoJq2qU";
        assert!(password("correct horse battery").is_behind(Some(hash)).unwrap());
    }

    #[test]
    fn no_two_hashes_and_no_two_handed_out_passwords_are_the_same() {
        let same = password("correct horse battery");
        assert_ne!(*same.hash().unwrap(), *same.hash().unwrap());
        let (one, other) = (Password::generate(), Password::generate());
        assert_ne!(one.expose_text(), other.expose_text());
        assert_eq!(one.expose_text().len(), 24);
        assert_eq!(one.check("a.meyer"), Ok(()));
    }

    #[test]
    fn a_password_is_long_and_none_of_those_tried_first() {
        let too_long = "ab cd ef gh ".repeat(11);
        for (text, outcome) in [
            ("correct horse battery", Ok(())),
            ("ein langer Satz mit Umlauten äöü", Ok(())),
            ("elevenchars", Err(WeakPassword::TooShort)),
            (too_long.as_str(), Err(WeakPassword::TooLong)),
            ("aaaaaaaaaaaaaaaa", Err(WeakPassword::Common)),
            ("Password1234!", Err(WeakPassword::Common)),
            ("VelumConsole2026", Err(WeakPassword::Common)),
            ("velumvelumvelum", Err(WeakPassword::Common)),
            ("for A.Meyer in 2026", Err(WeakPassword::ContainsName)),
        ] {
            assert_eq!(password(text).check("a.meyer@example.org"), outcome, "{text}");
        }
    }
}
