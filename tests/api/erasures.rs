//! Requests to erase a person: their life, their certificate, and that what was erased stays erased.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use velum::{
    auth::{Role, evidence::EvidenceVerifier},
    domain::id::{ErasureId, TenantId},
    flows::{
        certificate, erasures,
        ledger::{self, LedgerState},
    },
};

use super::helpers::{
    Client, Kind, Options, Process, TestApp,
    databases::{Databases, postgres_url},
    each_database, each_database_with, photos,
};

/// Where a test is the worker itself.
const NO_WORKER: Options<'_> = &[("WORKER", "separate")];

fn tenant(app: &TestApp) -> TenantId {
    let tenants = app.databases.texts(&app.databases.main, "SELECT id AS text FROM tenants ORDER BY id");
    tenants[0].parse().unwrap()
}

/// What a worker does.
async fn execute(app: &TestApp, request: &str) {
    erasures::execute(app.running.flows(), tenant(app), request.parse::<ErasureId>().unwrap()).await.unwrap();
}

async fn show(officer: &Client, request: &str) -> Value {
    officer.get(&format!("/v1/erasure-requests/{request}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_from_asking_to_certificate() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        client.verify(&subject, photos::collins()).await.expect(201);

        let asked = json!({ "subject_id": subject, "regulation": "ccpa", "received_at": "2026-01-01T00:00:00Z" });
        let made = officer.post("/v1/erasure-requests", asked).await.expect(201);
        let (request, location) = (made.id(), made.header("location").unwrap().to_owned());
        assert_eq!(location, format!("/v1/erasure-requests/{request}"));
        let seen = made.json();
        assert_eq!((&seen["state"], &seen["due_at"]), (&json!("received"), &json!("2026-02-15T00:00:00Z")));
        let twice = json!({ "subject_id": subject });
        officer.post("/v1/erasure-requests", twice).await.expect_problem(409, "erasure_open");
        officer.get(&format!("{location}/certificate")).await.expect_problem(404, "not_found");

        // Nothing happens before it is known who asked.
        execute(&app, &request).await;
        client.verify(&subject, photos::collins()).await.expect(201);
        officer.post_empty(&format!("{location}/verify")).await.expect(200);
        execute(&app, &request).await;
        let done = show(&officer, &request).await;
        assert_eq!((&done["state"], &done["subject_id"]), (&json!("completed"), &Value::Null));
        assert_eq!((&done["removed"]["enrolments"], &done["removed"]["verifications"]), (&json!(1), &json!(2)));
        assert_eq!(done["removed"]["consents"], 1);
        client.verify(&subject, photos::collins()).await.expect_problem(404, "not_found");
        execute(&app, &request).await;
        assert_eq!(show(&officer, &request).await, done, "done is done");

        let path = format!("/v1/erasure-requests?subject_id={subject}");
        assert_eq!(officer.get(&path).await.expect(200).json()["data"], json!([done]));
        let path = "/v1/erasure-requests?state=received";
        assert_eq!(officer.get(path).await.expect(200).json()["data"], json!([]));
        officer.get("/v1/erasure-requests?state=lost").await.expect_problem(422, "validation_failed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_checked_offline_and_a_changed_one_proves_nothing() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let gone = client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        let location = gone.header("location").unwrap();
        let request = officer.get(location).await.expect(200).json();
        assert_eq!((&request["state"], &request["regulation"]), (&json!("completed"), &json!("gdpr")));
        let answer = officer.get(&format!("{location}/certificate")).await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/jose"));
        let jws = answer.text;

        let folder = tempfile::tempdir().unwrap();
        let (file, jwks) = (folder.path().join("certificate.jws"), folder.path().join("jwks.json"));
        let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
        fs::write(&jwks, &keys).unwrap();
        let verify = |jws: &str| {
            fs::write(&file, jws).unwrap();
            let mut program = Command::new(env!("CARGO_BIN_EXE_velum"));
            program.args(["certificate", "verify"]).arg(&file).arg("--jwks").arg(&jwks).output().unwrap()
        };
        let good = verify(&jws);
        assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
        let told: Value = serde_json::from_slice(&good.stdout).unwrap();
        assert_eq!((&told["jti"], &told["subject_digest"]), (&request["id"], &request["subject_digest"]));
        let count = |what: &str| {
            let lines = told["destroyed"].as_array().unwrap();
            lines.iter().find(|line| line["what"].as_str().unwrap().starts_with(what)).unwrap()["count"].clone()
        };
        assert_eq!((count("data key"), count("template"), count("consents")), (json!(1), json!(1), json!(1)));
        assert!(!told.to_string().contains(&subject), "the id itself is not in it");

        // The checkpoint is a place in the audit log, and the entry there says what happened.
        let sequence = told["audit"]["size"].as_u64().unwrap();
        let log = officer.get("/v1/audit-events?limit=100").await.expect(200).json();
        let entry = log["data"].as_array().unwrap().iter().find(|entry| entry["sequence"] == sequence).unwrap().clone();
        assert_eq!((&entry["action"], &entry["subject_digest"]), (&json!("subject.erased"), &told["subject_digest"]));

        let keys = EvidenceVerifier::from_jwks(&keys).unwrap();
        let mut changed = jws.clone().into_bytes();
        for place in 0..changed.len() {
            changed[place] ^= 1;
            let text = String::from_utf8_lossy(&changed).into_owned();
            assert!(certificate::verify(&text, &keys).is_err(), "byte {place}");
            changed[place] ^= 1;
        }
        assert!(!verify(&jws[..jws.len() - 4]).status.success());
        app.foreign_officer().await.get(&format!("{location}/certificate")).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_stands_against_every_way_to_erase() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let body = json!({ "subject_id": subject, "verified": true });
        let request = officer.post("/v1/erasure-requests", body).await.expect(201).id();
        let at = |verb: &str| format!("/v1/erasure-requests/{request}/{verb}");
        let held = officer.post(&at("hold"), json!({ "reason": "tax record" })).await.expect(200).json();
        assert_eq!((&held["state"], &held["reason"]), (&json!("on_hold"), &json!("tax record")));

        client.delete(&format!("/v1/subjects/{subject}")).await.expect_problem(409, "legal_hold");
        execute(&app, &request).await;
        officer.post_empty(&at("verify")).await.expect_problem(409, "erasure_state");
        officer.post(&at("hold"), json!({ "reason": "" })).await.expect_problem(422, "validation_failed");
        assert_eq!(show(&officer, &request).await["state"], "on_hold");
        assert_eq!(client.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");

        let released = officer.post_empty(&at("release")).await.expect(200).json();
        assert_eq!((&released["state"], &released["reason"]), (&json!("verified"), &Value::Null));
        officer.post_empty(&at("release")).await.expect_problem(409, "erasure_state");
        client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        for verb in ["cancel", "verify", "release"] {
            officer.post_empty(&at(verb)).await.expect_problem(409, "erasure_state");
        }
        officer.post(&at("reject"), json!({ "reason": "late" })).await.expect_problem(409, "erasure_state");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_or_cancels_while_another_erases_is_obeyed_or_comes_too_late() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        for round in 0..40 {
            let (verb, ended) = [("hold", "on_hold"), ("cancel", "cancelled")][round % 2];
            let subject = client.subject().await;
            let path = format!("/v1/subjects/{subject}");
            let asked = json!({ "subject_id": subject });
            let request = officer.post("/v1/erasure-requests", asked).await.expect(201).id();
            let at = format!("/v1/erasure-requests/{request}/{verb}");
            let decide = async {
                // From before the erasure to after it.
                tokio::time::sleep(Duration::from_micros(300 * round as u64)).await;
                match verb {
                    "hold" => officer.post(&at, json!({ "reason": "a lawsuit" })).await,
                    _ => officer.post_empty(&at).await,
                }
            };
            let (erased, decided) = tokio::join!(client.delete(&path), decide);
            let state = show(&officer, &request).await["state"].clone();
            let is_there = client.get(&path).await.status == 200;
            let told = format!("{verb} {}, delete {}: {state}", decided.status, erased.status);
            match decided.status.as_u16() {
                // Obeyed: either nobody was erased, or (after a cancellation) by another request.
                200 => {
                    assert_eq!(state, ended, "{told}");
                    assert_eq!(is_there, erased.status != 204, "{told}");
                    assert!(verb == "cancel" || is_there, "{told}");
                }
                _ => assert_eq!((&state, is_there), (&json!("completed"), false), "{told}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_policy_the_last_withdrawal_erases() {
    each_database_with(&[("ERASE_ON_WITHDRAWAL", "true")], |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let other = json!({ "purpose": "newsletter", "notice_version": "1" });
        let other = client.post(&format!("/v1/subjects/{subject}/consents"), other).await.expect(201).id();
        let consents = client.get(&format!("/v1/subjects/{subject}/consents")).await.expect(200).json();
        let mut consents = consents["data"].as_array().unwrap().iter().map(|consent| consent["id"].as_str().unwrap());
        let first = consents.find(|id| *id != other).unwrap().to_owned();

        client.withdraw(&subject, &first).await.expect(200);
        client.get(&format!("/v1/subjects/{subject}")).await.expect(200);
        client.withdraw(&subject, &other).await.expect(200);
        let begun = Instant::now();
        let path = format!("/v1/erasure-requests?subject_id={subject}");
        loop {
            let found = officer.get(&path).await.expect(200).json();
            if found["data"][0]["state"] == "completed" {
                assert_eq!(found["data"].as_array().unwrap().len(), 1);
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_erase_the_same_person_at_once_get_one_certificate() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        for _ in 0..5 {
            let subject = client.consenting_subject().await;
            let path = format!("/v1/subjects/{subject}");
            let answers = futures_util::future::join_all((0..6).map(|_| client.delete(&path))).await;
            // Who comes when all is done finds nobody.
            assert!(answers.iter().all(|answer| [204, 404].contains(&answer.status.as_u16())), "{subject}");
            assert!(answers.iter().any(|answer| answer.status == 204));
            let found = officer.get(&format!("/v1/erasure-requests?subject_id={subject}")).await.json();
            let found = found["data"].as_array().unwrap();
            assert_eq!((found.len(), &found[0]["state"]), (1, &json!("completed")));
            let entries =
                app.databases.count(&app.databases.ledger, "ledger_entries", &format!("subject_id = '{subject}'"));
            assert_eq!(entries, 2);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_whoever_was_erased_stays_erased() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let mut persons = vec![];
        for _ in 0..3 {
            let subject = client.consenting_subject().await;
            client.enrol(&subject, photos::collins()).await.expect(201);
            persons.push(subject);
        }
        let kept = client.consenting_subject().await;
        client.enrol(&kept, photos::collins()).await.expect(201);
        for _ in 0..997 {
            persons.push(client.subject().await);
        }
        let main = app.databases.back_up(&app.databases.main);
        let keystore = app.databases.back_up(&app.databases.keystore);

        let mut certificates = vec![];
        for subject in &persons {
            let gone = client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
            let path = format!("{}/certificate", gone.header("location").unwrap());
            certificates.push((path.clone(), officer.get(&path).await.expect(200).text));
        }
        client.get("/readyz").await.expect(200);
        let absent = async |client: &Client| {
            for subject in &persons {
                client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
            }
            for subject in &persons[..3] {
                client.verify(subject, photos::collins()).await.expect_problem(404, "not_found");
            }
        };

        // The database alone, as it was before: the rows are there, not one opens, and the service says what is missing.
        let app = app.restarted(|databases| databases.restore(&main)).await;
        let client = app.client().await;
        assert_eq!(app.databases.count(&app.databases.main, "enrolments", "1 = 1"), 4);
        absent(&client).await;
        client.get("/readyz").await.expect(503);

        // The key store too: all that the ledger is for.
        let restore = |databases: &Databases| {
            databases.restore(&main);
            databases.restore(&keystore);
        };
        let app = app.restarted(restore).await;
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        client.get("/readyz").await.expect(503);
        let flows = app.running.flows();
        assert_eq!(ledger::check(flows).await.unwrap(), LedgerState::ReplayNeeded);
        let replayed = ledger::replay(flows).await.unwrap();
        assert_eq!((replayed.seen, replayed.erased_again), (1_000, 1_000));
        client.get("/readyz").await.expect(200);
        absent(&client).await;
        let wrapped = app.databases.count(&app.databases.keystore, "data_keys", "wrapped IS NOT NULL");
        assert_eq!(wrapped, 1, "nobody's key but that of the one who was kept");
        assert_eq!(client.verify(&kept, photos::collins()).await.expect(201).json()["decision"], "match");

        // Every certificate is still the one that was given out.
        let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
        let keys = EvidenceVerifier::from_jwks(&keys).unwrap();
        for (path, certificate) in &certificates {
            assert_eq!(&officer.get(path).await.expect(200).text, certificate);
            certificate::verify(certificate, &keys).unwrap();
        }
        assert_eq!(ledger::replay(flows).await.unwrap().erased_again, 0);

        // A ledger that lost its end is no ledger.
        app.databases.execute(&app.databases.main, "UPDATE ledger_mark SET sequence = sequence + 1");
        assert_eq!(ledger::check(flows).await.unwrap(), LedgerState::LedgerBehind);
        client.get("/readyz").await.expect(503);
    })
    .await;
}

/// Persons in each round of the test below.
const PERSONS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_every_erasure_that_was_begun_ends_with_a_certificate() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        if kind == Kind::Postgres && postgres_url().is_none() {
            continue;
        }
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let at_home = |command: &mut Command| {
            command
                .env("VELUM_DATABASE_URL", &databases.main)
                .env("VELUM_KEYSTORE_URL", &databases.keystore)
                .env("VELUM_LEDGER_URL", &databases.ledger)
                .env("VELUM_KEYHOLDER_JOURNAL_URL", &databases.journal);
        };
        let start = || Process::start_with(data.path(), at_home);
        let mut process = start();
        // Later and later, so that every step is once the one in which the program dies.
        for delay_ms in [2, 5, 9, 14, 20, 30, 45, 70] {
            let client = process.client().await;
            let mut persons = vec![];
            for _ in 0..PERSONS {
                persons.push(client.consenting_subject().await);
            }
            let erasing = persons.into_iter().map(|person| {
                let client = client.clone();
                tokio::spawn(async move {
                    let path = format!("/v1/subjects/{person}");
                    let _killed_meanwhile = client.request(reqwest::Method::DELETE, &path).send().await;
                })
            });
            let erasing: Vec<_> = erasing.collect();
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            process.signal("-KILL");
            process.ended().await;
            for erasure in erasing {
                erasure.await.unwrap();
            }
            process = start();
        }
        // A worker takes up what nobody came back for.
        let begun = Instant::now();
        let unfinished = || databases.count(&databases.main, "erasure_requests", "state <> 'completed'");
        while unfinished() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "{} erasures are not finished", unfinished());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let main = |table, condition: &str| databases.count(&databases.main, table, condition);
        let erased = main("erasure_requests", "certificate IS NOT NULL AND subject_id IS NULL");
        assert!(erased > 0, "no erasure was begun before its kill");
        // Whoever is there has a key and is no trace of the ledger; whoever is not has none.
        let living = databases.count(&databases.keystore, "data_keys", "wrapped IS NOT NULL");
        assert_eq!(main("subjects", "1 = 1"), living);
        assert_eq!(main("consents", "1 = 1"), living);
        assert_eq!(erased + living, 8 * PERSONS as i64);
        assert_eq!(databases.count(&databases.ledger, "ledger_entries", "kind = 'begun'"), erased);
        assert_eq!(databases.count(&databases.ledger, "ledger_entries", "kind = 'certified'"), erased);
        let mut status = process.command();
        at_home(&mut status);
        let status = status.args(["erasures", "status"]).output().unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    }
}
