//! Keys and ciphertexts from outside: read or refused, and what is read is written again as the same bytes.
//!
//! The first byte says whether the rest is a whole frame, or one whose length and hash are made good here, as no mutation
//! would do by itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};
use velum::fhe::{
    decide::EncryptedDecision,
    encrypt::EncryptedTemplate,
    keys::{CompressedEvaluationKey, KeyId, PublicKey, SecretKeys},
};

const HEADER_BYTES: usize = 32;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode {
        b'=' => read_all(rest),
        _ => read_all(&made_good(rest)),
    }
});

fn made_good(rest: &[u8]) -> Vec<u8> {
    let mut frame = rest.to_vec();
    if let Some(body_bytes) = frame.len().checked_sub(HEADER_BYTES) {
        frame[24..HEADER_BYTES].copy_from_slice(&(body_bytes as u64).to_le_bytes());
    }
    let hash = Sha256::digest(&frame);
    frame.extend_from_slice(&hash);
    frame
}

fn read_all(frame: &[u8]) {
    let Some(key) = frame.get(8..24).map(key_id) else { return };
    if let Ok(template) = EncryptedTemplate::from_bytes(frame, key) {
        assert!(template.to_bytes() == frame, "a template has one form");
    }
    if let Ok(decision) = EncryptedDecision::from_bytes(frame, key) {
        assert!(decision.to_bytes() == frame, "a decision has one form");
    }
    if let Ok(public) = PublicKey::from_bytes(frame) {
        assert!(public.to_bytes() == frame && public.key_id() == key, "a public key has one form");
    }
    if let Ok(secret) = SecretKeys::from_bytes(frame) {
        assert!(secret.to_bytes().as_slice() == frame, "a secret key has one form");
    }
    let _read_or_refused = CompressedEvaluationKey::from_bytes(frame);
}

fn key_id(bytes: &[u8]) -> KeyId {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.parse().expect("32 digits")
}
