//! The key store: one key for each subject, and none after its destruction; one for the addresses of each period.

use sha2::{Digest, Sha256};
use time::Duration;
use velum::{
    domain::{
        id::{SubjectId, TenantId},
        network::ClientAddress,
    },
    store::{Conflict, DestroyedKey, KeyStore, StoreError},
    vault::{AddressKey, DataKey, Place, VaultError},
};

use crate::databases::*;

const PLACE: Place<'_> = Place { table: "subjects", row: "sub_1", column: "external_ref" };

fn same_key(one: &DataKey, other: &DataKey) -> bool {
    other.open(&PLACE, &one.seal(&PLACE, b"x").unwrap()).is_ok()
}

#[test]
fn a_subject_gets_one_key_and_gets_it_back() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        assert!(keys.get(tenant, subject).await.unwrap().is_none());
        let key = keys.create(tenant, subject, NOW).await.unwrap();
        assert!(same_key(&key, &keys.get(tenant, subject).await.unwrap().unwrap()));
        let second = keys.create(tenant, subject, NOW).await.err().unwrap();
        assert!(matches!(second, StoreError::Conflict(Conflict::DataKey)), "{second}");
        assert!(keys.get(TenantId::generate(), subject).await.unwrap().is_none());
    });
}

#[test]
fn several_keys_are_read_at_once() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let tenant = TenantId::generate();
        let (one, two, destroyed) = (SubjectId::generate(), SubjectId::generate(), SubjectId::generate());
        let first = keys.create(tenant, one, NOW).await.unwrap();
        keys.create(tenant, two, NOW).await.unwrap();
        keys.create(tenant, destroyed, NOW).await.unwrap();
        keys.destroy(tenant, destroyed, NOW).await.unwrap();
        let found = keys.get_many(tenant, &[one, two, destroyed, SubjectId::generate()]).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(same_key(&first, &found[&one]));
        assert!(!same_key(&first, &found[&two]));
        assert!(keys.get_many(TenantId::generate(), &[one, two]).await.unwrap().is_empty());
        assert!(keys.get_many(tenant, &[]).await.unwrap().is_empty());
    });
}

#[test]
fn a_destroyed_key_is_gone_and_never_replaced() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        keys.create(tenant, subject, NOW).await.unwrap();
        // Another tenant destroys nothing.
        keys.destroy(TenantId::generate(), subject, NOW).await.ok();
        assert!(keys.get(tenant, subject).await.unwrap().is_some());

        for repeat in 0..2 {
            keys.destroy(tenant, subject, NOW + Duration::DAY * repeat).await.unwrap();
            assert!(keys.is_destroyed(tenant, subject).await.unwrap());
            assert!(keys.get(tenant, subject).await.unwrap().is_none());
            let again = keys.create(tenant, subject, NOW).await.err().unwrap();
            assert!(matches!(again, StoreError::Conflict(Conflict::DataKeyDestroyed)), "{again}");
        }
        assert_eq!(database.count("data_keys WHERE wrapped IS NOT NULL"), 0);

        // Also for a subject whose key was destroyed before it was made.
        let early = SubjectId::generate();
        keys.destroy(tenant, early, NOW).await.unwrap();
        assert!(keys.create(tenant, early, NOW).await.is_err());
    });
}

#[test]
fn creating_and_destroying_at_once_never_leaves_a_living_key() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let tenant = TenantId::generate();
        for _ in 0..30 {
            let subject = SubjectId::generate();
            let (created, destroyed) =
                tokio::join!(keys.create(tenant, subject, NOW), keys.destroy(tenant, subject, NOW));
            destroyed.unwrap();
            if let Err(error) = created {
                assert!(matches!(error, StoreError::Conflict(Conflict::DataKeyDestroyed)), "{error}");
            }
            assert!(keys.get(tenant, subject).await.unwrap().is_none());
        }
    });
}

#[test]
fn a_destroyed_key_is_gone_from_the_files_of_sqlite() {
    on(Kind::Sqlite, |database| async move {
        let keys = database.key_store().await;
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        keys.create(tenant, subject, NOW).await.unwrap();
        let wrapped = hex::decode(&database.bytes("data_keys", "wrapped")[0]).unwrap();
        let holds = |files: Vec<u8>| files.windows(wrapped.len()).any(|window| window == wrapped);
        assert!(holds(database.sqlite_files()));
        keys.destroy(tenant, subject, NOW).await.unwrap();
        assert!(!holds(database.sqlite_files()));
    });
}

