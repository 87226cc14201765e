//! The command line: `velum --help` is its table of contents. One file for each command.

mod api_client;
mod bench;
mod clients;
mod config;
mod console_client;
mod demo;
mod documents;
mod erasures;
mod evaluate;
mod evidence;
mod failure;
mod healthcheck;
mod jobs;
mod journal;
mod keyholder;
mod keys;
mod migrate;
mod models;
mod officers;
mod openapi;
mod progress;
mod retention;
mod rotate_fhe;
mod rotate_field;
mod serve;
mod smoke;
mod throwaway_server;
mod way;
mod worker;

use std::{fmt, process::ExitCode};

use clap::{Parser, Subcommand};

use self::failure::Failure;
use crate::{
    audit::{Action, Actor, Event},
    domain::clock::{Clock, SystemClock},
    secrets::{self, Secrets},
    settings::{DatabaseUrl, Role, Settings},
    store::{KeyStore, Store, StoreError},
};

/// Face matching that keeps embeddings encrypted.
///
/// Every setting is an environment variable VELUM_NAME, or a file named by VELUM_NAME_FILE; `velum config show` lists them.
/// Without any, the embedded mode runs: one process, SQLite and self-made keys under ./data.
#[derive(Parser)]
#[command(name = "velum", version, propagate_version = true, arg_required_else_help = true, max_term_width = 110, after_help = EXIT_CODES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings.";

#[derive(Subcommand)]
enum Command {
    /// Serve the API over HTTPS
    Serve,
    /// Carry out jobs (retention and whatever else is done later) in a process of their own, beside `serve`
    Worker,
    /// Look at the jobs that wait, and bring back those that were given up
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Look at what has been kept long enough, or delete it now
    #[command(subcommand)]
    Retention(retention::Command),
    /// Hold the secret keys in a process of their own and open decisions for `serve`, over mutual TLS
    Keyholder,
    /// Read and check what the keyholder wrote down
    #[command(subcommand)]
    Journal(journal::Command),
    /// Bring the databases to the schema of this program, or back
    Migrate(migrate::Arguments),
    /// Make the keys of an installation
    #[command(subcommand)]
    Keys(keys::Command),
    /// Give apps their credentials
    #[command(subcommand)]
    Clients(clients::Command),
    /// Give officers their accounts for the console
    #[command(subcommand)]
    Officers(officers::Command),
    /// Compare the databases with the ledger of erasures, and replay it after a restore
    #[command(subcommand)]
    Erasures(erasures::Command),
    /// Check a certificate of erasure, without the service
    #[command(subcommand)]
    Certificate(documents::CertificateCommand),
    /// Check an exported audit log, without the service
    #[command(subcommand)]
    Audit(documents::AuditCommand),
    /// Write what can be shown of this system as a dated, signed pack, and check one
    Evidence(evidence::Arguments),
    /// Look at the face models
    #[command(subcommand)]
    Models(models::Command),
    /// Look at the settings
    #[command(subcommand)]
    Config(config::Command),
    /// Print the OpenAPI document
    Openapi,
    /// Ask a running server whether it is ready; for containers and load balancers
    Healthcheck(healthcheck::Arguments),
    /// Take a person the whole way through a running server, from consent to erasure; what a deploy asks before it switches
    Smoke(smoke::Arguments),
    /// Enrol a portrait on a server of its own, recognise it, refuse another, withdraw consent, erase
    Demo(demo::DemoArgs),
    /// Measure error rates on your own photos, whether encryption changes any decision, and what stolen templates are worth
    Evaluate(evaluate::EvaluateArgs),
    /// Measure each stage and whole verifications on this machine
    Bench(bench::BenchArgs),
}

