//! A database that is away is an error within seconds, never a hang; one that is back is used again.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use velum::{
    store::{Store, StoreError},
    vault::BlindIndexKey,
};
use zeroize::Zeroizing;

use crate::databases::*;

const PATIENCE: Duration = Duration::from_secs(8);

async fn connect(url: &str) -> Result<Store, StoreError> {
    Store::connect(url, 2, BlindIndexKey::from_bytes(Zeroizing::new([9; 32]))).await
}

async fn refused_in_time(url: &str) {
    let begin = Instant::now();
    let error = connect(url).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_or_silent_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // takes connections and never says a word
    let silent = format!("postgres://velum@{}/velum", listener.local_addr().unwrap());
    refused_in_time(&silent).await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    refused_in_time(&format!("postgres://velum@{address}/velum")).await;
    refused_in_time("sqlite:/nowhere/at/all/velum.db").await;
}

#[tokio::test]
async fn an_address_that_is_no_database_is_refused_in_words() {
    for url in ["", "sqlite:", "mysql://localhost/velum", "sqlite::memory:", "http://localhost"] {
        let error = connect(url).await.err().unwrap();
        assert!(matches!(error, StoreError::BadUrl(_)), "{url}: {error}");
    }
}

#[test]
fn a_database_that_comes_back_is_used_again() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        store.tenants().find(tenant).await.unwrap();
        for _ in 0..2 {
            database.allow_connections(false);
            for _ in 0..3 {
                let begin = Instant::now();
                let error = store.tenants().find(tenant).await.unwrap_err();
                assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                assert!(begin.elapsed() < PATIENCE);
            }
            database.allow_connections(true);
            assert_eq!(store.tenants().find(tenant).await.unwrap().id, tenant);
        }
    });
}

#[test]
fn a_connection_lost_in_the_middle_of_the_work_is_unavailable() {
    on(Kind::Postgres, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, key) = subject(&store, tenant, "emp-0042").await;
        grant(&store, tenant, id).await;
        // A stranger holds the subject, so the store waits inside its transaction when the server cuts it off.
        let _stranger = database.stranger("BEGIN; UPDATE subjects SET created_at = 0");
        let waiting = insert_verification(&store, tenant, verification_of(id), &key);
        let cut = async {
            database.wait_for_blocked(1).await;
            database.allow_connections(false);
            database.allow_connections(true);
        };
        let (result, ()) = tokio::join!(waiting, cut);
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
        insert_verification(&store, tenant, verification_of(id), &key).await.unwrap();
    });
}

#[test]
fn a_file_locked_for_long_is_unavailable_and_then_used_again() {
    on(Kind::Sqlite, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let (id, _) = subject(&store, tenant, "emp-0042").await;
        let blocker = {
            use diesel::{Connection, connection::SimpleConnection};
            let path = database.url.trim_start_matches("sqlite:");
            let mut connection = diesel::SqliteConnection::establish(path).unwrap();
            connection.batch_execute("BEGIN IMMEDIATE").unwrap();
            connection
        };
        let begin = Instant::now();
        let error = store.consents().insert(tenant, &consent_of(id), &any_key(), act()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(begin.elapsed() < PATIENCE);
        // Readers do not mind.
        store.subjects().find(tenant, id).await.unwrap();
        drop(blocker);
        store.consents().insert(tenant, &consent_of(id), &any_key(), act()).await.unwrap();
    });
}

#[test]
fn the_lock_of_an_open_file_is_kept_while_more_connections_come() {
    use std::os::unix::fs::MetadataExt;
    on(Kind::Sqlite, |database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let tenants = store.tenants();
        // So many at once that the pool opens every connection it may.
        let finds = (0..POOL_SIZE).map(|_| tenants.find(tenant));
        futures_util::future::join_all(finds).await.into_iter().for_each(|found| drop(found.unwrap()));
        // Without it another program that ends takes itself for the last one, and deletes the log under us.
        let file = std::fs::metadata(database.url.trim_start_matches("sqlite:")).unwrap().ino();
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let (us, file) = (format!(" {} ", std::process::id()), format!(":{file} "));
        let ours = |lock: &str| lock.contains("POSIX") && lock.contains(&us) && lock.contains(&file);
        assert!(locks.lines().any(ours), "{file} {locks}");
    });
}

#[test]
fn a_crowd_larger_than_the_pool_is_served_in_turn() {
    on_each_database(|database| async move {
        let store = database.store().await;
        let tenant = tenant(&store).await;
        let tenants = store.tenants();
        let finds = (0..POOL_SIZE * 8).map(|_| tenants.find(tenant));
        for found in futures_util::future::join_all(finds).await {
            found.unwrap();
        }
    });
}
