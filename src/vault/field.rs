//! One field, sealed: AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce.
//!
//! ```text
//! sealed bytes     version (1 byte, = 1) ‖ nonce (12) ‖ ciphertext (as long as the plaintext) ‖ tag (16)
//! associated data  version (1 byte) ‖ len(table) ‖ table ‖ len(row) ‖ row ‖ len(column) ‖ column     len: u64, big-endian
//! ```
//! The key id is not in the bytes: the data key belongs to the subject whose row this is (see `envelope`, where it is).
//! Random nonces bound a key to 2^32 sealings (collision below 2^-32); one person's rows stay far below.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use zeroize::Zeroizing;

use super::{VaultError, push_length_prefixed, random};

pub(super) const KEY_BYTES: usize = 32;
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// How many bytes a sealed value is longer than its plaintext.
pub const OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Where a sealed value lives. It opens there and nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub table: &'a str,
    pub row: &'a str,
    pub column: &'a str,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for part in [self.table, self.row, self.column] {
            push_length_prefixed(&mut bytes, part.as_bytes());
        }
        bytes
    }
}

pub(super) fn seal(key: &[u8; KEY_BYTES], place: &Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, VaultError> {
    seal_with_nonce(key, random()?, place, plaintext)
}

/// Never call with a nonce that is not fresh: two sealings under one nonce give away both plaintexts and the tag key.
fn seal_with_nonce(
    key: &[u8; KEY_BYTES],
    nonce: [u8; NONCE_BYTES],
    place: &Place<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, VaultError> {
    let payload = Payload { msg: plaintext, aad: &place.associated_data() };
    // The cipher refuses only plaintexts of 64 GiB and more.
    let ciphertext = cipher(key).encrypt(&nonce.into(), payload).map_err(|_| VaultError::Malformed)?;
    let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + ciphertext.len());
    sealed.push(VERSION);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

pub(super) fn open(key: &[u8; KEY_BYTES], place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let (&version, rest) = sealed.split_first().ok_or(VaultError::Malformed)?;
    if version != VERSION {
        return Err(VaultError::UnknownVersion(version));
    }
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::Malformed)?;
    if ciphertext.len() < TAG_BYTES {
        return Err(VaultError::Malformed);
    }
    let payload = Payload { msg: ciphertext, aad: &place.associated_data() };
    let plaintext = cipher(key).decrypt(&(*nonce).into(), payload).map_err(|_| VaultError::NotAuthentic)?;
    Ok(Zeroizing::new(plaintext))
}

fn cipher(key: &[u8; KEY_BYTES]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { table: "subjects", row: "sub_1", column: "external_ref" };
    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    #[test]
    fn associated_data_is_what_the_layout_says() {
        let mut expected = vec![1];
        for (length, part) in [(8u8, "subjects"), (5, "sub_1"), (12, "external_ref")] {
            expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, length]);
            expected.extend_from_slice(part.as_bytes());
        }
        assert_eq!(PLACE.associated_data(), expected);
    }

    #[test]
    fn parts_cannot_slide_into_each_other() {
        let one = Place { table: "ab", row: "c", column: "d" };
        let other = Place { table: "a", row: "bc", column: "d" };
        assert_ne!(one.associated_data(), other.associated_data());
    }

    /// Made with another implementation (PyCA cryptography 38, `AESGCM`) from the layout above.
    #[test]
    fn the_layout_is_that_of_an_independent_implementation() {
        let key = std::array::from_fn(|i| i as u8);
        let nonce = std::array::from_fn(|i| i as u8);
        let sealed = seal_with_nonce(&key, nonce, &PLACE, b"emp-0042").unwrap();
        let expected = "01000102030405060708090a0b226fa636f5d5f629a39b8683a1fc03d2976a1b7ea1d24b6a";
        assert_eq!(hex::encode(&sealed), expected);
        assert_eq!(open(&key, &PLACE, &sealed).unwrap().as_slice(), b"emp-0042");
    }

    /// NIST GCM test case 16 has associated data of its own, so the bare cipher is what it can check.
    #[test]
    fn the_cipher_is_aes_256_gcm() {
        let key: [u8; 32] = bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce: [u8; 12] = bytes("cafebabefacedbaddecaf888");
        let plaintext: [u8; 60] = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let associated: [u8; 20] = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let sealed = cipher(&key).encrypt(&nonce.into(), Payload { msg: &plaintext, aad: &associated }).unwrap();
        assert!(hex::encode(&sealed).starts_with("522dc1f099567d07f47f37a32a84427d"));
        assert!(hex::encode(&sealed).ends_with("76fc6ece0f4e1768cddf8853bb2d551b"));
    }

    fn bytes<const N: usize>(hexadecimal: &str) -> [u8; N] {
        hex::decode(hexadecimal).unwrap().try_into().unwrap()
    }

    #[test]
    fn two_sealings_of_one_value_differ() {
        assert_ne!(seal(&KEY, &PLACE, b"same").unwrap(), seal(&KEY, &PLACE, b"same").unwrap());
    }
}
