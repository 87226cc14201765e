//! Sealed fields, wrapped keys, blind indices and key files: what opens, and what must not.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use velum::{
    domain::{
        id::{SubjectId, TenantId},
        network::ClientAddress,
    },
    vault::{
        AddressKey, BlindIndexKey, DataKey, KekId, KeyEncryptionKeys, Place, VaultError, WrappedKey,
        envelope::KeyEncryptionKey,
        field::OVERHEAD_BYTES,
        keyring::{self, KeyringError},
    },
};
use zeroize::Zeroizing;

const PLACE: Place<'_> = Place { table: "subjects", row: "sub_1", column: "external_ref" };

fn data_key() -> DataKey {
    DataKey::generate().unwrap()
}

fn keks(current: &str, ids: &[(&str, u8)]) -> KeyEncryptionKeys {
    let keys = ids
        .iter()
        .map(|(id, byte)| (id.parse::<KekId>().unwrap(), KeyEncryptionKey::from_bytes(Zeroizing::new([*byte; 32]))));
    KeyEncryptionKeys::new(current.parse().unwrap(), keys).unwrap()
}

// ---- fields -----------------------------------------------------------------------------------------------------------

#[test]
fn a_sealed_field_opens_in_its_place() {
    let key = data_key();
    for plaintext in [&b""[..], b"x", b"emp-0042", &[0; 20_000]] {
        let sealed = key.seal(&PLACE, plaintext).unwrap();
        assert_eq!(sealed.len(), plaintext.len() + OVERHEAD_BYTES);
        assert_eq!(key.open(&PLACE, &sealed).unwrap().as_slice(), plaintext);
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let key = data_key();
    let sealed = key.seal(&PLACE, b"emp-0042").unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = key.open(&PLACE, &flipped).unwrap_err();
        if bit < 8 {
            assert_eq!(refused, VaultError::UnknownVersion(flipped[0]));
        } else {
            assert_eq!(refused, VaultError::NotAuthentic, "bit {bit}");
        }
    }
}

