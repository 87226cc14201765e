use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::dev::ServerHandle;
use futures_util::{StreamExt as _, future::join_all, stream};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use velum::{
    domain::face::UploadedImage,
    keyholder::{
        DEFAULT_BUDGETS, LocalKeyholder,
        server::{self, ServerConfig},
    },
    secrets,
    store::KeyholderJournal,
    tls::development,
};

use super::helpers::{Answer, Client, Kind, TestApp, each_database, engine, free_port, photos, streamed};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_answers_503_at_once_and_recovers() {
    let app = TestApp::spawn(Kind::Sqlite, &[("COMPUTE_WORKERS", "1"), ("COMPUTE_QUEUE", "1")]).await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);

    let compute = app.running.flows().compute();
    let places = [compute.reserve().unwrap(), compute.reserve().unwrap()];
    let started = Instant::now();
    let answer = client.verify(&subject, photos::collins()).await.expect_problem(503, "busy");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(places);

    let answers = join_all((0..8).map(|_| client.verify(&subject, photos::collins()))).await;
    for answer in &answers {
        assert!(matches!(answer.status.as_u16(), 201 | 503), "{}", answer.text);
    }
    assert!(answers.iter().any(|answer| answer.status == 201));
    while compute.places_taken() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await; // given back a moment after the answer
    }
    client.verify(&subject, photos::collins()).await.expect(201);
}

/// A body of which nothing comes after its head.
fn stalled(client: &Client, subject: &str) -> JoinHandle<Answer> {
    let (client, path) = (client.clone(), format!("/v1/subjects/{subject}/verifications"));
    let body = streamed(stream::iter([vec![0xff, 0xd8, 0xff]]).chain(stream::pending()));
    tokio::spawn(async move { client.post_raw(&path, "image/jpeg", body).await })
}

