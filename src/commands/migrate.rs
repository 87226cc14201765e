//! `velum migrate`: the schema of each database, up, down or looked at. Needs the addresses and no key.

use clap::{Args, Subcommand, ValueEnum};

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
    Status,
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
            Direction::Status => status(which, &database).await,
        }
        .map_err(failed)?;
    }
    Ok(())
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

async fn status(which: Which, database: &Database) -> Result<(), StoreError> {
    for (version, applied) in database.migrations().await? {
        println!("{}: {version} {}", which.kind().as_str(), if applied { "applied" } else { "missing" });
    }
    Ok(())
}
