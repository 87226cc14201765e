use std::{io, net::SocketAddr, path::PathBuf};

use crate::{
    cache::CacheError,
    callbacks::CallbackSetupError,
    face::{ModelError, RuntimeError},
    keyholder::{KeyholderError, RemoteSetupError, server::ServerError},
    secrets::SecretsError,
    store::StoreError,
    tls::TlsError,
};

/// Why the program does not start. Each is a sentence for the operator, with its causes behind it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the {name} database cannot be used")]
    Database { name: &'static str, source: StoreError },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("the models cannot be used")]
    Models(#[from] ModelError),
    #[error("{one} and {other} in {} do not belong together", folder.display())]
    KeysOfDifferentSets { folder: PathBuf, one: &'static str, other: &'static str },
    #[error("the keyholder cannot be reached as it is set")]
    Keyholder(#[from] RemoteSetupError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Callbacks(#[from] CallbackSetupError),
    #[error(transparent)]
    KeyholderServer(#[from] ServerError),
    #[error("the keyholder's journal cannot be written")]
    KeyholderJournal(#[from] KeyholderError),
    #[error("VELUM_KEYHOLDER is remote, so VELUM_{name} must be set")]
    KeyholderLacks { name: &'static str },
    #[error("VELUM_TLS_CERTIFICATE_FILE must be set: there is no certificate to serve with")]
    NoCertificate,
    #[error("the development client cannot be made")]
    DevelopmentClient(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the compute pool cannot start its threads")]
    Compute(#[source] io::Error),
    #[error("the program cannot be told when to stop")]
    Signals(#[source] io::Error),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot listen on the socket {path}", path = path.display())]
    ListenOnSocket { path: PathBuf, source: io::Error },
}
