//! Calls that come twice, at once, or after a crash: one effect, one answer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};

use super::helpers::{Answer, Client, Kind, Process, TestApp, databases::Databases, each_database, photos};

async fn keyed(client: &Client, method: Method, path: &str, key: &str, body: Option<&Value>) -> Answer {
    let request = client.request(method, path).header("idempotency-key", key);
    client.send(body.iter().fold(request, |request, body| request.json(body))).await
}

async fn keyed_photo(client: &Client, path: &str, key: &str, photo: Vec<u8>) -> Answer {
    let part = reqwest::multipart::Part::bytes(photo).file_name("face");
    let form = reqwest::multipart::Form::new().part("image", part);
    client.send(client.request(Method::POST, path).header("idempotency-key", key).multipart(form)).await
}

fn consent(version: &str) -> Value {
    json!({ "purpose": "face_verification", "notice_version": version })
}

fn rows(app: &TestApp, table: &str) -> i64 {
    app.databases.count(&app.databases.main, table, "1 = 1")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_call_gets_the_first_answer_and_has_no_effect() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let path = format!("/v1/subjects/{subject}/consents");
        let first = keyed(&client, Method::POST, &path, "one", Some(&consent("1"))).await.expect(201);
        assert_eq!(first.header("idempotency-replayed"), None);
        for key in ["one", "\"one\""] {
            let again = keyed(&client, Method::POST, &path, key, Some(&consent("1"))).await.expect(201);
            assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &first.text));
            assert_eq!(again.header("content-type"), Some("application/json"));
        }
        assert_eq!(rows(&app, "consents"), 1);

        let other = keyed(&client, Method::POST, &path, "one", Some(&consent("2"))).await;
        drop(other.expect_problem(422, "idempotency_key_reused"));
        let elsewhere = format!("/v1/subjects/{}/consents", client.subject().await);
        let other = keyed(&client, Method::POST, &elsewhere, "one", Some(&consent("1"))).await;
        drop(other.expect_problem(422, "idempotency_key_reused"));
        keyed(&client, Method::POST, &path, "two", Some(&consent("1"))).await.expect(201);
        // A key is its tenant's own.
        let foreigner = app.foreign_client().await;
        let theirs = format!("/v1/subjects/{}/consents", foreigner.subject().await);
        keyed(&foreigner, Method::POST, &theirs, "one", Some(&consent("1"))).await.expect(201);

        // What had no effect may be tried again; a day later the name is free.
        let wrong =
            json!({ "purpose": "face_verification", "notice_version": "1", "expires_at": "2020-01-01T00:00:00Z" });
        keyed(&client, Method::POST, &path, "three", Some(&wrong)).await.expect(422);
        keyed(&client, Method::POST, &path, "three", Some(&consent("1"))).await.expect(201);
        app.clock.advance(time::Duration::HOUR * 25);
        let client = app.client().await;
        let fresh = keyed(&client, Method::POST, &path, "one", Some(&consent("2"))).await.expect(201);
        assert_eq!(fresh.header("idempotency-replayed"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_changes_something_takes_a_key() {
    each_database(|app| async move {
        let client = app.client().await;
        let twice = async |method: Method, path: &str, key: &str, body: Option<&Value>, status: u16| {
            let first = keyed(&client, method.clone(), path, key, body).await.expect(status);
            let second = keyed(&client, method, path, key, body).await.expect(status);
            assert_eq!(second.header("idempotency-replayed"), Some("true"), "{path}");
            assert_eq!((&first.text, first.header("location")), (&second.text, second.header("location")), "{path}");
            first
        };
        let person = json!({ "external_ref": "somebody" });
        let subject = twice(Method::POST, "/v1/subjects", "a", Some(&person), 201).await.id();
        let base = format!("/v1/subjects/{subject}");
        let given = twice(Method::POST, &format!("{base}/consents"), "b", Some(&consent("1")), 201).await.id();

        let faces = format!("{base}/enrolments");
        let first = keyed_photo(&client, &faces, "c", photos::collins()).await.expect(201);
        let second = keyed_photo(&client, &faces, "c", photos::collins()).await.expect(201);
        assert_eq!((second.header("idempotency-replayed"), &second.text), (Some("true"), &first.text));
        let other = keyed_photo(&client, &faces, "c", photos::hopper()).await;
        drop(other.expect_problem(422, "idempotency_key_reused"));
        assert_eq!(rows(&app, "enrolments"), 1);

        let asked = format!("{base}/verifications");
        let first = keyed_photo(&client, &asked, "d", photos::collins()).await.expect(201);
        let second = keyed_photo(&client, &asked, "d", photos::collins()).await.expect(201);
        assert_eq!((second.header("idempotency-replayed"), &second.text), (Some("true"), &first.text));
        assert_eq!((rows(&app, "verifications"), first.json()["decision"].as_str()), (1, Some("match")));
        // One enrolment, one verification, and the one with another photo, which was refused; replays cost nothing.
        assert_eq!(client.get("/v1/usage").await.json()["used"], 3);

        let enrolment = client.get(&faces).await.json()["data"][0]["id"].as_str().unwrap().to_owned();
        twice(Method::DELETE, &format!("{faces}/{enrolment}"), "e", None, 204).await;
        twice(Method::POST, &format!("{base}/consents/{given}/withdraw"), "f", None, 200).await;

        // What was kept about a person rests sealed, and goes with the person.
        let kept = "SELECT CAST(count(answer) AS TEXT) AS text FROM idempotency_records";
        assert_eq!(app.databases.texts(&app.databases.main, kept), ["5"]);
        let names =
            "SELECT CAST(count(*) AS TEXT) AS text FROM idempotency_records WHERE CAST(answer AS TEXT) LIKE '%sub_%'";
        if app.databases.kind == super::helpers::Kind::Sqlite {
            assert_eq!(app.databases.texts(&app.databases.main, names), ["0"]);
        }
        twice(Method::DELETE, &base, "g", None, 204).await;
        assert_eq!(rows(&app, "idempotency_records"), 1, "that the person was erased");
        client.delete(&base).await.expect(404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_a_secret_is_not_given_twice() {
    each_database(|app| async move {
        let admin = app.foreign_admin().await;
        let body = json!({ "name": "one", "scopes": ["subjects"] });
        let first = keyed(&admin, Method::POST, "/v1/api-keys", "a", Some(&body)).await.expect(201);
        let again = keyed(&admin, Method::POST, "/v1/api-keys", "a", Some(&body)).await;
        drop(again.expect_problem(409, "idempotency_answer_not_kept"));
        assert_eq!(rows(&app, "api_keys"), 1);
        let roll = format!("/v1/api-keys/{}/roll", first.id());
        let body = json!({ "overlap_s": 60 });
        keyed(&admin, Method::POST, &roll, "b", Some(&body)).await.expect(201);
        let again = keyed(&admin, Method::POST, &roll, "b", Some(&body)).await;
        drop(again.expect_problem(409, "idempotency_answer_not_kept"));
        assert_eq!(rows(&app, "api_keys"), 2);
        let end = format!("/v1/api-keys/{}", first.id());
        for _ in 0..2 {
            keyed(&admin, Method::DELETE, &end, "c", None).await.expect(204);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let path = format!("/v1/subjects/{}/consents", client.subject().await);
    for bad in ["", "\"\"", "two words", &"x".repeat(256)] {
        let refused = keyed(&client, Method::POST, &path, bad, Some(&consent("1"))).await;
        assert_eq!(
            refused.expect_problem(400, "idempotency_key_invalid").json()["errors"][0]["pointer"],
            "/Idempotency-Key"
        );
    }
    let two = client.request(Method::POST, &path).header("idempotency-key", "a").header("idempotency-key", "b");
    client.send(two.json(&consent("1"))).await.expect_problem(400, "idempotency_key_invalid");
    keyed(&client, Method::POST, &path, &"x".repeat(255), Some(&consent("1"))).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twins_at_the_same_time_one_works_and_the_others_wait_or_get_its_answer() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        let path = format!("/v1/subjects/{subject}/enrolments");
        let answers = join_all((0..6).map(|_| keyed_photo(&client, &path, "twin", photos::collins()))).await;
        let mut fresh = 0;
        for answer in answers {
            match (answer.status.as_u16(), answer.header("idempotency-replayed")) {
                (201, None) => fresh += 1,
                (201, Some(_)) => {}
                _ => assert!(answer.expect_problem(409, "idempotency_twin_at_work").header("retry-after").is_some()),
            }
        }
        assert_eq!((fresh, rows(&app, "enrolments")), (1, 1));
    })
    .await;
}

/// 10,000 calls: 2,500 acts, each asked for until it is answered and then some, many at once, while the process is killed
/// again and again.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_twice_at_once_and_through_crashes_have_one_effect_each() {
    const ACTS: usize = 2_500;
    const CRASHES: u32 = 4;
    const PEOPLE: usize = 50;
    let data = tempfile::tempdir().unwrap();
    let databases = Databases::make(Kind::foremost(), data.path());
    let serve = || {
        Process::start_with(data.path(), |command| {
            databases
                .are_of(command)
                .env("VELUM_REQUEST_TIMEOUT_S", "2") // what a crash leaves claimed is free again after that, and 5 s
                .env("VELUM_RATE_CLIENT", "10000000")
                .env("VELUM_RATE_ADDRESS", "10000000")
                .env("VELUM_LOG", "warn");
        })
    };
    let mut process = serve();
    let client = process.client().await;
    let people = stream::iter((0..PEOPLE).map(|_| client.subject())).buffered(4).collect::<Vec<_>>();
    let people = Arc::new(people.await);
    let (port, next, calls) =
        (Arc::new(AtomicU64::new(process.port.into())), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));

    let caller = |number: usize| {
        let (client, port, next, calls) = (client.clone(), Arc::clone(&port), Arc::clone(&next), Arc::clone(&calls));
        let people = Arc::clone(&people);
        tokio::spawn(async move {
            let mut answers = BTreeMap::new();
            loop {
                // Every act belongs to two callers, who are at it at the same time.
                let act = next.fetch_add(1, Ordering::Relaxed) / 2;
                if act >= ACTS {
                    return answers;
                }
                let path = format!("/v1/subjects/{}/consents", people[act % PEOPLE]);
                let mut answered = 0;
                while answered < 2 {
                    let client = client.at(port.load(Ordering::Relaxed) as u16);
                    let request = client.request(Method::POST, &path).header("idempotency-key", format!("act-{act}"));
                    calls.fetch_add(1, Ordering::Relaxed);
                    match request.json(&consent(&format!("act-{act}"))).send().await {
                        Ok(response) if response.status() == 201 => {
                            let id = response.json::<Value>().await.map(|body| body["id"].to_string());
                            let Ok(id) = id else { continue };
                            let known = answers.entry(act).or_insert_with(|| id.clone());
                            assert_eq!(known, &id, "two answers to one call");
                            answered += 1;
                        }
                        Ok(response) => {
                            let (status, text) =
                                (response.status().as_u16(), response.text().await.unwrap_or_default());
                            let at_work = status == 409 && text.contains("idempotency_twin_at_work");
                            assert!(at_work || status == 503, "caller {number}: {status} {text}");
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        // Killed meanwhile.
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
        })
    };
    let callers: Vec<_> = (0..16).map(caller).collect();
    for crash in 1..=CRASHES {
        let due = 2 * ACTS * crash as usize / (CRASHES as usize + 1);
        while next.load(Ordering::Relaxed) < due {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.signal("-KILL");
        process.ended().await;
        process = serve();
        port.store(process.port.into(), Ordering::Relaxed);
    }
    let mut ids = BTreeMap::new();
    for caller in callers {
        for (act, id) in caller.await.unwrap() {
            assert_eq!(ids.entry(act).or_insert_with(|| id.clone()), &id, "two callers, two effects");
        }
    }
    assert_eq!(ids.len(), ACTS);
    let client = client.at(process.port);
    let mut effects = 0;
    for person in people.iter() {
        let page = client.get(&format!("/v1/subjects/{person}/consents?limit=100")).await.expect(200).json();
        effects += page["data"].as_array().unwrap().len();
    }
    assert_eq!(effects, ACTS);
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls >= 10_000, "{calls}");
    eprintln!("{calls} calls, {CRASHES} crashes, {effects} effects");
}
