//! What goes on beside the requests: keys that came or went, revocations, counters.

use std::{path::PathBuf, time::Duration};

use actix_web::web::Data;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    flows::{self, Flows},
    secrets::{self, Signs},
};

/// How soon a signing key that came or went is noticed.
const SIGNING_KEYS_INTERVAL: Duration = Duration::from_secs(5);
/// How soon another key-encryption key wraps, or one that was retired is given up.
const WRAPPING_KEYS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the copy of the revocations is compared with the database: well within the time for which it is believed.
const REVOCATIONS_INTERVAL: Duration = Duration::from_millis(150);
/// How often counters that nobody asks for any more are let go.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
/// How soon a new period of the key for addresses is noticed.
const ADDRESS_KEY_INTERVAL: Duration = Duration::from_secs(1);

/// Of a server, which signs tokens with the keys in its folder unless the one key is a setting.
pub fn of_server(flows: &Data<Flows>, secrets_dir: PathBuf, token_keys_rotate: bool) -> Vec<JoinHandle<()>> {
    let mut begun = of_worker(flows, secrets_dir.clone());
    begun.push(tokio::spawn(keep_counters(flows.clone())));
    begun.push(tokio::spawn(renew_address_key(flows.clone())));
    if flows.cache().revocations().is_some() {
        begun.push(tokio::spawn(keep_revocations(flows.clone())));
    }
    if token_keys_rotate {
        begun.push(tokio::spawn(renew_signing_keys(Signs::Tokens, secrets_dir, flows.clone())));
    }
    begun
}

pub fn of_worker(flows: &Data<Flows>, secrets_dir: PathBuf) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(renew_signing_keys(Signs::Evidence, secrets_dir, flows.clone())),
        tokio::spawn(renew_wrapping_keys(flows.clone())),
    ]
}

async fn keep_revocations(flows: Data<Flows>) {
    loop {
        flows::revocations::synchronise(&flows).await;
        sleep(REVOCATIONS_INTERVAL).await;
    }
}

async fn keep_counters(flows: Data<Flows>) {
    loop {
        sleep(TIDY_INTERVAL).await;
        flows.cache().tidy();
    }
}

/// Looks every few seconds for signing keys that came or went. Keys that cannot be read leave those in use as they are.
async fn renew_signing_keys(signs: Signs, secrets_dir: PathBuf, flows: Data<Flows>) {
    let in_use = || match signs {
        Signs::Tokens => flows.tokens().jwks(),
        Signs::Evidence => flows.evidence().jwks(),
    };
    let mut told = None;
    loop {
        sleep(SIGNING_KEYS_INTERVAL).await;
        let secrets_dir = secrets_dir.clone();
        let read = tokio::task::spawn_blocking(move || secrets::read_signing_keys(signs, &secrets_dir)).await;
        match read {
            Ok(Ok(keys)) => {
                let jwks = keys.jwks();
                if jwks != in_use() {
                    tracing::info!(event = "signing_keys_changed", ?signs, keys = jwks.keys.len(), "keys came or went");
                    match signs {
                        Signs::Tokens => flows.tokens().replace_keys(keys),
                        Signs::Evidence => flows.evidence().replace_keys(keys),
                    }
                }
                told = None;
            }
            Ok(Err(error)) if told.as_deref() != Some(error.to_string().as_str()) => {
                tracing::error!(
                    event = "signing_keys_unreadable",
                    error = &error as &dyn std::error::Error,
                    ?signs,
                    "the signing keys cannot be read; the old ones stay"
                );
                told = Some(error.to_string());
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Looks every few seconds for key-encryption keys that came or were retired. While that fails, those in use stay.
async fn renew_wrapping_keys(flows: Data<Flows>) {
    let mut told = None;
    loop {
        sleep(WRAPPING_KEYS_INTERVAL).await;
        let failure = flows.refresh_wrapping_keys().await.err().map(|error| error.to_string());
        if failure != told
            && let Some(error) = &failure
        {
            tracing::error!(
                event = "key_encryption_keys_unreadable",
                error,
                "the key-encryption keys cannot be looked at; those in use stay"
            );
        }
        told = failure;
    }
}

/// At the turn of a period addresses are hashed under another key.
async fn renew_address_key(flows: Data<Flows>) {
    loop {
        sleep(ADDRESS_KEY_INTERVAL).await;
        flows::addresses::renew_key(&flows).await;
    }
}
