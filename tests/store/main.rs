//! The store on both databases: SQLite always, PostgreSQL where `VELUM_TEST_POSTGRES_URL` names a server on which the user
//! may create databases (scripts/with-postgres.sh starts one).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod access_requests;
mod audit;
mod consents;
mod databases;
mod erasure;
mod erasures;
mod idempotency;
mod jobs;
mod journal;
mod keys;
mod migrations;
mod officers;
mod opendsr;
mod outages;
mod retention;
mod rotation;
mod row_security;
mod rows;