#[test]
fn every_cut_is_refused() {
    let key = data_key();
    let sealed = key.seal(&PLACE, b"emp-0042").unwrap();
    for length in 0..sealed.len() {
        assert!(key.open(&PLACE, &sealed[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(key.open(&PLACE, &[]).unwrap_err(), VaultError::Malformed);
    assert_eq!(key.open(&PLACE, &sealed[..OVERHEAD_BYTES - 1]).unwrap_err(), VaultError::Malformed);
}

#[test]
fn a_field_moved_to_another_place_does_not_open() {
    let key = data_key();
    let sealed = key.seal(&PLACE, b"emp-0042").unwrap();
    for elsewhere in [
        Place { row: "sub_2", ..PLACE },
        Place { column: "template", ..PLACE },
        Place { table: "enrolments", ..PLACE },
        Place { table: "subjectss", row: "ub_1", ..PLACE },
    ] {
        assert_eq!(key.open(&elsewhere, &sealed).unwrap_err(), VaultError::NotAuthentic, "{elsewhere:?}");
    }
}

#[test]
fn another_persons_key_does_not_open() {
    let sealed = data_key().seal(&PLACE, b"emp-0042").unwrap();
    assert_eq!(data_key().open(&PLACE, &sealed).unwrap_err(), VaultError::NotAuthentic);
}

// ---- envelope ---------------------------------------------------------------------------------------------------------

#[test]
fn a_wrapped_key_opens_what_the_key_sealed() {
    let (keks, tenant, subject) = (keks("2026-11", &[("2026-11", 1)]), TenantId::generate(), SubjectId::generate());
    let key = data_key();
    let sealed = key.seal(&PLACE, b"emp-0042").unwrap();
    let wrapped = keks.wrap(&key, tenant, subject).unwrap();
    assert_eq!(wrapped.kek, "2026-11");
    let unwrapped = keks.unwrap(&wrapped, tenant, subject).unwrap();
    assert_eq!(unwrapped.open(&PLACE, &sealed).unwrap().as_slice(), b"emp-0042");
}

#[test]
fn a_retired_key_encryption_key_still_opens_and_the_current_one_wraps() {
    let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
    let old = keks("2025-11", &[("2025-11", 1)]).wrap(&data_key(), tenant, subject).unwrap();
    let rotated = keks("2026-11", &[("2025-11", 1), ("2026-11", 2)]);
    let key = rotated.unwrap(&old, tenant, subject).unwrap();
    assert_eq!(rotated.wrap(&key, tenant, subject).unwrap().kek, "2026-11");
}

#[test]
fn an_unlisted_key_encryption_key_is_its_own_error() {
    let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
    let old = keks("2025-11", &[("2025-11", 1)]).wrap(&data_key(), tenant, subject).unwrap();
    let refused = keks("2026-11", &[("2026-11", 2)]).unwrap(&old, tenant, subject).err().unwrap();
    assert_eq!(refused, VaultError::UnknownKey("2025-11".to_owned()));
    assert_eq!(refused.code(), "key_encryption_key_unknown");
}

#[test]
fn an_address_key_serves_its_own_period_and_is_no_data_key() {
    let keks = keks("a", &[("a", 1), ("b", 1)]);
    let address = ClientAddress::new([203, 0, 113, 7].into());
    let key = AddressKey::generate().unwrap();
    let wrapped = keks.wrap_address_key(&key, 1_000).unwrap();
    assert_eq!(keks.unwrap_address_key(&wrapped, 1_000).unwrap().hash(address), key.hash(address));
    let not_authentic = |result: Result<AddressKey, VaultError>| result.err() == Some(VaultError::NotAuthentic);
    assert!(not_authentic(keks.unwrap_address_key(&wrapped, 1_001)));
    let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
    assert_eq!(keks.unwrap(&wrapped, tenant, subject).err(), Some(VaultError::NotAuthentic));
    let of_a_person = keks.wrap(&data_key(), tenant, subject).unwrap();
    assert!(not_authentic(keks.unwrap_address_key(&of_a_person, 1_000)));
    assert!(not_authentic(keks.unwrap_address_key(&WrappedKey { kek: "b".to_owned(), ..wrapped }, 1_000)));
}

#[test]
fn a_wrapped_key_serves_its_own_subject_tenant_and_key_id_only() {
    let keks = keks("a", &[("a", 1), ("b", 1)]);
    let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
    let wrapped = keks.wrap(&data_key(), tenant, subject).unwrap();
    let not_authentic = |result: Result<DataKey, VaultError>| result.err() == Some(VaultError::NotAuthentic);
    assert!(not_authentic(keks.unwrap(&wrapped, tenant, SubjectId::generate())));
    assert!(not_authentic(keks.unwrap(&wrapped, TenantId::generate(), subject)));
    // "b" holds the same bytes under another name: the name is bound in as well.
    assert!(not_authentic(keks.unwrap(&WrappedKey { kek: "b".to_owned(), ..wrapped }, tenant, subject)));
}

#[test]
fn the_current_key_must_be_among_the_keys() {
    assert!(KeyEncryptionKeys::new("a".parse().unwrap(), []).is_none());
}

// ---- blind index ------------------------------------------------------------------------------------------------------

#[test]
fn equal_values_share_an_index_only_within_one_tenant_column_and_key() {
    let key = BlindIndexKey::from_bytes(Zeroizing::new([1; 32]));
    let other_key = BlindIndexKey::from_bytes(Zeroizing::new([2; 32]));
    let (tenant, column, value) = (TenantId::generate(), "subjects.external_ref", "emp-0042");
    let index = key.index(tenant, column, value);
    assert_eq!(index, key.index(tenant, column, value));
    assert_ne!(index, key.index(TenantId::generate(), column, value));
    assert_ne!(index, key.index(tenant, "subjects.name", value));
    assert_ne!(index, key.index(tenant, column, "emp-0043"));
    assert_ne!(index, key.index(tenant, "subjects.external_refe", "mp-0042"));
    assert_ne!(index, other_key.index(tenant, column, value));
}

// ---- keyring ----------------------------------------------------------------------------------------------------------

/// 32 bytes that nobody would call guessable, but the same in every run.
fn good_key(seed: u8) -> [u8; 32] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(97).wrapping_add((i * i) as u8).wrapping_add(seed))
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn hex_and_base64_mean_the_same_key() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let folder = tempfile::tempdir().unwrap();
    let (hexadecimal, base64) = (folder.path().join("hex.key"), folder.path().join("base64.key"));
    write(&hexadecimal, &hex::encode(good_key(3)), 0o400);
    write(&base64, &format!("{}\n", BASE64_STANDARD.encode(good_key(3))), 0o600);
    assert_eq!(*keyring::read_key(&hexadecimal).unwrap(), good_key(3));
    assert_eq!(*keyring::read_key(&base64).unwrap(), good_key(3));
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    for mode in [0o640, 0o604, 0o644, 0o660] {
        write(&path, &hex::encode(good_key(3)), mode);
        let refused = keyring::read_key(&path).unwrap_err();
        assert!(matches!(refused, KeyringError::OpenToOthers { .. }), "{mode:o}: {refused}");
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    }
}

#[test]
fn a_short_long_or_unreadable_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    let long = hex::encode(good_key(3)) + "00";
    for text in ["", "\n", "secret", &hex::encode(&good_key(3)[..31]), &long, &"g".repeat(64)] {
        write(&path, text, 0o600);
        assert!(matches!(keyring::read_key(&path), Err(KeyringError::NotAKey { .. })), "{text:?}");
    }
    assert!(matches!(keyring::read_key(&folder.path().join("none.key")), Err(KeyringError::Unreadable { .. })));
}

#[test]
fn a_guessable_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    let guessable: [[u8; 32]; 5] = [
        [0; 32],
        [0xab; 32],
        std::array::from_fn(|i| i as u8),
        std::array::from_fn(|i| (i % 4) as u8),
        *b"correct horse battery staple 123",
    ];
    for key in guessable {
        write(&path, &hex::encode(key), 0o600);
        assert!(matches!(keyring::read_key(&path), Err(KeyringError::Weak { .. })), "{key:?}");
    }
}

