//! The product as a client meets it: real server, real TLS, real models, real encryption, SQLite and (when
//! `VELUM_TEST_POSTGRES_URL` is set) PostgreSQL.
#![expect(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod helpers;

mod access;
mod access_requests;
mod addresses;
mod api_keys;
mod audit;
mod browser;
mod canary;
mod consent;
mod console;
mod cors;
mod documents;
mod enrol;
mod erase;
mod erasures;
mod evidence;
mod gates;
mod hostile;
mod idempotency;
mod jobs;
mod ledger;
mod limits;
mod matrix;
mod metrics;
mod notices;
mod oauth_rfc;
mod opendsr;
mod outages;
mod problems;
mod process;
mod rectification;
mod rekey;
mod restriction;
mod revocation;
mod smoke;
mod stops;
mod tokens;
mod usage;
mod verify;
