//! `TestApp`: a real server with its own databases on a free port, and a client that speaks to it.

use std::time::{Duration, Instant};

mod app;
mod client;
mod consents;
pub mod databases;
mod described;
pub mod engine;
pub mod nginx;
pub mod photos;
mod ports;
mod process;
pub mod raw;
mod receiver;
mod redis;
mod scrape;
mod tokens;

pub use self::{
    app::{Options, TestApp, credential_in, each_database, each_database_with, onnxruntime},
    client::{Answer, Client, WithForm, streamed},
    consents::consent_of,
    databases::Kind,
    ports::free_port,
    process::{Process, Worker, program},
    receiver::{Received, Receiver},
    redis::Redis,
    scrape::scrape,
    tokens::{claims_of, signed_like, signing_key},
};

/// Returns when it is so, at most so many seconds from now.
pub async fn until(what: &str, seconds: u64, mut is_so: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < Duration::from_secs(seconds), "{what}: not so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A fresh UUID of version 4, as controllers make them.
pub fn uuid_of_four() -> String {
    uuid::Builder::from_random_bytes(*uuid::Uuid::now_v7().as_bytes()).into_uuid().to_string()
}
