//! Up, down, up again; what a program does before a database that is older or newer than itself; schema.rs keeps its word.

use std::{collections::BTreeSet, sync::Arc};

use diesel::{Connection, PgConnection, connection::SimpleConnection};
use futures_util::future::join_all;
use velum::store::StoreError;

use crate::databases::*;

fn tables(database: &TestDatabase) -> Vec<String> {
    let all = match database.kind {
        Kind::Sqlite => "SELECT name AS value FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        Kind::Postgres => "SELECT tablename::text AS value FROM pg_tables WHERE schemaname = 'public'",
    };
    let mut tables = database.values(all);
    tables.retain(|table| table != "__diesel_schema_migrations");
    tables.sort();
    tables
}

#[test]
fn every_migration_goes_up_down_and_up_again() {
    for which in 0..4 {
        on_each_database(|database| async move {
            let other = TestDatabase::new(database.kind).unwrap();
            let migrated = match which {
                0 => other.store().await.database().clone(),
                1 => other.key_store().await.database().clone(),
                2 => other.ledger().await.database().clone(),
                _ => other.journal().await.database().clone(),
            };
            let first = tables(&other);
            assert!(!first.is_empty());
            migrated.check_schema().await.unwrap();
            assert!(migrated.migrate().await.unwrap().is_empty());

            let mut reverted = Vec::new();
            while let Some(version) = migrated.migrate_down().await.unwrap() {
                reverted.push(version);
            }
            assert!(!reverted.is_empty());
            assert!(tables(&other).is_empty(), "{:?}", tables(&other));
            assert!(matches!(migrated.check_schema().await, Err(StoreError::SchemaBehind { .. })));

            reverted.reverse();
            assert_eq!(migrated.migrate().await.unwrap(), reverted);
            assert_eq!(tables(&other), first);
        });
    }
}

#[test]
fn a_database_that_was_never_migrated_is_named_as_behind() {
    on_each_database(|database| async move {
        let store = database.unmigrated_store().await.unwrap();
        let behind = store.database().check_schema().await.unwrap_err();
        assert_eq!(behind.code(), "schema_behind");
        assert!(behind.to_string().contains("main database lacks schema version 2026"), "{behind}");
        assert!(behind.to_string().contains("velum migrate"), "{behind}");
    });
}

#[test]
fn a_newer_program_s_step_that_this_one_cannot_live_with_is_refused_by_version() {
    // A step that needs what this program does not know, and one that came before others it does know.
    for version in ["20991231000000needs20991230000000", "20200101000000"] {
        on_each_database(|database| async move {
            let store = database.store().await;
            came(&database, version);
            let refusals = [
                database.unmigrated_store().await.err().unwrap(),
                store.database().check_schema().await.unwrap_err(),
                store.migrate().await.unwrap_err(),
                store.database().pending(None).await.unwrap_err(),
            ];
            for refusal in refusals {
                assert!(matches!(refusal, StoreError::UnknownSchema { .. }), "{refusal}");
                assert!(refusal.to_string().contains(version), "{refusal}");
            }
        });
    }
}

#[test]
fn a_newer_program_s_step_that_this_one_can_live_with_stands_beside_it() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let (newest, _) = store.database().migrations().await.unwrap().pop().unwrap();
        came(&database, "20991231000000");
        came(&database, &format!("20991231000001needs{newest}"));
        database.unmigrated_store().await.unwrap();
        store.database().check_schema().await.unwrap();
        assert!(store.migrate().await.unwrap().is_empty());
        // The way back is the newer program's.
        let refusal = store.database().migrate_down().await.unwrap_err();
        assert!(refusal.to_string().contains("20991231000001"), "{refusal}");
    });
}

fn came(database: &TestDatabase, version: &str) {
    database.execute(&format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}')")).unwrap();
}

#[test]
fn what_is_pending_says_whether_the_running_program_goes_on_beside_it() {
    on_each_database(|database| async move {
        let store = database.unmigrated_store().await.unwrap();
        let pending = store.database().pending(None).await.unwrap();
        assert!(pending.len() > 1 && pending.iter().all(|(_, beside)| *beside), "beside nothing: {pending:?}");
        store.migrate().await.unwrap();
        assert!(store.database().pending(None).await.unwrap().is_empty());

        let newest = store.database().migrate_down().await.unwrap().unwrap();
        assert_eq!(store.database().pending(None).await.unwrap(), [(newest.clone(), true)]);
        // A program that knows a later version and not this one would refuse to start again.
        let running = vec!["20991231000000".to_owned()];
        assert_eq!(store.database().pending(Some(running)).await.unwrap(), [(newest, false)]);
    });
}

