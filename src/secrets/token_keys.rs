//! The folder of the token keys: `<secrets>/jwt/<moment>.pem`, the name saying from when the key signs.
//!
//! A rotation is a file more and, later, a file less. Processes look into the folder every few seconds, so that a key that
//! is to begin in ten minutes is known to all of them, and to whoever reads the key set, long before a token bears its name.

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
use crate::auth::jwt::{DatedKey, SigningKey, SigningKeys, TokenLifetime};

const FOLDER: &str = "jwt";
const NAME: StaticFormatDescription = format_description!("[year][month][day]T[hour][minute][second]Z");

/// A key whose successor began so long ago has no living token: the longest life, and room for clocks and late requests.
const KEPT_AFTER_SUCCESSION: Duration = Duration::seconds(TokenLifetime::MAX.as_seconds() as i64 + 300);

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub made: PathBuf,
    pub signs_from: OffsetDateTime,
    pub removed: Vec<PathBuf>,
}

pub(super) fn path_of(secrets_dir: &Path, signs_from: OffsetDateTime) -> PathBuf {
    let name = signs_from.to_offset(time::UtcOffset::UTC).format(NAME).unwrap_or_default();
    secrets_dir.join(FOLDER).join(format!("{name}.pem"))
}

/// Every key file, the earliest to sign first. None where the folder is not there.
pub(super) fn files(secrets_dir: &Path) -> Result<Vec<(OffsetDateTime, PathBuf)>, SecretsError> {
    let folder = secrets_dir.join(FOLDER);
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

/// The keys of the folder, ready to use.
pub fn read_token_keys(secrets_dir: &Path) -> Result<SigningKeys, SecretsError> {
    let keys = files(secrets_dir)?.into_iter().map(|(signs_from, path)| {
        let pem = Zeroizing::new(String::from_utf8_lossy(&files::read_private(&path)?).into_owned());
        let key = SigningKey::from_pem(&pem);
        let key = key.map_err(|source| SecretsError::SigningKey { place: path.display().to_string(), source })?;
        Ok(DatedKey { signs_from, key })
    });
    let keys = keys.collect::<Result<Vec<_>, SecretsError>>()?;
    SigningKeys::new(keys).ok_or_else(|| SecretsError::NoTokenKey { folder: secrets_dir.join(FOLDER) })
}

/// Makes the next key, which begins to sign `after` from now, and removes those that no living token was signed with.
pub fn rotate_token_keys(secrets_dir: &Path, now: OffsetDateTime, after: Duration) -> Result<Rotation, SecretsError> {
    let signs_from = now + after;
    let made = path_of(secrets_dir, signs_from);
    files::write_private(&made, SigningKey::generate_pem().as_bytes())?;
    let files = files(secrets_dir)?;
    let mut removed = Vec::new();
    for pair in files.windows(2) {
        if pair[1].0 + KEPT_AFTER_SUCCESSION < now {
            let path = pair[0].1.clone();
            fs::remove_file(&path).map_err(|source| SecretsError::Unwritable { path: path.clone(), source })?;
            removed.push(path);
        }
    }
    Ok(Rotation { made, signs_from, removed })
}

fn signs_from(path: &Path) -> Result<OffsetDateTime, SecretsError> {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let moment = PrimitiveDateTime::parse(name, NAME).map(PrimitiveDateTime::assume_utc);
    moment.map_err(|_| SecretsError::TokenKeyName { path: path.to_owned() })
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
        let first = rotate_token_keys(folder.path(), NOW, Duration::ZERO).unwrap();
        assert!(first.made.ends_with("jwt/20261121T030000Z.pem"));
        let second = rotate_token_keys(folder.path(), NOW + minutes(60), minutes(10)).unwrap();
        assert_eq!((second.signs_from, second.removed), (NOW + minutes(70), vec![]));
        // Twenty minutes after the second began, tokens of the first may just live.
        let third = rotate_token_keys(folder.path(), NOW + minutes(90), minutes(10)).unwrap();
        assert_eq!(third.removed, [] as [PathBuf; 0]);
        let fourth = rotate_token_keys(folder.path(), NOW + minutes(91), minutes(10)).unwrap();
        assert_eq!(fourth.removed, [first.made]);
        assert_eq!(read_token_keys(folder.path()).unwrap().jwks().keys.len(), 3);
    }

    #[test]
    fn a_file_whose_name_is_no_moment_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        files::write_private(&folder.path().join("jwt/mine.pem"), b"x").unwrap();
        let refusal = read_token_keys(folder.path()).err().unwrap().to_string();
        assert!(refusal.contains("mine.pem") && refusal.contains("20261231T235959Z.pem"), "{refusal}");
    }
}
