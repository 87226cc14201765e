//! `velum migrate`: the schema of each database, up, down or looked at. Needs the addresses and no key.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{Failure, settings};
use crate::{
    domain::clock::{Clock, SystemClock},
    secrets,
    settings::{DatabaseUrl, KeyholderSettings, Mode, Role, Settings},
    store::{Database, DatabaseKind, StoreError},
};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    direction: Option<Direction>,
    /// One database alone; without it, all that this machine uses
    #[arg(long, global = true, value_enum)]
    database: Option<Which>,
}

#[derive(Subcommand)]
enum Direction {
    /// Apply every migration that is missing (the default)
    Up,
    /// Take the newest migration of one database back, WITH THE DATA it held
    Down,
    /// Say which migrations there are and which are applied
    Status {
        /// As JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Say what `up` would apply; fails where the running program could not go on beside it
    Check {
        /// What the running program knows: its `velum migrate status --json`, - for standard input. Without it, what is applied
        #[arg(long, value_name = "FILE")]
        beside: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Main,
    Keystore,
    Ledger,
    Journal,
}

impl Which {
    fn kind(self) -> DatabaseKind {
        match self {
            Self::Main => DatabaseKind::Main,
            Self::Keystore => DatabaseKind::Keystore,
            Self::Ledger => DatabaseKind::Ledger,
            Self::Journal => DatabaseKind::Journal,
        }
    }

    fn url(self, settings: &Settings) -> &DatabaseUrl {
        match self {
            Self::Main => &settings.storage.database,
            Self::Keystore => &settings.storage.keystore,
            Self::Ledger => &settings.storage.ledger,
            Self::Journal => &settings.keyholder_server.journal,
        }
    }
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let direction = arguments.direction.unwrap_or(Direction::Up);
    let mut running = match &direction {
        Direction::Check { beside: Some(file) } => Some(known_to_the_running(file)?),
        _ => None,
    };
    let mut refused = Vec::new();
    if matches!(direction, Direction::Down) && arguments.database.is_none() {
        return Err(Failure::plain("a migration is taken back in one database at a time")
            .next("name it: velum migrate down --database main|keystore|ledger|journal"));
    }
    if settings.mode == Mode::Embedded && matches!(direction, Direction::Up) {
        // As a first start would: a database that is there before its keys looks like one that lost them.
        let made = secrets::ensure_development(&settings, SystemClock.now());
        made.map_err(|error| Failure::because("the keys of the embedded mode", error))?;
    }
    for which in chosen(arguments.database, &settings) {
        if let Some(path) = which.url(&settings).sqlite_path()
            && !matches!(direction, Direction::Up)
            && !path.exists()
        {
            println!("{}: {} is not there", which.kind().as_str(), path.display());
            continue;
        }
        let failed = |error: StoreError| Failure::because(&format!("the {} database", which.kind().as_str()), error);
        let database = Database::open(which.kind(), which.url(&settings).expose_text()).await.map_err(failed)?;
        match direction {
            Direction::Up => up(which, &database).await,
            Direction::Down => down(which, &database).await,
            Direction::Status { json } => status(which, &database, json).await,
            Direction::Check { .. } => {
                let running = running.as_mut().map(|running| running.remove(which.kind().as_str()).unwrap_or_default());
                check(which, &database, running).await.map(|alone| refused.extend(alone))
            }
        }
        .map_err(failed)?;
    }
    match refused.as_slice() {
        [] => Ok(()),
        versions => Err(Failure::plain(format!("the running program cannot go on beside {}", versions.join(", ")))
            .next("deploy the release before this one first, or stop every process and run velum migrate")),
    }
}

/// The journal belongs to the keyholder: it is this machine's only where the keyholder is.
fn chosen(named: Option<Which>, settings: &Settings) -> Vec<Which> {
    match (named, &settings.keyholder) {
        (Some(which), _) => vec![which],
        (None, KeyholderSettings::Local) => vec![Which::Main, Which::Keystore, Which::Ledger, Which::Journal],
        (None, KeyholderSettings::Remote { .. }) => vec![Which::Main, Which::Keystore, Which::Ledger],
    }
}

async fn up(which: Which, database: &Database) -> Result<(), StoreError> {
    let applied = database.migrate().await?;
    match applied.as_slice() {
        [] => println!("{}: nothing to do", which.kind().as_str()),
        versions => println!("{}: applied {}", which.kind().as_str(), versions.join(", ")),
    }
    Ok(())
}

async fn down(which: Which, database: &Database) -> Result<(), StoreError> {
    match database.migrate_down().await? {
        Some(version) => println!("{}: took {version} back", which.kind().as_str()),
        None => println!("{}: nothing to take back", which.kind().as_str()),
    }
    Ok(())
}

/// One line of `velum migrate status --json`: a version that the program knows.
#[derive(Serialize, Deserialize)]
struct Known {
    database: String,
    version: String,
    applied: bool,
}

async fn status(which: Which, database: &Database, json: bool) -> Result<(), StoreError> {
    for (version, applied) in database.migrations().await? {
        let database = which.kind().as_str();
        match json {
            true => println!("{}", serde_json::json!(Known { database: database.to_owned(), version, applied })),
            false => println!("{database}: {version} {}", if applied { "applied" } else { "missing" }),
        }
    }
    Ok(())
}

/// By database.
fn known_to_the_running(file: &Path) -> Result<HashMap<String, Vec<String>>, Failure> {
    let unreadable = |error| Failure::because(&format!("what the running program knows ({})", file.display()), error);
    let text = match file.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(file),
    };
    let mut known: HashMap<_, Vec<_>> = HashMap::new();
    for line in text.map_err(unreadable)?.lines() {
        let line: Known = serde_json::from_str(line).map_err(|error| unreadable(error.into()))?;
        known.entry(line.database).or_default().push(line.version);
    }
    Ok(known)
}

/// The pending migrations that the running program could not live with.
async fn check(which: Which, database: &Database, running: Option<Vec<String>>) -> Result<Vec<String>, StoreError> {
    let pending = database.pending(running).await?;
    if pending.is_empty() {
        println!("{}: nothing to do", which.kind().as_str());
    }
    for (version, beside) in &pending {
        let word = if *beside { "the running program goes on" } else { "NOT beside the running program" };
        println!("{}: {version} {word}", which.kind().as_str());
    }
    Ok(pending.into_iter().filter(|(_, beside)| !beside).map(|(version, _)| version).collect())
}
