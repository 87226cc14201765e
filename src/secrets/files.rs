//! Private files: mode 0600 in folders of mode 0700, written whole or not at all, never overwritten.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use super::SecretsError;

/// Puts a new file in place in one step. A reader, or a start after a power cut, sees all of it or none of it.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SecretsError> {
    let unwritable = |source| SecretsError::Unwritable { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_private_folder(folder)?;

    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_whole(&draft, bytes).and_then(|()| fs::hard_link(&draft, path));
    // The draft is a second name of the same file, or what is left of an attempt: it goes in either case.
    let removed = fs::remove_file(&draft);
    match written {
        Ok(()) => removed.and_then(|()| File::open(folder)?.sync_all()).map_err(unwritable),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(SecretsError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(unwritable(error)),
    }
}

fn write_whole(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    // A draft of a process with our id is left from a crash: that process is gone.
    _ = fs::remove_file(draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Overwrites a file and removes it: what a copy-on-write file system or a flash disk keeps of it is beyond a program.
pub fn destroy(path: &Path) -> Result<(), SecretsError> {
    let unwritable = |source| SecretsError::Unwritable { path: path.to_owned(), source };
    let destroyed = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        let length = file.metadata()?.len() as usize;
        file.write_all(&vec![0; length])?;
        file.sync_all()?;
        fs::remove_file(path)
    });
    destroyed.map_err(unwritable)
}

/// Moves a file to another name in one step, in place of what is there.
pub fn rename(from: &Path, to: &Path) -> Result<(), SecretsError> {
    let unwritable = |source| SecretsError::Unwritable { path: to.to_owned(), source };
    fs::rename(from, to).map_err(unwritable)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)
}

pub fn create_private_folder(path: &Path) -> Result<(), SecretsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| SecretsError::Unwritable { path: path.to_owned(), source })
}

/// Reads a file that must be its owner's alone.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    let unreadable = |source| SecretsError::Unreadable { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretsError::OpenToOthers { path: path.to_owned(), mode });
    }
    fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_private_file_is_its_owners_alone_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/one.key");
        write_private(&path, b"secret").unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(read_private(&path).unwrap().as_slice(), b"secret");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.key");
        write_private(&path, b"first").unwrap();
        assert!(matches!(write_private(&path, b"second"), Err(SecretsError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.key");
        write_private(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read_private(&path), Err(SecretsError::OpenToOthers { mode: 0o640, .. })));
    }
}