#[test]
fn a_key_store_without_the_key_encryption_key_says_which_is_missing() {
    on_each_database(|database| async move {
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        let key = database.key_store().await.create(tenant, subject, NOW).await.unwrap();

        let rotated = KeyStore::connect(&database.url, 1, keks(&[("2026-11", 1), ("2027-11", 2)])).await.unwrap();
        assert!(same_key(&key, &rotated.get(tenant, subject).await.unwrap().unwrap()));

        let retired = KeyStore::connect(&database.url, 1, keks(&[("2027-11", 2)])).await.unwrap();
        match retired.get(tenant, subject).await.err().unwrap() {
            StoreError::Sealed(VaultError::UnknownKey(id)) => assert_eq!(id, "2026-11"),
            error => panic!("{error}"),
        }
    });
}

/// The wrapped keys in a column, as a certificate names them.
fn named(database: &TestDatabase, column: &str) -> Vec<DestroyedKey> {
    let named = |wrapped: String| DestroyedKey {
        wrapped_sha256: hex::encode(Sha256::digest(hex::decode(wrapped).unwrap())),
        wrapped_by: "2026-11".to_owned(),
    };
    database.bytes("data_keys", column).into_iter().map(named).collect()
}

#[test]
fn whoever_destroys_a_key_is_told_which_it_was_however_often() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        keys.create(tenant, subject, NOW).await.unwrap();
        let present = named(&database, "wrapped");
        assert_eq!(present.len(), 1);
        for _ in 0..2 {
            assert_eq!(keys.destroy(tenant, subject, NOW).await.unwrap(), Some(present.clone()));
        }
        // Who never had one has none to name.
        let nobody = SubjectId::generate();
        for _ in 0..2 {
            assert_eq!(keys.destroy(tenant, nobody, NOW).await.unwrap(), Some(vec![]));
        }
        // A program of before destroyed it, and noted nothing.
        database.execute("UPDATE data_keys SET destroyed_keys = NULL").unwrap();
        assert_eq!(keys.destroy(tenant, subject, NOW).await.unwrap(), None);
    });
}

#[test]
fn a_key_that_is_destroyed_while_it_is_exchanged_was_two() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let (tenant, subject) = (TenantId::generate(), SubjectId::generate());
        keys.create(tenant, subject, NOW).await.unwrap();
        assert_eq!(keys.begin_exchange(NOW + Duration::DAY, NOW).await.unwrap(), 1);
        let both = [named(&database, "wrapped"), named(&database, "next_wrapped")].concat();
        assert_eq!(keys.destroy(tenant, subject, NOW).await.unwrap(), Some(both.clone()));
        assert_ne!(both[0], both[1]);
    });
}

fn hashed(key: &AddressKey) -> String {
    key.hash(ClientAddress::new([203, 0, 113, 7].into())).to_string()
}

#[test]
fn all_who_ask_for_the_key_of_a_period_get_one_and_the_same() {
    on_each_database(|database| async move {
        let (one, other) = (database.key_store().await, database.key_store().await);
        let asked = (0..16).map(|i| if i % 2 == 0 { &one } else { &other }).map(|keys| keys.address_key(NOW));
        let keys = futures_util::future::join_all(asked).await;
        let hashes: Vec<_> = keys.into_iter().map(|key| hashed(&key.unwrap())).collect();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        assert_eq!(database.count("address_keys"), 1);
    });
}

#[test]
fn the_key_of_a_period_ends_with_it_and_never_comes_back() {
    on_each_database(|database| async move {
        let keys = database.key_store().await;
        let old = hashed(&keys.address_key(NOW).await.unwrap());
        let wrapped = database.bytes("address_keys", "wrapped")[0].clone();
        let next = NOW + Duration::DAY;
        let new = hashed(&keys.address_key(next).await.unwrap());
        assert_ne!(new, old);
        assert_eq!(database.count("address_keys"), 1);
        assert_ne!(database.bytes("address_keys", "wrapped")[0], wrapped);
        // A process whose clock is late makes another one, and leaves the new one alone.
        assert_ne!(hashed(&keys.address_key(NOW).await.unwrap()), old);
        assert_eq!(hashed(&keys.address_key(next).await.unwrap()), new);
        assert_eq!(database.count("address_keys"), 1);
    });
}

#[test]
fn the_key_of_a_period_that_is_over_is_gone_from_the_files_of_sqlite() {
    on(Kind::Sqlite, |database| async move {
        let keys = database.key_store().await;
        keys.address_key(NOW).await.unwrap();
        let wrapped = hex::decode(&database.bytes("address_keys", "wrapped")[0]).unwrap();
        let holds = |files: Vec<u8>| files.windows(wrapped.len()).any(|window| window == wrapped);
        assert!(holds(database.sqlite_files()));
        keys.address_key(NOW + Duration::DAY).await.unwrap();
        assert!(!holds(database.sqlite_files()));
    });
}
