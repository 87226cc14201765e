//! The three keys of the encryption, each its own file because each goes to other machines.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{SecretsError, files};
use crate::{
    fhe::{
        keys::{CompressedEvaluationKey, KeySet, PublicKey, SecretKeys},
        wire::WireError,
    },
    settings::SECRET_KEY_FILE,
};

pub(super) const PUBLIC: &str = "public.key";
pub(super) const EVALUATION: &str = "evaluation.key";
pub(super) const SECRET: &str = SECRET_KEY_FILE;
pub(super) const FILES: [&str; 3] = [PUBLIC, EVALUATION, SECRET];

/// Encrypts templates and probes.
pub fn read_public_key(folder: &Path) -> Result<PublicKey, SecretsError> {
    read(&folder.join(PUBLIC), PublicKey::from_bytes)
}

/// Compares what is encrypted. Hundreds of milliseconds and about 90 MB once expanded.
pub fn read_evaluation_key(folder: &Path) -> Result<CompressedEvaluationKey, SecretsError> {
    read(&folder.join(EVALUATION), CompressedEvaluationKey::from_bytes)
}

/// Opens decisions. For the keyholder, and for it alone.
pub fn read_secret_keys(folder: &Path) -> Result<SecretKeys, SecretsError> {
    let path = folder.join(SECRET);
    let bytes = files::read_private(&path)?;
    SecretKeys::from_bytes(&bytes).map_err(|source| SecretsError::NotAnFheKey { path, source })
}

/// The public key comes last: where it is, the set was complete, and nothing can have been encrypted before.
pub(super) fn write(folder: &Path, keys: &KeySet) -> Result<(), SecretsError> {
    files::write_private(&folder.join(SECRET), &keys.secret.to_bytes())?;
    files::write_private(&folder.join(EVALUATION), &keys.evaluation.to_bytes())?;
    files::write_private(&folder.join(PUBLIC), &keys.public.to_bytes())
}

/// Another evaluation key for the secret key that lies in `folder`, beside it.
pub fn make_evaluation_key(folder: &Path) -> Result<PathBuf, SecretsError> {
    let secret = read_secret_keys(folder)?;
    let path = folder.join(EVALUATION);
    files::write_private(&path, &secret.new_evaluation_key().to_bytes())?;
    Ok(path)
}

fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, WireError>) -> Result<T, SecretsError> {
    let bytes = fs::read(path).map_err(|source| SecretsError::Unreadable { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|source| SecretsError::NotAnFheKey { path: path.to_owned(), source })
}
