//! A pack as a folder: files, a manifest with the hash of each, and the manifest's signature. Whoever has the public evidence
//! keys can tell, without the service, that nothing in it was changed, added or taken away.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::StaticFormatDescription, macros::format_description};

use crate::{
    audit::stamp,
    auth::evidence::{Document, EvidenceError, EvidenceKeys, EvidenceNotSigned, EvidenceVerifier},
};

const FORMAT: &str = "velum-evidence-pack-1";
const MANIFEST: &str = "manifest.json";
/// The same, signed.
const SIGNED: &str = "manifest.jws";
const NAME: StaticFormatDescription = format_description!("evidence-[year][month][day]T[hour][minute][second]Z");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    /// The service, as its access tokens name it.
    pub iss: String,
    /// Seconds since 1970.
    pub iat: i64,
    pub at: String,
    /// Version of the program.
    pub program: String,
    /// Whose figures these are; absent: all tenants'.
    pub tenant_id: Option<String>,
    pub files: Vec<PackedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFile {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{} is there already and is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error(transparent)]
    NotSigned(#[from] EvidenceNotSigned),
}

/// A folder that is being filled. Without its manifest, which comes last, it proves nothing.
pub struct Pack {
    folder: PathBuf,
    at: OffsetDateTime,
    files: Vec<PackedFile>,
}

impl Pack {
    /// A new folder in `parent`, named by the moment, which its owner alone can read.
    pub fn begin(parent: &Path, at: OffsetDateTime) -> Result<Self, PackError> {
        let name = at.to_offset(time::UtcOffset::UTC).format(NAME).unwrap_or_default();
        let folder = parent.join(name);
        let made = fs::create_dir_all(parent).and_then(|()| fs::DirBuilder::new().mode(0o700).create(&folder));
        made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => PackError::Exists { path: folder.clone() },
            _ => PackError::Unwritable { path: folder.clone(), source },
        })?;
        Ok(Self { folder, at, files: vec![] })
    }

    pub fn add(&mut self, name: &str, content: &[u8]) -> Result<(), PackError> {
        self.write(name, content)?;
        let sha256 = hex::encode(Sha256::digest(content));
        self.files.push(PackedFile { name: name.to_owned(), bytes: content.len() as u64, sha256 });
        Ok(())
    }

    pub fn add_json(&mut self, name: &str, content: &Value) -> Result<(), PackError> {
        self.add(name, pretty(content).as_bytes())
    }

    /// The last thing: from here on nothing can be changed unseen. Where it lies.
    pub fn seal(self, iss: &str, tenant_id: Option<String>, keys: &EvidenceKeys) -> Result<PathBuf, PackError> {
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            iss: iss.to_owned(),
            iat: self.at.unix_timestamp(),
            at: stamp(self.at),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            tenant_id,
            files: self.files.clone(),
        };
        let signed = keys.sign(Document::EvidencePack, &manifest, self.at)?;
        self.write(MANIFEST, pretty(&manifest).as_bytes())?;
        self.write(SIGNED, signed.as_bytes())?;
        Ok(self.folder)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), PackError> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(|source| PackError::Unwritable { path, source })
    }
}

