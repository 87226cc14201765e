//! `velum keyholder`: the secret keys in a process of their own.

use std::{path::PathBuf, sync::Arc};

use super::{Failure, settings};
use crate::{
    app,
    domain::clock::{Clock, SystemClock},
    keyholder::server::ServerConfig,
    secrets,
    settings::{Mode, Role, Settings},
    telemetry,
    tls::{Identity, development},
};

pub async fn run() -> Result<(), Failure> {
    let settings = settings(Role::Keyholder)?;
    telemetry::start(&settings.log);
    if settings.mode == Mode::Embedded {
        secrets::ensure_development(&settings, SystemClock.now()).map_err(not_started)?;
    }
    let (identity, edge_authority) = certificates(&settings)?;
    let config = ServerConfig {
        listen: settings.keyholder_server.listen,
        identity,
        edge_authority,
        admitted_edges: settings.keyholder_server.admitted_edges.clone(),
        workers: settings.keyholder_server.workers,
    };
    app::keep(&settings, config, Arc::new(SystemClock)).await.map_err(not_started)
}

/// Production must have said where they are; the embedded mode makes its own.
fn certificates(settings: &Settings) -> Result<(Identity, PathBuf), Failure> {
    let server = &settings.keyholder_server;
    match (server.identity.clone(), server.edge_authority.clone()) {
        (Some(identity), Some(authority)) => Ok((identity, authority)),
        (identity, authority) => {
            let tls_dir = settings.data_dir.join("tls");
            let made = development::ensure(&tls_dir, &[], SystemClock.now()).map_err(not_started)?;
            Ok((identity.unwrap_or(made.keyholder), authority.unwrap_or(made.authority)))
        }
    }
}

fn not_started(error: impl std::error::Error) -> Failure {
    Failure::because("the keyholder could not run", error)
}
