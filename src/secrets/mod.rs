//! The keys on disk: made on first start in the embedded mode, brought by the operator in production.
//!
//! ```text
//! <secrets>/jwt/<moment>.pem            signs access tokens from that moment on; all of them verify
//! <secrets>/evidence/<moment>.pem       the same for receipts, certificates and checkpoints; none is ever removed
//! <secrets>/client_secret_pepper.key    keyed hash of client secrets
//! <secrets>/blind_index.key             keyed hash of external references
//! <secrets>/kek/<id>.key                wraps the subjects' data keys
//! <fhe>/public.key, evaluation.key      encrypt and compare; on every server
//! <fhe>/secret.key                      opens decisions; at the keyholder alone
//! <fhe>/rekey.key, retiring.key         while keys are changed: the way from the key before, and (at the keyholder) that key
//! ```
//! A file that others can read, a weak key, or one key used for two purposes stops the start with a sentence that names it.

mod fhe;
mod files;
mod make;
mod signing_keys;

use std::{
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use self::{
    fhe::{
        begin_fhe_rotation, finish_fhe_rotation, make_evaluation_key, read_evaluation_key, read_public_key, read_rekey,
        read_retiring_secret, read_secret_keys,
    },
    files::{create_private_folder, write_private},
    make::{Kind, Made, ensure_development, existing, fresh_kek_name, kek_file, make, remove_kek},
    signing_keys::{Rotation, Signs, read_signing_keys, rotate_signing_keys, signing_key_name},
};
use crate::{
    auth::{
        client_secret::Pepper,
        evidence::EvidenceKeys,
        jwt::{SigningKey, SigningKeyError, SigningKeys},
    },
    fhe::wire::WireError,
    settings::{SecretText, SecretsSettings},
    vault::{
        BlindIndexKey,
        keyring::{self, KeyTextError, Keyring, KeyringError},
    },
};

const PEPPER: &str = "client_secret_pepper.key";
const BLIND_INDEX: &str = "blind_index.key";
const KEKS: &str = "kek";

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("{} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}", path = path.display())]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("{} is there already and is never overwritten; move it away to make another", path.display())]
    Exists { path: PathBuf },
    #[error("{} is not named by the moment from which it signs, such as 20261231T235959Z.pem", path.display())]
    SigningKeyName { path: PathBuf },
    #[error("there is no signing key in {}; make one with: velum keys generate --kind {kind}", folder.display())]
    NoSigningKey { folder: PathBuf, kind: &'static str },
    #[error("{place} is no signing key")]
    SigningKey { place: String, source: SigningKeyError },
    #[error(transparent)]
    KeyFile(#[from] KeyringError),
    #[error("{variable} is no key")]
    KeyText { variable: &'static str, source: KeyTextError },
    #[error("{one} and {other} are the same key; each purpose needs its own")]
    Shared { one: String, other: String },
    #[error("{} is not the key that its name says", path.display())]
    NotAnFheKey { path: PathBuf, source: WireError },
    #[error(
        "{} is there, but the keys it was made with are not: {} is missing; put it back, or remove both to start anew",
        data.display(), key.display()
    )]
    KeysLost { data: PathBuf, key: PathBuf },
}

/// What a server holds besides the keys of the encryption itself.
pub struct Secrets {
    pub signing_keys: SigningKeys,
    pub evidence_keys: EvidenceKeys,
    pub pepper: Pepper,
    pub blind_index: BlindIndexKey,
    pub key_encryption_keys: Keyring,
}

