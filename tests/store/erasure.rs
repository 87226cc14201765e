//! Deleting a subject removes every row of that person and of nobody else, also while others write.

use std::{sync::Arc, time::Instant};

use velum::store::{Conflict, DeletedRows, StoreError};

use crate::databases::*;

const TABLES: [&str; 5] = ["subjects", "consents", "enrolments", "verifications", "access_requests"];

#[test]
fn deleting_a_subject_removes_all_of_it_and_only_that() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let mut subjects = Vec::new();
        for external_ref in ["emp-1", "emp-2"] {
            let (id, key) = subject(&store, tenant, external_ref).await;
            grant(&store, tenant, id).await;
            insert_template(&store, tenant, id, &key, b"one").await.unwrap();
            insert_template(&store, tenant, id, &key, b"two").await.unwrap();
            insert_verification(&store, tenant, verification_of(id), &key).await.unwrap();
            answered(&store, tenant, id, &key).await;
            subjects.push((id, key));
        }
        let (erased, _) = &subjects[0];
        let request = erasure_of(tenant, *erased);
        store.erasures().open(&request, None, act()).await.unwrap();
        let remove = async || store.erasures().remove_rows(tenant, request.id, *erased, act().event).await;
        let deleted = remove().await.unwrap().removed.unwrap();
        assert_eq!(
            deleted.rows,
            DeletedRows {
                subjects: 1,
                consents: 1,
                enrolments: 2,
                verifications: 1,
                access_requests: 1,
                ..DeletedRows::default()
            }
        );
        assert_eq!(TABLES.map(|table| database.count(table)), [1, 1, 2, 1, 1]);
        for table in TABLES {
            let column = if table == "subjects" { "id" } else { "subject_id" };
            let left = format!("SELECT {column} AS value FROM {table} WHERE {column} = '{erased}'");
            assert!(database.values(&left).is_empty(), "{table}");
        }
        assert_eq!(remove().await.unwrap().removed, Some(deleted), "what was removed first stands");
        assert!(matches!(store.subjects().find(tenant, *erased).await, Err(StoreError::NotFound)));

        let (kept, key) = &subjects[1];
        assert_eq!(store.templates().load(tenant, *kept, &kind(), None, key).await.unwrap().len(), 2);
        // The reference is free again.
        subject(&store, tenant, "emp-1").await;
    });
}

#[test]
fn a_subject_deleted_under_writers_leaves_nothing_behind() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        for round in 0..5 {
            let (id, key) = subject(&store, tenant, "emp-0042").await;
            let key = Arc::new(key);
            grant(&store, tenant, id).await;
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (store, key) = (store.clone(), key.clone());
                    tokio::spawn(async move {
                        loop {
                            let begun = Instant::now();
                            let result = match writer {
                                0 => store.consents().insert(tenant, &consent_of(id), &any_key(), act()).await,
                                _ => insert_verification(&store, tenant, verification_of(id), &key).await,
                            };
                            match result {
                                Ok(()) => {}
                                // A fast machine grants all that a person may have before the erasure has its turn.
                                Err(StoreError::Conflict(Conflict::TooManyConsents)) if writer == 0 => {}
                                Err(StoreError::NoConsent | StoreError::NotFound) => break,
                                Err(error) => panic!("{error:?}"),
                            }
                            // Who never rests would starve the others, as the lock of SQLite is not fair: the slower the
                            // disk, the longer.
                            tokio::time::sleep(3 * begun.elapsed()).await;
                        }
                    })
                })
                .collect();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            erase(&store, tenant, id).await;
            assert_eq!(TABLES.map(|table| database.count(table)), [0; 5], "round {round}");
            for writer in writers {
                writer.await.unwrap();
            }
            assert_eq!(TABLES.map(|table| database.count(table)), [0; 5], "round {round}, later");
        }
    });
}

#[test]
fn deleted_rows_are_gone_from_the_files_of_sqlite() {
    on(Kind::Sqlite, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        insert_template(&store, tenant, id, &key, &[7; 9_000]).await.unwrap();
        let sealed = hex::decode(&database.bytes("enrolments", "template")[0]).unwrap();
        // Overflow pages cut a long value; a piece of it is enough to look for.
        let piece = &sealed[100..164];
        let holds = |files: Vec<u8>| files.windows(piece.len()).any(|window| window == piece);
        assert!(holds(database.sqlite_files()));
        erase(&store, tenant, id).await;
        assert!(!holds(database.sqlite_files()));
    });
}

#[test]
fn the_files_of_sqlite_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    on(Kind::Sqlite, |database| async move {
        let store = database.store().await;
        tenant(&store).await;
        let paths = database.sqlite_paths();
        assert!(paths.len() >= 2, "{paths:?}");
        for path in paths {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    });
}