pub fn main() -> ExitCode {
    silence_onnxruntime();
    let command = CommandLine::parse().command;
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(dispatch(command)),
        Err(error) => Err(Failure::because("the program could not start its threads", error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Unless told otherwise before it is loaded, the ONNX Runtime library opens a database for telemetry in the user's cache
/// folder and leaves a session's name among the temporary files, even where telemetry is switched off by its own interface.
#[expect(
    unsafe_code,
    reason = "the first step of the program: there is no other thread that could read the environment"
)]
fn silence_onnxruntime() {
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve => serve::run().await,
        Command::Worker => worker::run().await,
        Command::Jobs(command) => jobs::run(command).await,
        Command::Retention(command) => retention::run(command).await,
        Command::Keyholder => keyholder::run().await,
        Command::Journal(command) => journal::run(command).await,
        Command::Migrate(arguments) => migrate::run(arguments).await,
        Command::Keys(command) => keys::run(command).await,
        Command::Clients(command) => clients::run(command).await,
        Command::Officers(command) => officers::run(command).await,
        Command::Erasures(command) => erasures::run(command).await,
        Command::Certificate(command) => documents::run_certificate(command),
        Command::Audit(command) => documents::run_audit(command),
        Command::Evidence(arguments) => evidence::run(arguments).await,
        Command::Models(command) => models::run(command),
        Command::Config(command) => config::run(command),
        Command::Openapi => openapi::run(),
        Command::Healthcheck(arguments) => healthcheck::run(arguments).await,
        Command::Smoke(arguments) => smoke::run(arguments).await,
        Command::Demo(arguments) => Ok(demo::run(&arguments, &settings(Role::Tool)?.face).await?),
        Command::Evaluate(arguments) => Ok(evaluate::run(&arguments, &settings(Role::Tool)?.face)?),
        Command::Bench(arguments) => Ok(bench::run(&arguments, &settings(Role::Tool)?.face).await?),
    }
}

/// The settings of this process, or every problem with them.
fn settings(role: Role) -> Result<Settings, Failure> {
    Settings::from_environment(role).map_err(Failure::settings)
}

/// Of a command, which does one thing after the other.
const CONNECTIONS: usize = 2;

/// The main database, for a command beside the running program; with the schema of this one.
async fn open_store(settings: &Settings) -> Result<Store, Failure> {
    let failed = |error: StoreError| Failure::because("the main database", error);
    let url = existing(&settings.storage.database)?;
    let secrets = Secrets::read(&settings.secrets).map_err(|error| Failure::because("the keys", error))?;
    let store = Store::connect(url.expose_text(), CONNECTIONS, secrets.blind_index).await.map_err(failed)?;
    store.database().check_schema().await.map_err(failed)?;
    Ok(store)
}

/// The key store, in the same way.
async fn open_keystore(settings: &Settings) -> Result<KeyStore, Failure> {
    let failed = |error: StoreError| Failure::because("the key store", error);
    let url = existing(&settings.storage.keystore)?;
    let keyring = secrets::read_keyring(&settings.secrets);
    let keyring = keyring.map_err(|error| Failure::because("the key-encryption keys", error))?;
    let keystore = KeyStore::connect(url.expose_text(), CONNECTIONS, keyring).await.map_err(failed)?;
    keystore.database().check_schema().await.map_err(failed)?;
    keystore.refresh_keys().await.map_err(failed)?;
    Ok(keystore)
}

/// Before keys change: every tenant's audit log says so, or they stay as they are.
async fn record(store: &Store, action: Action, key: impl fmt::Display) -> Result<(), Failure> {
    let event = Event::of(Actor::operator(), action, key, SystemClock.now());
    store.audit().append_to_all(event).await.map_err(|error| Failure::because("the audit log", error))
}

/// Not to be made by looking.
fn existing(url: &DatabaseUrl) -> Result<&DatabaseUrl, Failure> {
    match url.sqlite_path().filter(|path| !path.exists()) {
        Some(path) => Err(Failure::plain(format!("there is no database at {}", path.display()))),
        None => Ok(url),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in CommandLine::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