impl Secrets {
    pub fn read(settings: &SecretsSettings) -> Result<Self, SecretsError> {
        let dir = &settings.dir;
        let signing_keys = match &settings.jwt_signing_key {
            Some(text) => SigningKeys::single(signing_key("VELUM_JWT_SIGNING_KEY", text.expose_text())?),
            None => read_signing_keys(Signs::Tokens, dir)?,
        };
        let evidence_keys = read_signing_keys(Signs::Evidence, dir)?;
        if evidence_keys.kids().any(|kid| signing_keys.kids().any(|other| other == kid)) {
            let folder = |signs: Signs| format!("a key in {}", dir.join(signs.folder()).display());
            return Err(SecretsError::Shared {
                one: folder(Signs::Evidence),
                other: "one for access tokens".to_owned(),
            });
        }
        let pepper = key(settings.client_secret_pepper.as_ref(), "VELUM_CLIENT_SECRET_PEPPER", &dir.join(PEPPER))?;
        let blind_index = key(settings.blind_index_key.as_ref(), "VELUM_BLIND_INDEX_KEY", &dir.join(BLIND_INDEX))?;
        let key_encryption_keys = Keyring::read(dir, settings.kek_current.as_ref())?;

        let mut used = vec![pepper.fingerprint(), blind_index.fingerprint()];
        for id in key_encryption_keys.keys().ids() {
            used.push(key(None, "", &dir.join(KEKS).join(format!("{id}.key")))?.fingerprint());
        }
        one_purpose_each(used)?;
        Ok(Self {
            signing_keys,
            evidence_keys: EvidenceKeys::new(evidence_keys),
            pepper: Pepper::new(pepper.bytes),
            blind_index: BlindIndexKey::from_bytes(blind_index.bytes),
            key_encryption_keys,
        })
    }
}

/// The key-encryption keys alone: what it takes to re-wrap data keys.
pub fn read_keyring(settings: &SecretsSettings) -> Result<Keyring, SecretsError> {
    Ok(Keyring::read(&settings.dir, settings.kek_current.as_ref())?)
}

/// A key with the place it came from, as a sentence would name it.
struct PlacedKey {
    place: String,
    bytes: Zeroizing<[u8; 32]>,
}

impl PlacedKey {
    fn fingerprint(&self) -> (String, [u8; 32]) {
        (self.place.clone(), Sha256::digest(self.bytes.as_slice()).into())
    }
}

fn key(given: Option<&SecretText>, variable: &'static str, path: &Path) -> Result<PlacedKey, SecretsError> {
    match given {
        Some(text) => {
            let bytes = keyring::key_from_text(text.expose_text().as_bytes())
                .map_err(|source| SecretsError::KeyText { variable, source })?;
            Ok(PlacedKey { place: variable.to_owned(), bytes })
        }
        None => Ok(PlacedKey { place: path.display().to_string(), bytes: keyring::read_key(path)? }),
    }
}

fn one_purpose_each(used: Vec<(String, [u8; 32])>) -> Result<(), SecretsError> {
    for (position, (one, fingerprint)) in used.iter().enumerate() {
        if let Some((other, _)) = used[position + 1..].iter().find(|(_, another)| another == fingerprint) {
            return Err(SecretsError::Shared { one: one.clone(), other: other.clone() });
        }
    }
    Ok(())
}