/// Our own shapes always serialise.
fn pretty(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Why a pack proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{name} cannot be read")]
    Unreadable { name: String, source: io::Error },
    #[error("the manifest is not signed by one of these keys")]
    Signature(#[source] EvidenceError),
    #[error("the manifest is of another format")]
    Format,
    #[error("{MANIFEST} says something else than what was signed")]
    OtherManifest,
    #[error("{name} was changed")]
    Changed { name: String },
    #[error("{name} is in the folder and not in the manifest")]
    Added { name: String },
}

/// What a pack's manifest says, if every file is as it was when that was signed, and no other is there.
pub fn verify(folder: &Path, keys: &EvidenceVerifier) -> Result<Manifest, Fault> {
    let read =
        |name: &str| fs::read(folder.join(name)).map_err(|source| Fault::Unreadable { name: name.to_owned(), source });
    let signed = String::from_utf8_lossy(&read(SIGNED)?).into_owned();
    let manifest: Manifest = keys.verify(Document::EvidencePack, signed.trim()).map_err(Fault::Signature)?;
    if manifest.format != FORMAT {
        return Err(Fault::Format);
    }
    if read(MANIFEST)? != pretty(&manifest).as_bytes() {
        return Err(Fault::OtherManifest);
    }
    for file in &manifest.files {
        if hex::encode(Sha256::digest(read(&file.name)?)) != file.sha256 {
            return Err(Fault::Changed { name: file.name.clone() });
        }
    }
    let known: BTreeSet<&str> =
        manifest.files.iter().map(|file| file.name.as_str()).chain([MANIFEST, SIGNED]).collect();
    let listed = |source| Fault::Unreadable { name: folder.display().to_string(), source };
    for entry in fs::read_dir(folder).map_err(listed)? {
        let name = entry.map_err(listed)?.file_name().to_string_lossy().into_owned();
        if !known.contains(name.as_str()) {
            return Err(Fault::Added { name });
        }
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::auth::jwt::{SigningKey, SigningKeys};

    const AT: OffsetDateTime = datetime!(2026-11-21 18:30 UTC);

    fn keys(pem: &str) -> EvidenceKeys {
        EvidenceKeys::new(SigningKeys::single(SigningKey::from_pem(pem).unwrap()))
    }

    fn ours() -> EvidenceKeys {
        keys(include_str!("../../../tests/fixtures/keys/test_only_rsa_3072_one.pem"))
    }

    fn verifier(keys: &EvidenceKeys) -> EvidenceVerifier {
        EvidenceVerifier::from_jwks(&serde_json::to_string(&keys.jwks()).unwrap()).unwrap()
    }

    fn pack(parent: &Path) -> PathBuf {
        let mut pack = Pack::begin(parent, AT).unwrap();
        pack.add_json("one.json", &serde_json::json!({ "a": 1 })).unwrap();
        pack.add("two.md", b"text").unwrap();
        pack.seal("https://velum.example", None, &ours()).unwrap()
    }

    #[test]
    fn a_pack_is_good_as_it_was_sealed_and_in_no_other_form() {
        let parent = tempfile::tempdir().unwrap();
        let folder = pack(parent.path());
        assert!(folder.ends_with("evidence-20261121T183000Z"));
        let good = verify(&folder, &verifier(&ours())).unwrap();
        assert_eq!((good.files.len(), good.at.as_str()), (2, "2026-11-21T18:30:00.000000Z"));

        for name in ["one.json", "two.md", MANIFEST, SIGNED] {
            let whole = fs::read(folder.join(name)).unwrap();
            for byte in [0, whole.len() / 2, whole.len() - 2] {
                let mut changed = whole.clone();
                changed[byte] ^= 1;
                fs::write(folder.join(name), changed).unwrap();
                assert!(verify(&folder, &verifier(&ours())).is_err(), "byte {byte} of {name}");
            }
            fs::remove_file(folder.join(name)).unwrap();
            assert!(matches!(verify(&folder, &verifier(&ours())), Err(Fault::Unreadable { .. })), "{name}");
            fs::write(folder.join(name), whole).unwrap();
        }
        fs::write(folder.join("three.json"), "{}").unwrap();
        assert!(matches!(verify(&folder, &verifier(&ours())), Err(Fault::Added { .. })));
        fs::remove_file(folder.join("three.json")).unwrap();

        let theirs = keys(include_str!("../../../tests/fixtures/keys/test_only_rsa_3072_two.pem"));
        assert!(matches!(verify(&folder, &verifier(&theirs)), Err(Fault::Signature(_))));
        assert!(verify(&folder, &verifier(&ours())).is_ok());
    }

    #[test]
    fn a_pack_is_never_written_over_another_one() {
        let parent = tempfile::tempdir().unwrap();
        pack(parent.path());
        assert!(matches!(Pack::begin(parent.path(), AT), Err(PackError::Exists { .. })));
    }
}