#[test]
fn a_role_that_makes_no_tables_can_look_at_the_schema() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        let name = database.values("SELECT current_database()::text AS value").remove(0);
        let mut superuser = PgConnection::establish(&database.superuser_url()).unwrap();
        superuser.batch_execute(&format!("ALTER DATABASE {name} OWNER TO velum")).unwrap();
        database.execute("CREATE TABLE mine (id int)").unwrap_err();
        store.database().check_schema().await.unwrap();
        database.unmigrated_store().await.unwrap();
        superuser.batch_execute(&format!("ALTER DATABASE {name} OWNER TO velum_app")).unwrap();
    });
}

#[test]
fn several_programs_may_start_and_migrate_at_once() {
    on(Kind::Postgres, start_at_once);
    // Who comes in whose way differs from time to time.
    for _ in 0..20 {
        on(Kind::Sqlite, start_at_once);
    }
}

async fn start_at_once(database: Arc<TestDatabase>) {
    let stores = join_all((0..4).map(|_| database.unmigrated_store())).await;
    let stores: Vec<_> = stores.into_iter().map(Result::unwrap).collect();
    let applied = join_all(stores.iter().map(|store| store.migrate())).await;
    let applied = applied.into_iter().map(Result::unwrap).filter(|versions| !versions.is_empty());
    assert_eq!(applied.count(), 1);
}

#[test]
fn schema_rs_says_what_the_migrations_made() {
    let written = written_schema();
    on_each_database(|database| {
        let written = written.clone();
        async move {
            let mut made = BTreeSet::new();
            for which in 0..4 {
                let other = TestDatabase::new(database.kind).unwrap();
                match which {
                    0 => drop(other.store().await),
                    1 => drop(other.key_store().await),
                    2 => drop(other.ledger().await),
                    _ => drop(other.journal().await),
                }
                made.extend(made_schema(&other));
            }
            assert_eq!(made, written);
        }
    });
}

/// "table.column type [nullable]" of every column in schema.rs.
fn written_schema() -> BTreeSet<String> {
    let (mut columns, mut table) = (BTreeSet::new(), String::new());
    for line in include_str!("../../src/store/schema.rs").lines().map(str::trim) {
        if let Some((column, kind)) = line.strip_suffix(',').and_then(|line| line.split_once(" -> ")) {
            let (kind, nullable) = match kind.strip_prefix("Nullable<") {
                Some(kind) => (kind.trim_end_matches('>'), " nullable"),
                None => (kind, ""),
            };
            columns.insert(format!("{table}.{column} {kind}{nullable}"));
        } else if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = name.to_owned();
        }
    }
    columns
}

fn made_schema(database: &TestDatabase) -> BTreeSet<String> {
    let sql = match database.kind {
        // SQLite has one integer type, and diesel's Integer and BigInt both read it; only one small key uses the former.
        Kind::Sqlite => {
            "SELECT m.name || '.' || c.name || ' ' || CASE WHEN m.name = 'audit_head' AND c.name = 'id' THEN 'Integer' \
             ELSE CASE c.type WHEN 'TEXT' THEN 'Text' WHEN 'BLOB' THEN 'Binary' WHEN 'INTEGER' THEN 'BigInt' \
             WHEN 'REAL' THEN 'Double' ELSE c.type END END || CASE c.\"notnull\" WHEN 0 THEN ' nullable' ELSE '' END \
             AS value FROM sqlite_master m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> '__diesel_schema_migrations'"
        }
        Kind::Postgres => {
            "SELECT table_name || '.' || column_name || ' ' || CASE data_type WHEN 'text' THEN 'Text' WHEN 'bytea' THEN \
             'Binary' WHEN 'bigint' THEN 'BigInt' WHEN 'integer' THEN 'Integer' WHEN 'double precision' THEN 'Double' \
             ELSE data_type END || CASE is_nullable WHEN 'YES' THEN ' nullable' ELSE '' END AS value \
             FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '__diesel_schema_migrations'"
        }
    };
    database.values(sql).into_iter().collect()
}

#[test]
fn the_three_databases_may_share_one_server_but_not_one_database() {
    on_each_database(|database| async move {
        database.store().await;
        let keys = velum::store::KeyStore::connect(&database.url, 1, keks(&[("2026-11", 1)])).await;
        assert!(matches!(keys.err(), Some(StoreError::UnknownSchema { database: "keystore", .. })));
    });
}
