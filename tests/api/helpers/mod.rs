//! `TestApp`: a real server with its own databases on a free port, and a client that speaks to it.

mod app;
mod client;
pub mod databases;
pub mod engine;
pub mod photos;

pub use self::{
    app::{TestApp, credential_in, each_database, onnxruntime},
    client::{Answer, Client, WithForm, streamed},
    databases::Kind,
};
