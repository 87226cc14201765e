//! The three keys of the encryption, each its own file because each goes to other machines.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{SecretsError, files};
use crate::{
    fhe::{
        keys::{self, CompressedEvaluationKey, KeySet, PublicKey, SecretKeys},
        rekey::Rekey,
        wire::WireError,
    },
    settings::{RETIRING_KEY_FILE, SECRET_KEY_FILE},
};

pub(super) const PUBLIC: &str = "public.key";
pub(super) const EVALUATION: &str = "evaluation.key";
pub(super) const SECRET: &str = SECRET_KEY_FILE;
const RETIRING: &str = RETIRING_KEY_FILE;
const REKEY: &str = "rekey.key";
/// Folder in which the next set is made.
const NEXT: &str = "next";
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
    secret_at(&folder.join(SECRET))
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

/// The way of older templates to the key in use; there only while keys are changed.
pub fn read_rekey(folder: &Path) -> Result<Option<Rekey>, SecretsError> {
    let path = folder.join(REKEY);
    if path.exists() { read(&path, Rekey::from_bytes).map(Some) } else { Ok(None) }
}

/// The secret before the one in use; there only while keys are changed.
pub fn read_retiring_secret(folder: &Path) -> Result<Option<SecretKeys>, SecretsError> {
    let path = folder.join(RETIRING);
    if path.exists() { secret_at(&path).map(Some) } else { Ok(None) }
}

/// Makes the next key set where the secret key lies, with the way from the old key to it. The secret before stays as
/// `retiring.key`. Everything is made in a folder beside and moved from there; what a crash interrupts, the next call finishes.
pub fn begin_fhe_rotation(folder: &Path) -> Result<Rekey, SecretsError> {
    let next = folder.join(NEXT);
    if !next.join(PUBLIC).exists() {
        for path in [REKEY, RETIRING].map(|name| folder.join(name)) {
            if path.exists() {
                return Err(SecretsError::Exists { path });
            }
        }
        make_next(folder, &next)?;
    }
    move_in(folder, &next)?;
    read_rekey(folder)?
        .ok_or_else(|| SecretsError::Unreadable { path: folder.join(REKEY), source: io::ErrorKind::NotFound.into() })
}

fn make_next(folder: &Path, next: &Path) -> Result<(), SecretsError> {
    let old = read_secret_keys(folder)?;
    if next.exists() {
        // Of a call that was interrupted: nothing was ever encrypted under it.
        fs::remove_dir_all(next).map_err(|source| SecretsError::Unwritable { path: next.to_owned(), source })?;
    }
    let keys = keys::generate();
    files::write_private(&next.join(REKEY), &old.rekey_to(&keys.secret).to_bytes())?;
    write(next, &keys)
}

/// The secrets change places first and the public key last: until it is moved, this can be called again.
fn move_in(folder: &Path, next: &Path) -> Result<(), SecretsError> {
    if next.join(SECRET).exists() && folder.join(SECRET).exists() {
        files::rename(&folder.join(SECRET), &folder.join(RETIRING))?;
    }
    for name in [SECRET, REKEY, EVALUATION, PUBLIC] {
        if next.join(name).exists() {
            files::rename(&next.join(name), &folder.join(name))?;
        }
    }
    fs::remove_dir(next).map_err(|source| SecretsError::Unwritable { path: next.to_owned(), source })
}

/// Destroys the secret before and the way from it. What of the two was here.
pub fn finish_fhe_rotation(folder: &Path) -> Result<Vec<PathBuf>, SecretsError> {
    let here: Vec<_> =
        [RETIRING, REKEY].map(|name| folder.join(name)).into_iter().filter(|path| path.exists()).collect();
    here.iter().try_for_each(|path| files::destroy(path))?;
    Ok(here)
}

fn secret_at(path: &Path) -> Result<SecretKeys, SecretsError> {
    let bytes = files::read_private(path)?;
    SecretKeys::from_bytes(&bytes).map_err(|source| SecretsError::NotAnFheKey { path: path.to_owned(), source })
}

fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, WireError>) -> Result<T, SecretsError> {
    let bytes = fs::read(path).map_err(|source| SecretsError::Unreadable { path: path.to_owned(), source })?;
    parse(&bytes).map_err(|source| SecretsError::NotAnFheKey { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let (entry, target) = (entry.path(), to.join(entry.file_name()));
            match entry.is_dir() {
                true => copy(&entry, &target),
                false => assert!(fs::copy(entry, target).is_ok()),
            }
        }
    }

    /// Every state that a crash can leave behind, by doing the first steps by hand.
    #[test]
    fn a_rotation_that_was_interrupted_anywhere_is_finished_by_the_next_call() {
        let made = tempfile::tempdir().unwrap();
        let (folder, next) = (made.path().join("fhe"), made.path().join("fhe/next"));
        let old = keys::generate();
        write(&folder, &old).unwrap();
        make_next(&folder, &next).unwrap();
        let old = old.public.key_id();
        let new = read_public_key(&next).unwrap().key_id();

        let steps = [(SECRET, RETIRING), ("next/secret.key", SECRET), ("next/rekey.key", REKEY)];
        let steps = steps.into_iter().chain([("next/evaluation.key", EVALUATION)]).collect::<Vec<_>>();
        for done in 0..=steps.len() {
            let left = tempfile::tempdir().unwrap();
            let folder = left.path().join("fhe");
            copy(&made.path().join("fhe"), &folder);
            for (from, to) in &steps[..done] {
                fs::rename(folder.join(from), folder.join(to)).unwrap();
            }
            let rekey = begin_fhe_rotation(&folder).unwrap();
            assert_eq!((rekey.from(), rekey.to()), (old, new), "after {done} steps");
            assert_eq!(read_retiring_secret(&folder).unwrap().unwrap().key_id(), old);
            assert!(read_secret_keys(&folder).unwrap().belong_to(&read_public_key(&folder).unwrap()));
            assert_eq!(read_evaluation_key(&folder).unwrap().key_id(), new);
            assert!(!folder.join(NEXT).exists());
            let refused = begin_fhe_rotation(&folder).err();
            assert!(matches!(refused, Some(SecretsError::Exists { .. })), "one rotation at a time");

            assert_eq!(finish_fhe_rotation(&folder).unwrap(), [folder.join(RETIRING), folder.join(REKEY)]);
            assert!(read_rekey(&folder).unwrap().is_none() && read_retiring_secret(&folder).unwrap().is_none());
            assert_eq!(finish_fhe_rotation(&folder).unwrap(), [] as [PathBuf; 0]);
        }

        // Before the public key is there, nothing counts: it is made anew.
        let left = tempfile::tempdir().unwrap();
        let folder = left.path().join("fhe");
        copy(&made.path().join("fhe"), &folder);
        fs::remove_file(folder.join("next/public.key")).unwrap();
        let rekey = begin_fhe_rotation(&folder).unwrap();
        assert!(rekey.from() == old && rekey.to() != new && rekey.to() == read_public_key(&folder).unwrap().key_id());
    }
}
