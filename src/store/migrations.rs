//! Migrations, embedded in the program: which there are, which a database has, and up and down between them.

use std::time::Duration;

use diesel::migration::{Migration, MigrationSource};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{
    conn::{AnyConnection, Dialect, MultiBackend, Pool, Reach},
    error::StoreError,
};

/// An index over a large table takes minutes; nothing should take longer than this.
const MIGRATION_WAIT: Duration = Duration::from_secs(3_600);

/// In a version, before the version that a program must know to live with it.
const NEEDS: &str = "needs";

/// The migrations of one database, for PostgreSQL and for SQLite; both carry the same names. No two databases share a
/// version, so that an address given for the wrong one is refused as an unknown schema.
pub struct Migrations {
    pub database: &'static str,
    postgres: EmbeddedMigrations,
    sqlite: EmbeddedMigrations,
}

pub static MAIN: Migrations = Migrations {
    database: "main",
    postgres: embed_migrations!("migrations/main/postgres"),
    sqlite: embed_migrations!("migrations/main/sqlite"),
};
pub static KEYSTORE: Migrations = Migrations {
    database: "keystore",
    postgres: embed_migrations!("migrations/keystore/postgres"),
    sqlite: embed_migrations!("migrations/keystore/sqlite"),
};
pub static LEDGER: Migrations = Migrations {
    database: "ledger",
    postgres: embed_migrations!("migrations/ledger/postgres"),
    sqlite: embed_migrations!("migrations/ledger/sqlite"),
};
pub static JOURNAL: Migrations = Migrations {
    database: "journal",
    postgres: embed_migrations!("migrations/journal/postgres"),
    sqlite: embed_migrations!("migrations/journal/sqlite"),
};

impl Migrations {
    fn source(&self, dialect: Dialect) -> &EmbeddedMigrations {
        match dialect {
            Dialect::Postgres => &self.postgres,
            Dialect::Sqlite => &self.sqlite,
        }
    }

