//! The keyholder from outside. One suite runs over both places it can be: inside this process, and as a server of its own
//! behind mutual TLS on a real socket; its journal in SQLite and, where `VELUM_TEST_POSTGRES_URL` names a server on which the
//! user may create databases, in PostgreSQL. Ciphertexts and keys are the stored ones of the first format.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod places;
#[path = "../api/helpers/ports.rs"]
mod ports;
mod process;
mod refusals;
mod transport;
