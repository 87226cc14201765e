//! `TestApp`: a real server with its own databases on a free port, and a client that speaks to it.

mod app;
mod client;
pub mod databases;
pub mod engine;
pub mod nginx;
pub mod photos;
mod process;
pub mod raw;
mod redis;
mod scrape;
mod tokens;

pub use self::{
    app::{Options, TestApp, credential_in, each_database, each_database_with, onnxruntime},
    client::{Answer, Client, WithForm, streamed},
    databases::Kind,
    process::{Process, free_port},
    redis::Redis,
    scrape::scrape,
    tokens::{claims_of, signed_like, signing_key},
};