#[test]
fn the_last_key_by_name_is_current_unless_another_is_named() {
    let secrets = tempfile::tempdir().unwrap();
    for (name, seed) in [("kek/2025-11.key", 1), ("kek/2026-11.key", 2), ("kek/.hidden", 3)] {
        write(&secrets.path().join(name), &hex::encode(good_key(seed)), 0o600);
    }
    let read = |current: Option<&str>| {
        let current = current.map(|id| id.parse::<KekId>().unwrap());
        keyring::read_key_encryption_keys(secrets.path(), current.as_ref())
    };
    let keks = read(None).unwrap();
    assert_eq!(keks.current().as_str(), "2026-11");
    assert_eq!(keks.ids().map(KekId::as_str).collect::<Vec<_>>(), ["2025-11", "2026-11"]);
    assert_eq!(read(Some("2025-11")).unwrap().current().as_str(), "2025-11");
    assert!(matches!(read(Some("2027-11")), Err(KeyringError::CurrentMissing { .. })));
}

#[test]
fn a_folder_without_keys_or_with_a_stranger_in_it_is_refused() {
    let secrets = tempfile::tempdir().unwrap();
    assert!(matches!(keyring::read_key_encryption_keys(secrets.path(), None), Err(KeyringError::Unreadable { .. })));
    fs::create_dir(secrets.path().join("kek")).unwrap();
    assert!(matches!(keyring::read_key_encryption_keys(secrets.path(), None), Err(KeyringError::NoKeys { .. })));
    write(&secrets.path().join("kek/Notes.txt"), "keep out", 0o600);
    assert!(matches!(keyring::read_key_encryption_keys(secrets.path(), None), Err(KeyringError::BadName { .. })));
}