    /// Versions this program knows, oldest first.
    fn known(&self, dialect: Dialect) -> Result<Vec<String>, StoreError> {
        let migrations = MigrationSource::<MultiBackend>::migrations(self.source(dialect));
        let migrations = migrations.map_err(StoreError::Migration)?;
        let mut versions: Vec<_> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Versions the database has, oldest first.
    fn applied(&self, connection: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
        // Looking must not write: two programs that start at once on an empty database would collide, and the role that serves
        // may be one that makes no tables. The library's own way to ask would make its table first.
        if !connection.was_migrated()? {
            return Ok(Vec::new());
        }
        let mut versions = connection.migrated_versions()?;
        versions.sort_unstable();
        Ok(versions)
    }

    /// Refuses a database that a newer program migrated in a way that this one cannot live with, and that of another kind.
    fn refuse_unknown(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let known = self.known(connection.dialect())?;
        let applied = self.applied(connection)?;
        let of_this_kind = applied.first() == known.first();
        let accepted = |version: &String| known.contains(version) || of_this_kind && lives_beside(&known, version);
        match applied.into_iter().rfind(|version| !accepted(version)) {
            None => Ok(()),
            Some(found) => Err(self.unknown(found, &known)),
        }
    }

    fn unknown(&self, found: String, known: &[String]) -> StoreError {
        let newest = known.last().cloned().unwrap_or_default();
        StoreError::UnknownSchema { database: self.database, found, newest }
    }

    /// Fails unless the database has every version that this program knows, and no other that it cannot live with.
    pub async fn check(&'static self, pool: &Pool) -> Result<(), StoreError> {
        pool.run(Reach::Every, |connection| {
            self.refuse_unknown(connection)?;
            let applied = self.applied(connection)?;
            match self.known(connection.dialect())?.into_iter().find(|version| !applied.contains(version)) {
                None => Ok(()),
                Some(missing) => Err(StoreError::SchemaBehind { database: self.database, missing }),
            }
        })
        .await
    }

    /// Like `check`, but content with a database that has yet to be migrated.
    pub async fn check_known(&'static self, pool: &Pool) -> Result<(), StoreError> {
        pool.run(Reach::Every, |connection| self.refuse_unknown(connection)).await
    }

    /// Every known version, oldest first, and whether the database has it.
    pub async fn status(&'static self, pool: &Pool) -> Result<Vec<(String, bool)>, StoreError> {
        pool.run(Reach::Every, |connection| {
            let applied = self.applied(connection)?;
            let known = self.known(connection.dialect())?.into_iter();
            Ok(known.map(|version| (version.clone(), applied.contains(&version))).collect())
        })
        .await
    }

    /// What [`up`](Self::up) would apply, oldest first, and whether the running program can go on beside it. That program
    /// knows the versions `running`; without them, what the database has.
    pub async fn pending(
        &'static self,
        pool: &Pool,
        running: Option<Vec<String>>,
    ) -> Result<Vec<(String, bool)>, StoreError> {
        pool.run(Reach::Every, move |connection| {
            self.refuse_unknown(connection)?;
            let applied = self.applied(connection)?;
            let missing = self.known(connection.dialect())?.into_iter().filter(|version| !applied.contains(version));
            let running = running.as_ref().unwrap_or(&applied);
            Ok(missing
                .map(|version| (version.clone(), running.is_empty() || lives_beside(running, &version)))
                .collect())
        })
        .await
    }

    /// Applies what is missing; the versions it applied, oldest first.
    pub async fn up(&'static self, pool: &Pool) -> Result<Vec<String>, StoreError> {
        let up = |connection: &mut AnyConnection| {
            self.refuse_unknown(connection)?;
            let source = Borrowed(self.source(connection.dialect()));
            let applied = connection.run_pending_migrations(source).map_err(migration_error)?;
            Ok(applied.iter().map(ToString::to_string).collect())
        };
        pool.run_within(MIGRATION_WAIT, Reach::Every, move |connection| connection.migrate(up)).await
    }

    /// Takes the newest migration back; its version, or `None` where there was nothing to take back.
    pub async fn down(&'static self, pool: &Pool) -> Result<Option<String>, StoreError> {
        let down = |connection: &mut AnyConnection| {
            let known = self.known(connection.dialect())?;
            match self.applied(connection)?.pop() {
                None => return Ok(None),
                // Only the program that brought it knows the way back.
                Some(newest) if !known.contains(&newest) => return Err(self.unknown(newest, &known)),
                Some(_) => {}
            }
            let source = Borrowed(self.source(connection.dialect()));
            let reverted = connection.revert_last_migration(source).map_err(migration_error)?;
            Ok(Some(reverted.to_string()))
        };
        pool.run_within(MIGRATION_WAIT, Reach::Every, move |connection| connection.migrate(down)).await
    }
}

/// Whether a program that knows these versions goes on beside a newer program's: the version says it. `20270201000800` is
/// a step that every older program lives with, `20270201000800needs20261201000700` one for those that know the latter.
fn lives_beside(known: &[String], version: &str) -> bool {
    let is_later = known.last().is_some_and(|newest| version > newest.as_str());
    let needed = version.split_once(NEEDS).map(|(_, needed)| needed);
    is_later && needed.is_none_or(|needed| known.iter().any(|known| known.split(NEEDS).next() == Some(needed)))
}

fn migration_error(error: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    match error.downcast::<diesel::result::Error>() {
        Ok(error) => StoreError::from(*error),
        Err(error) => StoreError::Migration(error),
    }
}

/// The harness wants to own its source; this lends it one.
struct Borrowed<'a>(&'a EmbeddedMigrations);

impl MigrationSource<MultiBackend> for Borrowed<'_> {
    fn migrations(&self) -> diesel::migration::Result<Vec<Box<dyn Migration<MultiBackend>>>> {
        self.0.migrations()
    }
}