async fn uploads_taken(app: &TestApp, bytes: usize) {
    while app.running.flows().uploads().bytes_taken() != bytes {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_stall_keep_nobody_from_the_processors() {
    let app = TestApp::spawn(Kind::Sqlite, &[("COMPUTE_WORKERS", "1"), ("COMPUTE_QUEUE", "1")]).await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let senders: Vec<_> = (0..8).map(|_| stalled(&client, &subject)).collect();
    uploads_taken(&app, 8 * UploadedImage::BYTES_MAX).await;
    client.verify(&subject, photos::collins()).await.expect(201);
    senders.iter().for_each(JoinHandle::abort);
    uploads_taken(&app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_on_their_way_take_no_more_memory_than_they_may() {
    let app = TestApp::spawn(Kind::Sqlite, &[("UPLOAD_MEMORY_MB", "48")]).await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    // Half of the memory is one tenant's: two images whose size nobody announced.
    let senders = [stalled(&client, &subject), stalled(&client, &subject)];
    uploads_taken(&app, 2 * UploadedImage::BYTES_MAX).await;
    let answer = stalled(&client, &subject).await.unwrap().expect_problem(503, "busy");
    assert!(answer.header("retry-after").is_some());
    client.verify(&subject, photos::hopper()).await.expect(201);

    let foreigner = app.foreign_client().await;
    let foreign_subject = foreigner.consenting_subject().await;
    foreigner.enrol(&foreign_subject, photos::collins()).await.expect(201);
    senders.iter().for_each(JoinHandle::abort);
    uploads_taken(&app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyholder_that_is_away_is_a_503_and_nothing_is_lost() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        app.databases.execute(&app.databases.journal, "ALTER TABLE opened_verifications RENAME TO away");

        client.get("/readyz").await.expect(503);
        let answer = client.verify(&subject, photos::collins()).await.expect_problem(503, "keyholder_unavailable");
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
        client.enrol(&subject, photos::collins()).await.expect(201);

        app.databases.execute(&app.databases.journal, "ALTER TABLE away RENAME TO opened_verifications");
        assert_eq!(client.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");
        let enrolments = client.get(&format!("/v1/subjects/{subject}/enrolments")).await.expect(200).json();
        assert_eq!(enrolments["data"].as_array().unwrap().len(), 2);
    })
    .await;
}

/// A keyholder behind mutual TLS, with the certificates that the server under test made for it.
async fn keyholder_of(app: &TestApp, listen: SocketAddr) -> (ServerHandle, JoinHandle<std::io::Result<()>>) {
    let made = development::ensure(&app.data_dir.path().join("tls"), &[], OffsetDateTime::now_utc()).unwrap();
    let journal = KeyholderJournal::connect(&app.databases.journal, 2).await.unwrap();
    journal.migrate().await.unwrap();
    let secret = secrets::read_secret_keys(&engine::fhe_dir()).unwrap();
    let keyholder = LocalKeyholder::start(secret, journal, DEFAULT_BUDGETS, app.clock.clone()).await.unwrap();
    let config = ServerConfig {
        listen,
        identity: made.keyholder,
        edge_authority: made.authority,
        admitted_edges: vec![],
        workers: 1,
    };
    let server = server::start(TcpListener::bind(listen).unwrap(), &config, Arc::new(keyholder)).unwrap();
    (server.handle(), tokio::spawn(server))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyholder_elsewhere_is_missed_and_found_again_without_a_restart() {
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let app = TestApp::spawn(Kind::Sqlite, &[("KEYHOLDER", &format!("https://{listen}"))]).await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    for _ in 0..2 {
        let answer = client.verify(&subject, photos::collins()).await.expect_problem(503, "keyholder_unavailable");
        assert!(answer.header("retry-after").is_some());
        client.get("/readyz").await.expect(503);

        let (handle, task) = keyholder_of(&app, listen).await;
        client.get("/readyz").await.expect(200);
        assert_eq!(client.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");
        assert_eq!(client.verify(&subject, photos::hopper()).await.expect(201).json()["decision"], "no_match");
        handle.stop(true).await;
        task.await.unwrap().unwrap();
    }
    let kept = client.get(&format!("/v1/subjects/{subject}/verifications")).await.expect(200).json();
    assert_eq!(kept["data"].as_array().unwrap().len(), 4, "the answered ones, and no half of the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_a_503_and_works_again_after() {
    if !Kind::Postgres.is_here() {
        eprintln!("skipped: VELUM_TEST_POSTGRES_URL is not set");
        return;
    }
    let app = TestApp::spawn(Kind::Postgres, &[]).await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    app.databases.take_main_away();
    let answer = client.get(&format!("/v1/subjects/{subject}/consents")).await.expect_problem(503, "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    client.enrol(&subject, photos::collins()).await.expect_problem(503, "store_unavailable");
    let ready = client.get("/readyz").await.expect(503).json();
    assert_eq!(ready["status"], "unavailable");
    client.get("/livez").await.expect(200);
    let (id, secret) = app.credential();
    let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret)];
    assert_eq!(client.post_token(&form).await.expect(503).json()["error"], "temporarily_unavailable");

    app.databases.bring_main_back();
    client.get("/readyz").await.expect(200);
    client.enrol(&subject, photos::collins()).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_sqlite_file_is_a_503() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let lock = app.databases.lock_main();
    let body = serde_json::json!({ "external_ref": "late" });
    client.post("/v1/subjects", body.clone()).await.expect_problem(503, "store_unavailable");
    drop(lock);
    client.post("/v1/subjects", body).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_finishes_what_it_has_and_closes_connections() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let verifying = {
        let (client, subject) = (client.clone(), subject.clone());
        tokio::spawn(async move { client.verify(&subject, photos::collins()).await })
    };
    while app.running.flows().compute().places_taken() == 0 && !verifying.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let TestApp { running, .. } = app;
    let stopping = tokio::spawn(running.stop(Duration::from_secs(3)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let ready = client.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.header("connection")), (503, Some("close")));
    assert_eq!(ready.json()["status"], "stopping");
    verifying.await.unwrap().expect(201);
    tokio::time::timeout(Duration::from_secs(30), stopping).await.unwrap().unwrap();
}
