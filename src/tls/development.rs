//! Self-made certificates for development: an authority and three identities signed by it, made at the first start.
//!
//! ```text
//! ca.pem  ca.key                  the authority; trusted by whoever is given ca.pem
//! server.pem  server.key          `velum serve`, for localhost, 127.0.0.1, ::1 and the names given
//! keyholder.pem  keyholder.key    `velum keyholder`, for the same names
//! edge.pem  edge.key              what `serve` shows to the keyholder; good for client authentication only
//! ```
//! Keys have mode 0600. A file that is still good is left alone; an identity that this authority signed is made anew when it
//! is about to expire or lacks a name; a file of somebody else's is never overwritten. Production brings its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration as Seconds,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    CertificateError,
    client::danger::ServerCertVerifier,
    pki_types::{ServerName, UnixTime},
    server::WebPkiClientVerifier,
};
use time::{Duration, OffsetDateTime, macros::datetime};
use zeroize::Zeroizing;

use super::{Identity, TlsError, certificates, load, provider, roots, server_verifier};

/// Common name of the self-made authority, by which production recognises and refuses what it signed.
const AUTHORITY_NAME: &str = "Velum development authority";
/// Names that every server certificate carries.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Browsers refuse server certificates that live longer than 398 days.
const LIFETIME: Duration = Duration::days(397);
/// An identity with less life than this is made anew.
const RENEWAL: Duration = Duration::days(30);
/// Machines with slow clocks accept a fresh certificate too.
const BACKDATE: Duration = Duration::days(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentTls {
    pub authority: PathBuf,
    pub server: Identity,
    pub keyholder: Identity,
    pub edge: Identity,
}

impl DevelopmentTls {
    fn in_directory(directory: &Path) -> Self {
        let identity = |name: &str| Identity {
            certificate: directory.join(name).with_extension("pem"),
            key: directory.join(name).with_extension("key"),
        };
        Self {
            authority: directory.join("ca.pem"),
            server: identity("server"),
            keyholder: identity("keyholder"),
            edge: identity("edge"),
        }
    }
}

/// Makes what is missing or about to expire in `directory`. Several processes may call this at once.
pub fn ensure(directory: &Path, names: &[String], now: OffsetDateTime) -> Result<DevelopmentTls, TlsError> {
    let unwritable = |source| TlsError::Unwritable { path: directory.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unwritable)?;
    let lock = File::create(directory.join(".lock")).map_err(unwritable)?;
    lock.lock().map_err(unwritable)?;

    let tls = DevelopmentTls::in_directory(directory);
    let names: Vec<String> = LOCAL_NAMES.into_iter().map(str::to_owned).chain(names.iter().cloned()).collect();
    let authority = Authority::ensure(directory)?;
    authority.ensure_identity(&tls.server, &Role::Server(&names), now)?;
    authority.ensure_identity(&tls.keyholder, &Role::Server(&names), now)?;
    authority.ensure_identity(&tls.edge, &Role::Edge, now)?;
    Ok(tls)
}

/// Whether a certificate file was made here: an authority of ours, or signed by one. Goes by the issuer's name: a guard against carelessness, no proof.
pub fn is_self_made(certificate: &Path) -> Result<bool, TlsError> {
    let contains_name = |der: &[u8]| der.windows(AUTHORITY_NAME.len()).any(|part| part == AUTHORITY_NAME.as_bytes());
    Ok(certificates(certificate)?.iter().any(|certificate| contains_name(certificate)))
}

enum Role<'a> {
    Server(&'a [String]),
    Edge,
}

struct Authority {
    certificate: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn ensure(directory: &Path) -> Result<Self, TlsError> {
        let certificate = directory.join("ca.pem");
        let key = directory.join("ca.key");
        match (certificate.exists(), key.exists()) {
            (true, true) => Self::load(certificate, &key),
            (true, false) => Err(TlsError::IncompleteAuthority { authority: certificate, key }),
            (false, _) => Self::make(certificate, &key),
        }
    }

    fn load(certificate: PathBuf, key: &Path) -> Result<Self, TlsError> {
        roots(&certificate)?;
        let pem = super::read(key)?;
        let pair = std::str::from_utf8(&pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        let pair = pair.ok_or_else(|| TlsError::NoKey { path: key.to_owned() })?;
        Ok(Self { certificate, issuer: Issuer::new(Self::parameters(), pair) })
    }

    /// The key is written first: a certificate without its key would be an authority that can sign nothing.
    fn make(certificate: PathBuf, key: &Path) -> Result<Self, TlsError> {
        let pair = KeyPair::generate().map_err(TlsError::NotMade)?;
        let made = Self::parameters().self_signed(&pair).map_err(TlsError::NotMade)?;
        write_atomically(key, 0o600, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
        write_atomically(&certificate, 0o644, made.pem().as_bytes())?;
        Ok(Self { certificate, issuer: Issuer::new(Self::parameters(), pair) })
    }

    /// The authority itself does not expire (RFC 5280, 4.1.2.5): its key lies on the same disk, so an end date would protect
    /// nobody, and clients that were told to trust it keep working when an identity is made anew.
    fn parameters() -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.not_before = datetime!(2025-01-01 0:00 UTC);
        parameters.not_after = datetime!(9999-12-31 23:59:59 UTC);
        parameters
    }

    fn ensure_identity(&self, identity: &Identity, role: &Role<'_>, now: OffsetDateTime) -> Result<(), TlsError> {
        if identity.certificate.exists() && self.is_good(identity, role, now + RENEWAL)? {
            return Ok(());
        }
        let pair = KeyPair::generate().map_err(TlsError::NotMade)?;
        let made = identity_parameters(role, now)?.signed_by(&pair, &self.issuer).map_err(TlsError::NotMade)?;
        write_atomically(&identity.key, 0o600, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
        write_atomically(&identity.certificate, 0o644, made.pem().as_bytes())
    }

    /// Asks the verifier that the other side will use, with its clock set to `at`. False means: ours, and worth replacing.
    fn is_good(&self, identity: &Identity, role: &Role<'_>, at: OffsetDateTime) -> Result<bool, TlsError> {
        let chain = certificates(&identity.certificate)?;
        let at = UnixTime::since_unix_epoch(Seconds::from_secs(at.unix_timestamp().max(0).unsigned_abs()));
        let verdict = match role {
            Role::Server(names) => {
                let verifier = server_verifier(&self.certificate)?;
                names.iter().try_for_each(|name| {
                    verifier.verify_server_cert(&chain[0], &chain[1..], &server_name(name)?, &[], at)?;
                    Ok(())
                })
            }
            Role::Edge => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots(&self.certificate)?, provider()).build();
                let verifier = verifier.map_err(|source| super::unusable_authority(&self.certificate, source))?;
                verifier.verify_client_cert(&chain[0], &chain[1..], at).map(drop).map_err(TlsError::from)
            }
        };
        match verdict {
            // A pair torn by a crash between its two files is ours as well.
            Ok(()) => Ok(pair_fits(identity)),
            Err(TlsError::Unsupported(rustls::Error::InvalidCertificate(reason))) => match reason {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
                | CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Ok(false),
                _ => Err(TlsError::ForeignCertificate {
                    path: identity.certificate.clone(),
                    authority: self.certificate.clone(),
                }),
            },
            Err(other) => Err(other),
        }
    }
}

fn pair_fits(identity: &Identity) -> bool {
    load(identity).is_ok_and(|(chain, key)| rustls::sign::CertifiedKey::from_der(chain, key, &provider()).is_ok())
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::InvalidName { name: name.to_owned() })
}

