//! Velum: face matching that keeps embeddings encrypted.

pub mod app;
pub mod audit;
pub mod auth;
pub mod cache;
pub mod callbacks;
pub mod commands;
pub mod console;
pub mod flows;
pub mod http;
pub mod keyholder;
pub mod measure;
pub mod secrets;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod vault;

// Packages under `crates/`; `fhe` has its own release profile (Cargo.toml).
pub use velum_domain as domain;
pub use velum_face as face;
pub use velum_fhe as fhe;
