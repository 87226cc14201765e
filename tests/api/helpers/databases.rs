//! The three databases of one server under test, and a way to look into them past the program.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use diesel::{Connection, PgConnection, RunQueryDsl, SqliteConnection, connection::SimpleConnection, sql_query};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    /// SQLite comes with the program; PostgreSQL is here where `VELUM_TEST_POSTGRES_URL` says so.
    pub fn is_here(self) -> bool {
        self == Self::Sqlite || postgres_url().is_some()
    }

    pub fn here() -> impl Iterator<Item = Self> {
        [Self::Sqlite, Self::Postgres].into_iter().filter(|kind| kind.is_here())
    }

    /// The one that production has, if it is here.
    pub fn foremost() -> Self {
        if Self::Postgres.is_here() { Self::Postgres } else { Self::Sqlite }
    }
}

pub struct Databases {
    pub kind: Kind,
    pub main: String,
    pub keystore: String,
    pub ledger: String,
    pub journal: String,
    /// The server's own database, from which others are made and removed.
    postgres: Option<String>,
}

impl Databases {
    pub fn make(kind: Kind, folder: &Path) -> Self {
        match kind {
            Kind::Sqlite => {
                let url = |name: &str| format!("sqlite:{}", folder.join(name).display());
                let (main, keystore, ledger) = (url("velum.db"), url("keystore.db"), url("ledger.db"));
                Self { kind, main, keystore, ledger, journal: url("keyholder.db"), postgres: None }
            }
            Kind::Postgres => {
                let server = postgres_url().expect("VELUM_TEST_POSTGRES_URL");
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let number = COUNT.fetch_add(1, Ordering::Relaxed);
                let make = |purpose: &str| {
                    let name = format!("velum_api_{}_{number}_{purpose}", std::process::id());
                    execute_on(&server, &format!("DROP DATABASE IF EXISTS {name}"));
                    execute_on(&server, &format!("CREATE DATABASE {name} OWNER velum_app"));
                    // Not the superuser: row-level security binds the program under test.
                    let server = server.replacen("//velum:", "//velum_app:", 1);
                    format!("{}/{name}", server.rsplit_once('/').expect("a database in the URL").0)
                };
                let (main, keystore, ledger) = (make("main"), make("keystore"), make("ledger"));
                Self { kind, main, keystore, ledger, journal: make("journal"), postgres: Some(server) }
            }
        }
    }

    pub fn execute(&self, url: &str, statement: &str) {
        match self.kind {
            Kind::Sqlite => sqlite(url).batch_execute(statement).unwrap(),
            Kind::Postgres => execute_on(url, statement),
        }
    }

    /// How many rows of a table mention this text in one of the named columns.
    pub fn count(&self, url: &str, table: &str, condition: &str) -> i64 {
        #[derive(diesel::QueryableByName)]
        struct Count {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            rows: i64,
        }
        let query = format!("SELECT COUNT(*) AS rows FROM {table} WHERE {condition}");
        match self.kind {
            Kind::Sqlite => sql_query(query).get_result::<Count>(&mut sqlite(url)).unwrap().rows,
            Kind::Postgres => sql_query(query).get_result::<Count>(&mut postgres(url)).unwrap().rows,
        }
    }

