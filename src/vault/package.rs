//! What leaves the house: encrypted in the age format (age-encryption.org/v1), which other programs open, for a public key that
//! the person gave or under a passphrase that is told once.

use std::{fmt, str::FromStr};

use age::{scrypt, secrecy::SecretString, x25519};
use zeroize::Zeroizing;

use super::{VaultError, random};

/// A public key in the form `age1…`. Nothing secret, but somebody's: it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(x25519::Recipient);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no age public key (age1…, X25519)")]
pub struct InvalidRecipient;

impl FromStr for Recipient {
    type Err = InvalidRecipient;

    fn from_str(text: &str) -> Result<Self, InvalidRecipient> {
        text.parse().map(Self).map_err(|_| InvalidRecipient)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recipient(…)")
    }
}

/// Letters and digits that are not taken for one another, 32 of them: five bits each.
const LETTERS: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";
const GROUPS: usize = 6;
const LETTERS_OF_GROUP: usize = 5;

/// Six groups of five letters, to be read out or typed: 150 random bits.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    pub fn generate() -> Result<Self, VaultError> {
        let bytes = Zeroizing::new(random::<{ GROUPS * LETTERS_OF_GROUP }>()?);
        // With its whole length from the start: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(GROUPS * (LETTERS_OF_GROUP + 1)));
        for (position, byte) in bytes.iter().enumerate() {
            if position > 0 && position % LETTERS_OF_GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(LETTERS[usize::from(byte % 32)]));
        }
        Ok(Self(text))
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

/// What a package is opened with.
pub enum Lock {
    Recipient(Recipient),
    Passphrase(Passphrase),
}

/// scrypt with N = 2^14: 16 MiB and some hundredths of a second. It slows down nobody who guesses, for there is nothing to
/// guess among 2^150; the format asks for it.
const WORK_FACTOR: u8 = 14;

/// Takes a moment and no waiting: for a thread of its own.
pub fn lock(plain: &[u8], with: &Lock) -> Result<Vec<u8>, VaultError> {
    let locked = match with {
        Lock::Recipient(Recipient(recipient)) => age::encrypt(recipient, plain),
        Lock::Passphrase(passphrase) => {
            let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.expose_text().to_owned()));
            recipient.set_work_factor(WORK_FACTOR);
            age::encrypt(&recipient, plain)
        }
    };
    locked.map_err(|_| VaultError::NotLocked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_opens_with_the_persons_own_key_and_no_other() {
        let (own, other) = (x25519::Identity::generate(), x25519::Identity::generate());
        let recipient = own.to_public().to_string().parse().unwrap();
        let locked = lock(b"everything", &Lock::Recipient(recipient)).unwrap();
        assert_eq!(age::decrypt(&own, &locked).unwrap(), b"everything");
        assert!(age::decrypt(&other, &locked).is_err());
    }

    #[test]
    fn a_package_opens_with_its_passphrase_and_no_other() {
        let (own, other) = (Passphrase::generate().unwrap(), Passphrase::generate().unwrap());
        let identity =
            |passphrase: &Passphrase| scrypt::Identity::new(SecretString::from(passphrase.expose_text().to_owned()));
        let (right, wrong) = (identity(&own), identity(&other));
        let locked = lock(b"everything", &Lock::Passphrase(own)).unwrap();
        assert_eq!(age::decrypt(&right, &locked).unwrap(), b"everything");
        assert!(age::decrypt(&wrong, &locked).is_err());
    }

    #[test]
    fn a_passphrase_is_made_of_letters_that_nobody_mistakes_and_all_of_them() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let passphrase = Passphrase::generate().unwrap();
            let groups: Vec<_> = passphrase.expose_text().split('-').collect();
            assert!(groups.len() == GROUPS && groups.iter().all(|group| group.len() == LETTERS_OF_GROUP));
            seen.extend(groups.concat().into_bytes());
        }
        let all: Vec<u8> = seen.into_iter().collect();
        assert_eq!(all, LETTERS, "in order, as they are listed");
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let secret = x25519::Identity::generate();
        for bad in ["", "age1", "age1qqqq", "ssh-ed25519 AAAA", &secret.to_public().to_string()[..60]] {
            assert_eq!(bad.parse::<Recipient>(), Err(InvalidRecipient), "{bad}");
        }
    }
}
