//! The folders of the signing keys: `<secrets>/<folder>/<moment>.pem`, the name saying from when the key signs.
//!
//! A rotation is a file more and, for access tokens, later a file less. Processes look into the folders every few seconds, so
//! that a key that is to begin in ten minutes is known to all of them, and to whoever reads the key set, long before anything
//! bears its name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use time::{
    Duration, OffsetDateTime, PrimitiveDateTime, format_description::StaticFormatDescription,
    macros::format_description,
};
use zeroize::Zeroizing;

use super::{SecretsError, files};
use crate::auth::{
    evidence,
    jwt::{self, DatedKey, SigningKey, SigningKeys, TokenLifetime},
};

const NAME: StaticFormatDescription = format_description!("[year][month][day]T[hour][minute][second]Z");

/// A token key whose successor began so long ago has no living token: the longest life, and room for clocks and late requests.
const TOKEN_KEY_KEPT: Duration = Duration::seconds(TokenLifetime::MAX.as_seconds() as i64 + 300);

/// What a folder of keys signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signs {
    Tokens,
    /// Receipts, certificates, checkpoints.
    Evidence,
}

impl Signs {
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Tokens => "jwt",
            Self::Evidence => "evidence",
        }
    }

    fn modulus_bits_min(self) -> usize {
        match self {
            Self::Tokens => jwt::MODULUS_BITS_MIN,
            Self::Evidence => evidence::MODULUS_BITS_MIN,
        }
    }

    /// How long a key stays after its successor began. Documents are checked for years, so their keys stay.
    fn kept_after_succession(self) -> Option<Duration> {
        match self {
            Self::Tokens => Some(TOKEN_KEY_KEPT),
            Self::Evidence => None,
        }
    }
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub made: PathBuf,
    pub signs_from: OffsetDateTime,
    pub removed: Vec<PathBuf>,
}

pub(super) fn path_of(signs: Signs, secrets_dir: &Path, signs_from: OffsetDateTime) -> PathBuf {
    secrets_dir.join(signs.folder()).join(format!("{}.pem", signing_key_name(signs_from)))
}

/// A key is named by the moment from which it signs.
pub fn signing_key_name(signs_from: OffsetDateTime) -> String {
    signs_from.to_offset(time::UtcOffset::UTC).format(NAME).unwrap_or_default()
}

/// Every key file, the earliest to sign first. None where the folder is not there.
pub(super) fn files(signs: Signs, secrets_dir: &Path) -> Result<Vec<(OffsetDateTime, PathBuf)>, SecretsError> {
    let folder = secrets_dir.join(signs.folder());
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let unreadable = |source| SecretsError::Unreadable { path: folder.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "pem")
            && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        {
            found.push((signs_from(&path)?, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The keys of a folder, ready to use.
pub fn read_signing_keys(signs: Signs, secrets_dir: &Path) -> Result<SigningKeys, SecretsError> {
    let keys = files(signs, secrets_dir)?.into_iter().map(|(signs_from, path)| {
        let pem = Zeroizing::new(String::from_utf8_lossy(&files::read_private(&path)?).into_owned());
        let key = SigningKey::from_pem_of(&pem, signs.modulus_bits_min());
        let key = key.map_err(|source| SecretsError::SigningKey { place: path.display().to_string(), source })?;
        Ok(DatedKey { signs_from, key })
    });
    let keys = keys.collect::<Result<Vec<_>, SecretsError>>()?;
    let kind = signs.folder();
    SigningKeys::new(keys).ok_or_else(|| SecretsError::NoSigningKey { folder: secrets_dir.join(kind), kind })
}

/// Makes the next key, which begins to sign `after` from now, and removes those that nothing alive was signed with.
pub fn rotate_signing_keys(
    signs: Signs,
    secrets_dir: &Path,
    now: OffsetDateTime,
    after: Duration,
) -> Result<Rotation, SecretsError> {
    let signs_from = now + after;
    let made = path_of(signs, secrets_dir, signs_from);
    files::write_private(&made, SigningKey::generate_pem().as_bytes())?;
    let mut removed = Vec::new();
    if let Some(kept) = signs.kept_after_succession() {
        for pair in files(signs, secrets_dir)?.windows(2) {
            if pair[1].0 + kept < now {
                let path = pair[0].1.clone();
                fs::remove_file(&path).map_err(|source| SecretsError::Unwritable { path: path.clone(), source })?;
                removed.push(path);
            }
        }
    }
    Ok(Rotation { made, signs_from, removed })
}

fn signs_from(path: &Path) -> Result<OffsetDateTime, SecretsError> {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let moment = PrimitiveDateTime::parse(name, NAME).map(PrimitiveDateTime::assume_utc);
    moment.map_err(|_| SecretsError::SigningKeyName { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 03:00 UTC);

    #[test]
    fn a_rotation_adds_a_later_key_and_removes_what_signs_no_living_token() {
        let folder = tempfile::tempdir().unwrap();
        let minutes = Duration::minutes;
        let rotate = |now, after| rotate_signing_keys(Signs::Tokens, folder.path(), now, after).unwrap();
        let first = rotate(NOW, Duration::ZERO);
        assert!(first.made.ends_with("jwt/20261121T030000Z.pem"));
        let second = rotate(NOW + minutes(60), minutes(10));
        assert_eq!((second.signs_from, second.removed), (NOW + minutes(70), vec![]));
        // Twenty minutes after the second began, tokens of the first may just live.
        let third = rotate(NOW + minutes(90), minutes(10));
        assert_eq!(third.removed, [] as [PathBuf; 0]);
        let fourth = rotate(NOW + minutes(91), minutes(10));
        assert_eq!(fourth.removed, [first.made]);
        assert_eq!(read_signing_keys(Signs::Tokens, folder.path()).unwrap().jwks().keys.len(), 3);
    }

    #[test]
    fn a_key_that_signed_evidence_stays_however_old() {
        let folder = tempfile::tempdir().unwrap();
        let rotate = |now| rotate_signing_keys(Signs::Evidence, folder.path(), now, Duration::ZERO).unwrap();
        let first = rotate(NOW);
        assert!(first.made.ends_with("evidence/20261121T030000Z.pem"));
        let second = rotate(NOW + Duration::days(3650));
        assert_eq!(second.removed, [] as [PathBuf; 0]);
        assert_eq!(read_signing_keys(Signs::Evidence, folder.path()).unwrap().jwks().keys.len(), 2);
    }

    #[test]
    fn a_file_whose_name_is_no_moment_is_refused_by_name() {
        for signs in [Signs::Tokens, Signs::Evidence] {
            let folder = tempfile::tempdir().unwrap();
            files::write_private(&folder.path().join(signs.folder()).join("mine.pem"), b"x").unwrap();
            let refusal = read_signing_keys(signs, folder.path()).err().unwrap().to_string();
            assert!(refusal.contains("mine.pem") && refusal.contains("20261231T235959Z.pem"), "{refusal}");
        }
    }
}