    /// What a query `SELECT ... AS text` gives.
    pub fn texts(&self, url: &str, query: &str) -> Vec<String> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Text)]
            text: String,
        }
        let rows: Vec<Row> = match self.kind {
            Kind::Sqlite => sql_query(query).load(&mut sqlite(url)).unwrap(),
            Kind::Postgres => sql_query(query).load(&mut postgres(url)).unwrap(),
        };
        rows.into_iter().map(|row| row.text).collect()
    }

    /// Takes the main database away: what a client then sees is an outage.
    pub fn take_main_away(&self) {
        match (&self.postgres, self.sqlite_file()) {
            (Some(server), _) => {
                let name = self.main_name();
                execute_on(server, &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"));
                let others = format!("datname = '{name}' AND pid <> pg_backend_pid()");
                execute_on(server, &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"));
            }
            (None, Some(_)) => panic!("a file does not go away; tests of outages lock it instead"),
            (None, None) => unreachable!(),
        }
    }

    pub fn bring_main_back(&self) {
        if let Some(server) = &self.postgres {
            execute_on(server, &format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", self.main_name()));
        }
    }

    /// Tells a program of ours that these are its databases.
    pub fn are_of<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("VELUM_DATABASE_URL", &self.main)
            .env("VELUM_KEYSTORE_URL", &self.keystore)
            .env("VELUM_LEDGER_URL", &self.ledger)
            .env("VELUM_KEYHOLDER_JOURNAL_URL", &self.journal)
    }

    /// A copy of a database, as a backup would be.
    pub fn back_up(&self, url: &str) -> Backup {
        let copy = format!("{url}_backup");
        match &self.postgres {
            Some(server) => {
                let (name, copy) = (name_in(url), name_in(&copy));
                let others = format!("datname = '{name}' AND pid <> pg_backend_pid()");
                execute_on(server, &format!("DROP DATABASE IF EXISTS {copy}"));
                // Whoever was connected comes again at once, and nobody may be while it is copied.
                execute_on(server, &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"));
                execute_on(server, &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"));
                execute_on(server, &format!("CREATE DATABASE {copy} TEMPLATE {name} OWNER velum_app"));
                execute_on(server, &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"));
            }
            None => sqlite(url).batch_execute(&format!("VACUUM INTO '{}'", path_in(&copy))).unwrap(),
        }
        Backup { url: url.to_owned(), copy }
    }

    /// Puts the copy in place of the database. Nobody may be connected.
    pub fn restore(&self, backup: &Backup) {
        match &self.postgres {
            Some(server) => {
                let (name, copy) = (name_in(&backup.url), name_in(&backup.copy));
                execute_on(server, &format!("DROP DATABASE {name} WITH (FORCE)"));
                execute_on(server, &format!("CREATE DATABASE {name} TEMPLATE {copy} OWNER velum_app"));
            }
            None => {
                let path = path_in(&backup.url);
                wait_until_closed(path);
                for suffix in ["-wal", "-shm"] {
                    let _not_there = std::fs::remove_file(format!("{path}{suffix}"));
                }
                std::fs::copy(path_in(&backup.copy), path).unwrap();
            }
        }
    }

    /// Holds SQLite's write lock until dropped.
    pub fn lock_main(&self) -> SqliteConnection {
        let mut connection = sqlite(&self.main);
        connection.batch_execute("BEGIN EXCLUSIVE").unwrap();
        connection
    }

    fn main_name(&self) -> &str {
        self.main.rsplit_once('/').expect("a database in the URL").1
    }

    fn sqlite_file(&self) -> Option<PathBuf> {
        self.main.strip_prefix("sqlite:").map(PathBuf::from)
    }
}

/// A copy of one database; its file goes with the folder, its PostgreSQL database with [`Databases`].
pub struct Backup {
    url: String,
    copy: String,
}

/// The pool of a server that was stopped closes its files a moment later, and writes what is left of its log before.
fn wait_until_closed(path: &str) {
    let begin = Instant::now();
    while is_open(path) {
        assert!(begin.elapsed() < Duration::from_secs(10), "{path} is still open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_open(path: &str) -> bool {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.any(|target| target.to_string_lossy().starts_with(path))
}

fn name_in(url: &str) -> &str {
    url.rsplit_once('/').expect("a database in the URL").1
}

fn path_in(url: &str) -> &str {
    url.strip_prefix("sqlite:").expect("a file")
}

impl Drop for Databases {
    fn drop(&mut self) {
        let Some(server) = &self.postgres else { return };
        for url in [&self.main, &self.keystore, &self.ledger, &self.journal] {
            let name = url.rsplit_once('/').expect("a database in the URL").1;
            execute_on(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            execute_on(server, &format!("DROP DATABASE IF EXISTS {name}_backup WITH (FORCE)"));
        }
    }
}

fn postgres_url() -> Option<String> {
    std::env::var("VELUM_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty())
}

fn execute_on(url: &str, statement: &str) {
    postgres(url).batch_execute(statement).unwrap();
}

/// Sees every tenant's rows.
fn postgres(url: &str) -> PgConnection {
    let mut connection = PgConnection::establish(url).expect("PostgreSQL answers");
    connection.batch_execute("SET velum.tenant = '*'").unwrap();
    connection
}

fn sqlite(url: &str) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(url.trim_start_matches("sqlite:")).expect("SQLite opens");
    connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
    connection
}
