//! `TestApp`: a real server with its own databases on a free port, and a client that speaks to it.

mod app;
mod client;
mod consents;
pub mod databases;
mod described;
pub mod engine;
pub mod nginx;
pub mod photos;
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
    process::{Process, Worker, free_port, program},
    receiver::{Received, Receiver},
    redis::Redis,
    scrape::scrape,
    tokens::{claims_of, signed_like, signing_key},
};

/// A fresh UUID of version 4, as controllers make them.
pub fn uuid_of_four() -> String {
    uuid::Builder::from_random_bytes(*uuid::Uuid::now_v7().as_bytes()).into_uuid().to_string()
}