fn identity_parameters(role: &Role<'_>, now: OffsetDateTime) -> Result<CertificateParams, TlsError> {
    let (names, usage, common_name) = match role {
        Role::Server(names) => (names.to_vec(), ExtendedKeyUsagePurpose::ServerAuth, "Velum development server"),
        Role::Edge => (Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, "Velum development edge"),
    };
    names.iter().try_for_each(|name| server_name(name).map(drop))?;
    let mut parameters = CertificateParams::new(names).map_err(TlsError::NotMade)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    parameters.use_authority_key_identifier_extension = true;
    parameters.not_before = now - BACKDATE;
    parameters.not_after = now + LIFETIME;
    Ok(parameters)
}

/// A reader sees the old file or the new one, whole, and never with a wider mode than `mode`.
fn write_atomically(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), TlsError> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        // A leftover of a crash: the directory's lock is held, so nobody is writing it now.
        if temporary.exists() {
            fs::remove_file(&temporary)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    write().map_err(|source| TlsError::Unwritable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

    fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    #[test]
    fn what_is_still_good_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        ensure(directory.path(), &[], NOW).unwrap();
        let first = contents(directory.path());
        ensure(directory.path(), &[], NOW + LIFETIME - RENEWAL - Duration::days(1)).unwrap();
        assert_eq!(contents(directory.path()), first);
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let tls = ensure(&directory.path().join("tls"), &[], NOW).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for key in [&tls.server.key, &tls.keyholder.key, &tls.edge.key, &tls.authority.with_extension("key")] {
            assert_eq!(mode(key), 0o600, "{key:?}");
        }
        assert_eq!(mode(&directory.path().join("tls")), 0o700);
    }

    #[test]
    fn identities_near_their_end_are_made_anew_under_the_same_authority() {
        let directory = tempfile::tempdir().unwrap();
        let tls = ensure(directory.path(), &[], NOW).unwrap();
        let authority = fs::read(&tls.authority).unwrap();
        let old = [&tls.server, &tls.keyholder, &tls.edge].map(|identity| identity.fingerprint().unwrap());
        for later in [LIFETIME - RENEWAL + Duration::days(1), LIFETIME * 3] {
            ensure(directory.path(), &[], NOW + later).unwrap();
            assert_eq!(fs::read(&tls.authority).unwrap(), authority);
            for (identity, old) in [&tls.server, &tls.keyholder, &tls.edge].into_iter().zip(old) {
                assert_ne!(identity.fingerprint().unwrap(), old);
            }
        }
    }

    #[test]
    fn a_new_name_renews_the_servers_and_not_the_edge() {
        let directory = tempfile::tempdir().unwrap();
        let tls = ensure(directory.path(), &[], NOW).unwrap();
        let [server, edge] = [&tls.server, &tls.edge].map(|identity| identity.fingerprint().unwrap());
        ensure(directory.path(), &["velum.example".to_owned(), "192.0.2.7".to_owned()], NOW).unwrap();
        assert_ne!(tls.server.fingerprint().unwrap(), server);
        assert_eq!(tls.edge.fingerprint().unwrap(), edge);
        let error = ensure(directory.path(), &["not a name".to_owned()], NOW).unwrap_err();
        assert!(error.to_string().contains("not a name is neither a host name"), "{error}");
    }

    #[test]
    fn a_pair_torn_by_a_crash_is_repaired() {
        let directory = tempfile::tempdir().unwrap();
        let tls = ensure(directory.path(), &[], NOW).unwrap();
        fs::copy(&tls.edge.key, &tls.server.key).unwrap();
        fs::remove_file(&tls.keyholder.key).unwrap();
        ensure(directory.path(), &[], NOW).unwrap();
        assert!(pair_fits(&tls.server) && pair_fits(&tls.keyholder));
    }

    #[test]
    fn a_certificate_of_somebody_else_is_never_overwritten() {
        let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tls = ensure(mine.path(), &[], NOW).unwrap();
        let foreign = ensure(theirs.path(), &[], NOW).unwrap();
        fs::copy(&foreign.server.certificate, &tls.server.certificate).unwrap();
        let before = contents(mine.path());
        let error = ensure(mine.path(), &[], NOW).unwrap_err();
        assert!(error.to_string().contains("server.pem was not made by"), "{error}");
        assert_eq!(contents(mine.path()), before);
    }

    #[test]
    fn an_authority_without_its_key_is_said_to_be_incomplete() {
        let directory = tempfile::tempdir().unwrap();
        let tls = ensure(directory.path(), &[], NOW).unwrap();
        fs::remove_file(tls.authority.with_extension("key")).unwrap();
        let error = ensure(directory.path(), &[], NOW).unwrap_err();
        assert!(error.to_string().contains("ca.pem is there without its key"), "{error}");
    }

    #[test]
    fn self_made_identities_are_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let made = ensure(directory.path(), &[], NOW).unwrap();
        assert!(is_self_made(&made.server.certificate).unwrap() && is_self_made(&made.authority).unwrap());
    }

    #[test]
    fn starters_at_the_same_time_agree() {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| ensure(directory.path(), &[], NOW).unwrap());
            }
        });
        let tls = DevelopmentTls::in_directory(directory.path());
        assert!([&tls.server, &tls.keyholder, &tls.edge].into_iter().all(pair_fits));
    }
}