fn signing_key(place: &str, pem: &str) -> Result<SigningKey, SecretsError> {
    SigningKey::from_pem(pem).map_err(|source| SecretsError::SigningKey { place: place.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;
    use time::{OffsetDateTime, macros::datetime};

    use super::*;
    use crate::settings::{DEVELOPMENT_MARKER, Settings};

    const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

    struct House {
        folder: TempDir,
        settings: Settings,
    }

    const TOKEN_KEYS: [&str; 2] = [
        include_str!("../../tests/fixtures/keys/test_only_rsa_2048_one.pem"),
        include_str!("../../tests/fixtures/keys/test_only_rsa_2048_two.pem"),
    ];
    const LONG_KEY: &str = include_str!("../../tests/fixtures/keys/test_only_rsa_3072_one.pem");

    const TOKEN_KEY: &str = "jwt/20261120T120000Z.pem";
    const EVIDENCE_KEY: &str = "evidence/20261120T120000Z.pem";

    /// A house with every key but those of the encryption, which take a second.
    fn house() -> House {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::embedded(&folder.path().join("data")).unwrap();
        write_private(&settings.secrets.dir.join(TOKEN_KEY), TOKEN_KEYS[0].as_bytes()).unwrap();
        write_private(&settings.secrets.dir.join(EVIDENCE_KEY), LONG_KEY.as_bytes()).unwrap();
        for kind in [Kind::Kek, Kind::Pepper, Kind::BlindIndex] {
            make(kind, &settings.secrets.dir, &settings.secrets.fhe_dir, NOW).unwrap();
        }
        House { folder, settings }
    }

    fn refusal(settings: &Settings) -> String {
        Secrets::read(&settings.secrets).err().unwrap().to_string()
    }

    fn modes_below(folder: &Path) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            found.push((entry.path().display().to_string(), entry.metadata().unwrap().permissions().mode() & 0o777));
            if entry.path().is_dir() {
                found.extend(modes_below(&entry.path()));
            }
        }
        found
    }

    #[test]
    fn a_first_start_makes_every_key_and_a_second_start_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::embedded(&folder.path().join("data")).unwrap();
        let made = ensure_development(&settings, NOW).unwrap();
        assert_eq!(made.iter().map(|made| made.kind).collect::<Vec<_>>(), Kind::ALL);
        let kid = Secrets::read(&settings.secrets).unwrap().signing_keys.jwks().keys[0].kid.clone();

        assert_eq!(ensure_development(&settings, NOW).unwrap(), []);
        assert_eq!(Secrets::read(&settings.secrets).unwrap().signing_keys.jwks().keys[0].kid, kid);
        let fhe_dir = &settings.secrets.fhe_dir;
        let key = read_public_key(fhe_dir).unwrap().key_id();
        assert_eq!(read_evaluation_key(fhe_dir).unwrap().key_id(), key);
        assert_eq!(read_secret_keys(fhe_dir).unwrap().key_id(), key);

        for (path, mode) in modes_below(&settings.secrets.dir).into_iter().chain(modes_below(fhe_dir)) {
            assert!(mode == 0o600 || mode == 0o700, "{path} has mode {mode:o}");
        }
        assert!(settings.secrets.dir.join(DEVELOPMENT_MARKER).is_file() && fhe_dir.join(DEVELOPMENT_MARKER).is_file());
    }

    #[test]
    fn a_missing_or_open_file_is_named() {
        let missing = [
            (TOKEN_KEY, "--kind jwt"),
            (EVIDENCE_KEY, "--kind evidence"),
            (PEPPER, PEPPER),
            (BLIND_INDEX, BLIND_INDEX),
        ];
        for (name, missed) in missing {
            let house = house();
            let path = house.settings.secrets.dir.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(refusal(&house.settings).contains("chmod 600"), "{name}");
            fs::remove_file(&path).unwrap();
            assert!(refusal(&house.settings).contains(missed), "{name}");
        }
    }

    #[test]
    fn weak_and_wrong_keys_stop_the_start() {
        let zeros = "00".repeat(32);
        let text = hex::encode("correct horse battery staple 123");
        for bad in ["", "changeme", "password", &zeros, &text, &"ab".repeat(32), &"ab".repeat(16), "c2hvcnQ="] {
            let house = house();
            let path = house.settings.secrets.dir.join(PEPPER);
            fs::write(&path, bad).unwrap();
            assert!(refusal(&house.settings).contains(PEPPER), "{bad:?}");
        }
        let house = house();
        fs::write(house.settings.secrets.dir.join(TOKEN_KEY), hex::encode([7; 32])).unwrap();
        assert!(refusal(&house.settings).contains("is no signing key"));
    }

    #[test]
    fn one_key_for_two_purposes_stops_the_start() {
        let house = house();
        let dir = &house.settings.secrets.dir;
        fs::copy(dir.join(PEPPER), dir.join(BLIND_INDEX)).unwrap();
        assert!(refusal(&house.settings).contains("are the same key"));
        fs::copy(dir.join(KEKS).join("2026-11-20.key"), dir.join(BLIND_INDEX)).unwrap();
        assert!(refusal(&house.settings).contains("are the same key"));
    }

    #[test]
    fn a_setting_takes_the_place_of_a_file() {
        let House { folder, settings } = house();
        let elsewhere = folder.path().join("pepper");
        fs::rename(settings.secrets.dir.join(PEPPER), &elsewhere).unwrap();
        assert!(Secrets::read(&settings.secrets).is_err());
        let with = |value: &str| {
            let data = settings.data_dir.display().to_string();
            let variables = [("VELUM_DATA_DIR", data.as_str()), ("VELUM_CLIENT_SECRET_PEPPER_FILE", value)];
            Settings::read(variables.map(|(name, value)| (name.into(), value.into())), crate::settings::Role::Serve)
        };
        let given = with(&elsewhere.display().to_string()).settings.unwrap();
        assert!(Secrets::read(&given.secrets).is_ok());
        fs::write(&elsewhere, "changeme").unwrap();
        let weak = with(&elsewhere.display().to_string()).settings.unwrap();
        assert!(refusal(&weak).contains("VELUM_CLIENT_SECRET_PEPPER"));
    }

    #[test]
    fn evidence_is_signed_by_a_long_key_that_signs_nothing_else() {
        let house = house();
        let dir = &house.settings.secrets.dir;
        fs::write(dir.join(EVIDENCE_KEY), TOKEN_KEYS[1]).unwrap();
        assert!(refusal(&house.settings).contains(EVIDENCE_KEY), "2,048 bits are too few");
        fs::write(dir.join(EVIDENCE_KEY), LONG_KEY).unwrap();
        assert!(Secrets::read(&house.settings.secrets).is_ok());
        fs::write(dir.join(TOKEN_KEY), LONG_KEY).unwrap();
        assert!(refusal(&house.settings).contains("are the same key"));
    }

    #[test]
    fn every_token_key_is_published() {
        let house = house();
        let dir = &house.settings.secrets.dir;
        write_private(&dir.join("jwt/20261120T130000Z.pem"), TOKEN_KEYS[1].as_bytes()).unwrap();
        assert_eq!(Secrets::read(&house.settings.secrets).unwrap().signing_keys.jwks().keys.len(), 2);
    }

    #[test]
    fn a_second_key_encryption_key_of_a_day_sorts_after_the_first_and_wraps() {
        let house = house();
        let secrets = &house.settings.secrets;
        make(Kind::Kek, &secrets.dir, &secrets.fhe_dir, NOW).unwrap();
        make(Kind::Kek, &secrets.dir, &secrets.fhe_dir, NOW).unwrap();
        let keys = Secrets::read(secrets).unwrap().key_encryption_keys.keys();
        let ids: Vec<&str> = keys.ids().map(|id| id.as_str()).collect();
        assert_eq!(ids, ["2026-11-20", "2026-11-20-02", "2026-11-20-03"]);
        assert_eq!(keys.current().as_str(), "2026-11-20-03");
    }

    #[test]
    fn what_is_left_of_a_key_set_is_neither_replaced_nor_removed() {
        let house = house();
        let settings = &house.settings;
        let secret = settings.secrets.fhe_dir.join("secret.key");
        write_private(&secret, b"precious").unwrap();
        assert_eq!(ensure_development(settings, NOW).unwrap(), []);
        assert_eq!(fs::read(&secret).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&settings.secrets.fhe_dir).unwrap().count(), 1);
        let refused = make(Kind::Fhe, &settings.secrets.dir, &settings.secrets.fhe_dir, NOW);
        assert!(matches!(refused, Err(SecretsError::Exists { .. })));
    }

    #[test]
    fn a_draft_that_a_crash_left_is_no_key() {
        let house = house();
        let keks = house.settings.secrets.dir.join(KEKS);
        fs::rename(keks.join("2026-11-20.key"), keks.join(".2026-11-20.key.1.new")).unwrap();
        assert!(existing(Kind::Kek, &house.settings.secrets.dir, &house.settings.secrets.fhe_dir).is_none());
    }

    #[test]
    fn a_database_without_its_keys_is_a_loss_and_not_a_first_start() {
        let house = house();
        let settings = &house.settings;
        fs::write(settings.data_dir.join("keystore.db"), "rows").unwrap();
        fs::remove_dir_all(settings.secrets.dir.join(KEKS)).unwrap();
        let error = ensure_development(settings, NOW).unwrap_err();
        assert!(matches!(&error, SecretsError::KeysLost { .. }), "{error}");
        assert!(!settings.secrets.dir.join(KEKS).exists());
    }

    #[test]
    fn a_key_that_is_there_is_not_made_again() {
        let house = house();
        let settings = &house.settings;
        for kind in [Kind::Jwt, Kind::Evidence, Kind::Pepper, Kind::BlindIndex] {
            let outcome = make(kind, &settings.secrets.dir, &settings.secrets.fhe_dir, NOW);
            assert!(matches!(outcome, Err(SecretsError::Exists { .. })), "{kind}");
        }
    }
}
