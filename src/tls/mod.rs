//! TLS: the one place that turns PEM files into `rustls` configurations, and (below, in `development`) makes certificates.
//!
//! Every configuration is built with the aws-lc-rs provider given explicitly, so none depends on a process-wide default.
//! The public listener speaks TLS 1.2 and 1.3; the link to the keyholder speaks TLS 1.3 only and both ends show a certificate.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, RootCertStore, ServerConfig, SupportedProtocolVersion, WantsVerifier,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

pub mod development;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} cannot be read")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} cannot be written")]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{path} holds no certificate in PEM form (expected a block that starts with -----BEGIN CERTIFICATE-----)")]
    NoCertificate { path: PathBuf },
    #[error(
        "{path} holds no private key in PEM form (expected an unencrypted block that starts with -----BEGIN PRIVATE KEY-----)"
    )]
    NoKey { path: PathBuf },
    #[error("the certificate {certificate} and the key {key} do not belong together or cannot be used")]
    UnusableIdentity { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{path} cannot serve as a certificate authority")]
    UnusableAuthority { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} was not made by {authority}; remove it and its key to have new ones made, or configure your own")]
    ForeignCertificate { path: PathBuf, authority: PathBuf },
    #[error("{authority} is there without its key {key}; restore the key, or remove both to have a new authority made")]
    IncompleteAuthority { authority: PathBuf, key: PathBuf },
    #[error("{name} is neither a host name nor an IP address")]
    InvalidName { name: String },
    #[error("a certificate could not be made")]
    NotMade(#[source] rcgen::Error),
    #[error("TLS could not be set up")]
    Unsupported(#[from] rustls::Error),
}

/// Where a certificate chain and its private key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    /// When the end-entity certificate ends.
    pub fn expires_at(&self) -> Result<OffsetDateTime, TlsError> {
        let chain = certificates(&self.certificate)?;
        let (_, certificate) = X509Certificate::from_der(&chain[0])
            .map_err(|_| TlsError::NoCertificate { path: self.certificate.clone() })?;
        Ok(certificate.validity().not_after.to_datetime())
    }

    /// SHA-256 of the end-entity certificate: what the other side of a mutual TLS connection sees of this identity.
    pub fn fingerprint(&self) -> Result<Fingerprint, TlsError> {
        // `certificates` never gives an empty chain.
        certificates(&self.certificate).map(|chain| Fingerprint::of(&chain[0]))
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::UnusableIdentity { certificate: self.certificate.clone(), key: self.key.clone(), source }
    }
}

/// SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it, in 64 lower-case hex digits without colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a certificate fingerprint is a SHA-256 in 64 hex digits, with or without colons")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text.replace(':', ""), &mut digest).map_err(|_| InvalidFingerprint)?;
        Ok(Self(digest))
    }
}

/// The public listener of `serve`: TLS 1.2 and 1.3, clients without certificates. The HTTP server adds its own ALPN names.
pub fn public_server(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let builder = begin(ServerConfig::builder_with_provider(provider()), &[&TLS13, &TLS12])?;
    let (chain, key) = load(identity)?;
    builder.with_no_client_auth().with_single_cert(chain, key).map_err(|source| identity.unusable(source))
}

/// A client of the public listener that trusts one authority only (`demo`, `bench`, `healthcheck`).
pub fn public_client(authority: &Path) -> Result<ClientConfig, TlsError> {
    let builder = begin(ClientConfig::builder_with_provider(provider()), &[&TLS13, &TLS12])?;
    Ok(builder.with_webpki_verifier(server_verifier(authority)?).with_no_client_auth())
}

/// A client of whoever an address names: trusts the system's authorities, or in their place those of a file. Where the system
/// has none, nobody is trusted.
pub fn outgoing_client(authority: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let builder = begin(ClientConfig::builder_with_provider(provider()), &[&TLS13, &TLS12])?;
    let roots = match authority {
        Some(authority) => roots(authority)?,
        None => {
            let mut roots = RootCertStore::empty();
            // Some of a system's certificates may be unreadable or outdated: the others do.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        }
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The keyholder's listener: TLS 1.3, and no connection without a client certificate of `edge_authority`.
pub fn keyholder_server(identity: &Identity, edge_authority: &Path) -> Result<ServerConfig, TlsError> {
    let builder = begin(ServerConfig::builder_with_provider(provider()), &[&TLS13])?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(edge_authority)?, provider())
        .build()
        .map_err(|source| unusable_authority(edge_authority, source))?;
    let (chain, key) = load(identity)?;
    builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).map_err(|source| identity.unusable(source))
}

/// The edge's side of the same link: trusts `keyholder_authority` alone and shows its own certificate.
pub fn keyholder_client(identity: &Identity, keyholder_authority: &Path) -> Result<ClientConfig, TlsError> {
    let builder = begin(ClientConfig::builder_with_provider(provider()), &[&TLS13])?;
    let (chain, key) = load(identity)?;
    builder
        .with_webpki_verifier(server_verifier(keyholder_authority)?)
        .with_client_auth_cert(chain, key)
        .map_err(|source| identity.unusable(source))
}

/// The one cryptography provider, with the post-quantum hybrid key exchange offered first: what travels here would
/// otherwise be the only part of an encrypted match that a future quantum computer could open from a recording.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

fn begin<Side: ConfigSide>(
    builder: ConfigBuilder<Side, rustls::WantsVersions>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ConfigBuilder<Side, WantsVerifier>, TlsError> {
    Ok(builder.with_protocol_versions(versions)?)
}

fn load(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    Ok((certificates(&identity.certificate)?, private_key(&identity.key)?))
}

/// Every certificate of a PEM file, in order; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsError::NoCertificate { path: path.to_owned() }),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::NoKey { path: path.to_owned() })
}

fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, TlsError> {
    fs::read(path).map(Into::into).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn roots(authority: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate).map_err(|source| unusable_authority(authority, source))?;
    }
    Ok(Arc::new(roots))
}

fn server_verifier(authority: &Path) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider())
        .build()
        .map_err(|source| unusable_authority(authority, source))
}

fn unusable_authority(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError::UnusableAuthority { path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::{development::DevelopmentTls, *};

    fn made(directory: &tempfile::TempDir) -> DevelopmentTls {
        development::ensure(directory.path(), &[], OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn each_configuration_is_built_from_the_development_files() {
        let directory = tempfile::tempdir().unwrap();
        let made = made(&directory);
        public_server(&made.server).unwrap();
        public_client(&made.authority).unwrap();
        keyholder_server(&made.keyholder, &made.authority).unwrap();
        keyholder_client(&made.edge, &made.authority).unwrap();
    }

    #[test]
    fn a_wrong_file_is_named_in_a_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let made = made(&directory);
        let sentence = |identity: &Identity| public_server(identity).unwrap_err().to_string();

        let swapped = Identity { certificate: made.server.key.clone(), key: made.server.certificate.clone() };
        assert!(sentence(&swapped).contains("server.key holds no certificate"));
        let certificate_twice = Identity { key: made.server.certificate.clone(), ..made.server.clone() };
        assert!(sentence(&certificate_twice).contains("server.pem holds no private key"));
        let of_another = Identity { key: made.edge.key.clone(), ..made.server.clone() };
        assert!(sentence(&of_another).contains("edge.key do not belong together"));
        let absent = Identity { key: directory.path().join("absent.key"), ..made.server.clone() };
        assert!(sentence(&absent).contains("absent.key cannot be read"));
        let error = keyholder_client(&made.edge, &made.edge.key).unwrap_err().to_string();
        assert!(error.contains("edge.key holds no certificate"), "{error}");
    }

    #[test]
    fn a_fingerprint_round_trips_with_and_without_colons() {
        let directory = tempfile::tempdir().unwrap();
        let fingerprint = made(&directory).edge.fingerprint().unwrap();
        let text = fingerprint.to_string();
        assert_eq!(text.parse(), Ok(fingerprint));
        let colons: Vec<_> = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        assert_eq!(colons.join(":").to_uppercase().parse(), Ok(fingerprint));
        assert_eq!("00".parse::<Fingerprint>(), Err(InvalidFingerprint));
    }
}
