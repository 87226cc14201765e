//! Requests to erase a person: their life, their certificate, and that what was erased stays erased.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use velum::{
    audit::{Action, Actor, Event},
    auth::{
        Role,
        evidence::{Document, EvidenceVerifier},
    },
    domain::{
        clock::Clock as _,
        consent::Purpose,
        id::{EnrolmentId, ErasureId, SubjectId, TenantId},
    },
    flows::{
        certificate::{self, Certificate},
        erasures,
        ledger::{self, LedgerState},
    },
    store::{Act, KeyStore, NewTemplate, Store},
    vault::{BlindIndexKey, Keyring},
};
use zeroize::Zeroizing;

use super::helpers::{
    Client, Kind, Options, Process, TestApp, Worker, consent_of, databases::Databases, each_database,
    each_database_with, photos, until,
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

/// What the certificate of a request says, once its signature was found good.
async fn certified(officer: &Client, request: &str) -> Certificate {
    let keys = officer.get("/.well-known/evidence-jwks.json").await.expect(200).text;
    let jws = officer.get(&format!("/v1/erasure-requests/{request}/certificate")).await.expect(200).text;
    certificate::verify(&jws, &EvidenceVerifier::from_jwks(&keys).unwrap()).unwrap()
}

/// How much of it a certificate says was destroyed there.
fn destroyed(told: &Certificate, place: &str, what: &str) -> Option<u64> {
    let mut lines = told.destroyed.iter().filter(|line| line.place == place && line.what.starts_with(what));
    lines.next().unwrap_or_else(|| panic!("no {what:?} of the {place}: {told:?}")).count
}

/// What the key store holds of a person, as a certificate names it: by the digest of the wrapped key.
fn wrapped_key(databases: &Databases, subject: &str) -> String {
    let hex = match databases.kind {
        Kind::Sqlite => "lower(hex(wrapped))",
        Kind::Postgres => "encode(wrapped, 'hex')",
    };
    let query = format!("SELECT {hex} AS text FROM data_keys WHERE subject_id = '{subject}'");
    let wrapped = databases.texts(&databases.keystore, &query).remove(0);
    hex::encode(Sha256::digest(hex::decode(wrapped).unwrap()))
}

/// `velum certificate verify` on these texts.
fn verify_offline(folder: &Path, jws: &str, jwks: &str) -> Output {
    let (file, keys) = (folder.join("certificate.jws"), folder.join("jwks.json"));
    fs::write(&file, jws).unwrap();
    fs::write(&keys, jwks).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_velum"));
    program.args(["certificate", "verify"]).arg(&file).arg("--jwks").arg(&keys).output().unwrap()
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
        let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
        let verify = |jws: &str| verify_offline(folder.path(), jws, &keys);
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
async fn a_certificate_counts_what_was_there_and_names_the_key_that_was_destroyed() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let [used, unused] = [client.consenting_subject().await, client.subject().await];
        client.enrol(&used, photos::collins()).await.expect(201);
        client.verify(&used, photos::collins()).await.expect(201);
        for (subject, counters, templates) in [(&used, 1, 1), (&unused, 0, 0)] {
            let key = wrapped_key(&app.databases, subject);
            let gone = client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
            let request = gone.header("location").unwrap().rsplit('/').next().unwrap();
            let told = certified(&officer, request).await;
            assert_eq!(destroyed(&told, "key store", "data key"), Some(1));
            assert_eq!(destroyed(&told, "keyholder", "counters"), Some(counters), "{subject}");
            assert_eq!(destroyed(&told, "database", "template"), Some(templates));
            for place in ["redis", "matcher memory", "job queue"] {
                assert_eq!(destroyed(&told, place, "holds nothing of a person"), None, "nobody counted there");
            }
            let [data_key] = told.data_keys.as_slice() else { panic!("{:?}", told.data_keys) };
            assert_eq!(data_key.wrapped_sha256, key);
            assert!(app.data_dir.path().join(format!("secrets/kek/{}.key", data_key.wrapped_by)).exists());
        }
    })
    .await;
}

/// As the program wrote them before places without a count, and before it named the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_before_is_still_checked() {
    let app = TestApp::start().await;
    let old = json!({
        "iss": "https://velum.example", "iat": 1_795_000_000, "jti": "ers_0193512ab4c87d0e8f6a5b4c3d2e1f00",
        "tenant_id": "ten_0193512ab4c87d0e8f6a5b4c3d2e1f00", "subject_digest": "09".repeat(32), "regulation": "gdpr",
        "received_at": "2026-11-18T13:06:40.000000Z", "due_at": "2026-12-18T13:06:40.000000Z",
        "begun_at": "2026-11-18T13:06:40.000000Z",
        "destroyed": [{ "place": "redis", "what": "keys about a person; none is ever written", "count": 0 }],
        "key_store_backups_until": "2026-11-25T13:06:40.000000Z",
        "remains": [{ "place": "database", "what": "this request", "why": "proof that it was answered in time" }],
        "audit": {
            "tenant": "ten_0193512ab4c87d0e8f6a5b4c3d2e1f00", "size": 4, "hash": "07".repeat(32),
            "root": "08".repeat(32), "at": "2026-11-18T13:06:40.000000Z",
        },
    });
    let jws = app.running.flows().evidence().sign(Document::ErasureCertificate, &old, app.clock.now()).unwrap();
    let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
    let folder = tempfile::tempdir().unwrap();
    let checked = verify_offline(folder.path(), &jws, &keys);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let told: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(told, old, "as it was signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_wrote_on_earlier_requests_does_not_outlive_the_person() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        let ask = async || {
            let body = json!({ "subject_id": subject });
            officer.post("/v1/erasure-requests", body).await.expect(201).id()
        };
        let reason = "Ms Example of 12 High Street did not sign";
        let early = ask().await;
        let rejected = officer.post(&format!("/v1/erasure-requests/{early}/reject"), json!({ "reason": reason })).await;
        assert_eq!(rejected.expect(200).json()["reason"], reason);
        let taken_back = ask().await;
        officer.post_empty(&format!("/v1/erasure-requests/{taken_back}/cancel")).await.expect(200);
        assert_eq!(show(&officer, &early).await["reason"], reason, "the person is still there");

        let gone = client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        let request = gone.header("location").unwrap().rsplit('/').next().unwrap();
        let told = certified(&officer, request).await;
        assert_eq!(destroyed(&told, "database", "reasons"), Some(1));
        assert!(told.remains.iter().any(|line| line.what.contains("earlier ones of the person")), "{told:?}");
        let early = show(&officer, &early).await;
        assert_eq!((&early["state"], &early["reason"]), (&json!("rejected"), &Value::Null));
        let named = "reason LIKE '%Example%'";
        assert_eq!(app.databases.count(&app.databases.main, "erasure_requests", named), 0);
        assert_eq!(app.databases.count(&app.databases.main, "audit_events", named), 0);
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
async fn an_erasure_that_a_hold_stood_against_stands_in_the_log() {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("log");
    let process = Process::start_with(data.path(), |command| {
        command.env("VELUM_LOG_FORMAT", "json").stderr(fs::File::create(&log).unwrap());
    });
    let (client, officer) = (process.client().await, process.client_of_role("compliance-officer").await);
    let subject = client.subject().await;
    let request = officer.post("/v1/erasure-requests", json!({ "subject_id": subject })).await.expect(201).id();
    let at = format!("/v1/erasure-requests/{request}/hold");
    officer.post(&at, json!({ "reason": "a lawsuit" })).await.expect(200);
    client.delete(&format!("/v1/subjects/{subject}")).await.expect_problem(409, "legal_hold");

    // The answer may be faster than the line.
    let refused = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["event"] == "erasure_refused").collect()
    };
    let begin = Instant::now();
    while refused().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", fs::read_to_string(&log).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [line] = refused().try_into().unwrap();
    assert_eq!((&line["level"], &line["request"]), (&json!("WARN"), &json!(request)));
    assert!(!line.to_string().contains(&subject), "the person is not named: {line}");
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
        // A thousand on the database of production; where there is none, on the other.
        let all = if app.databases.kind != Kind::foremost() { 100 } else { 1_000 };
        let mut persons = vec![];
        for _ in 0..3 {
            let subject = client.consenting_subject().await;
            client.enrol(&subject, photos::collins()).await.expect(201);
            persons.push(subject);
        }
        let kept = client.consenting_subject().await;
        client.enrol(&kept, photos::collins()).await.expect(201);
        persons.extend(stream::iter(3..all).map(|_| client.subject()).buffered(AT_ONCE).collect::<Vec<_>>().await);
        give_templates(&app, &persons[0], &persons[3..]).await;
        let probe = photos::collins_changed();
        for subject in &persons[all - 3..] {
            let verified = client.verify(subject, probe.clone()).await.expect(201);
            assert_eq!(verified.json()["decision"], "match", "before the erasure anybody is recognised");
        }
        let main = app.databases.back_up(&app.databases.main);
        let keystore = app.databases.back_up(&app.databases.keystore);

        let erase = |subject: &String| {
            let (client, officer, path) = (client.clone(), officer.clone(), format!("/v1/subjects/{subject}"));
            async move {
                let gone = client.delete(&path).await.expect(204);
                let path = format!("{}/certificate", gone.header("location").unwrap());
                let certificate = officer.get(&path).await.expect(200).text;
                (path, certificate)
            }
        };
        let certificates: Vec<_> = stream::iter(&persons).map(erase).buffered(AT_ONCE).collect().await;
        client.get("/readyz").await.expect(200);
        let absent = async |client: &Client| {
            let ask = async |subject: &String| {
                client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
                client.verify(subject, probe.clone()).await.expect_problem(404, "not_found");
            };
            stream::iter(&persons).for_each_concurrent(AT_ONCE, ask).await;
        };

        // The database alone, as it was before: the rows are there, not one opens, and the service says what is missing.
        let app = app.restarted(|databases| databases.restore(&main)).await;
        let client = app.client().await;
        let templates = |app: &TestApp| app.databases.count(&app.databases.main, "enrolments", "1 = 1");
        assert_eq!(templates(&app), all as i64 + 1);
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
        assert_eq!(templates(&app), all as i64 + 1);
        let flows = app.running.flows();
        assert_eq!(ledger::check(flows).await.unwrap(), LedgerState::ReplayNeeded);
        let replayed = ledger::replay(flows).await.unwrap();
        assert_eq!((replayed.seen, replayed.erased_again), (all, all));
        client.get("/readyz").await.expect(200);
        absent(&client).await;
        assert_eq!(templates(&app), 1, "of the one who was kept");
        let wrapped = app.databases.count(&app.databases.keystore, "data_keys", "wrapped IS NOT NULL");
        assert_eq!(wrapped, 1, "nobody's key but that of the one who was kept");
        assert_eq!(client.verify(&kept, photos::collins()).await.expect(201).json()["decision"], "match");

        // Every certificate is still the one that was given out.
        let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
        let keys = EvidenceVerifier::from_jwks(&keys).unwrap();
        let compare = |(path, certificate): &(String, String)| {
            certificate::verify(certificate, &keys).unwrap();
            let (officer, path, certificate) = (officer.clone(), path.clone(), certificate.clone());
            async move { assert_eq!(officer.get(&path).await.expect(200).text, certificate) }
        };
        stream::iter(&certificates).for_each_concurrent(AT_ONCE, compare).await;
        assert_eq!(ledger::replay(flows).await.unwrap().erased_again, 0);

        // A ledger that lost its end is no ledger.
        app.databases.execute(&app.databases.main, "UPDATE ledger_mark SET sequence = sequence + 1");
        assert_eq!(ledger::check(flows).await.unwrap(), LedgerState::LedgerBehind);
        client.get("/readyz").await.expect(503);
    })
    .await;
}

/// Calls on their way to the server of the test above: as many as it has connections to a database.
const AT_ONCE: usize = 4;

/// Gives everybody a consent and the template of the first, sealed under keys of their own, past the photos that it takes
/// by the door.
async fn give_templates(app: &TestApp, first: &str, others: &[String]) {
    let keyring = Keyring::read(&app.data_dir.path().join("secrets"), None).unwrap();
    let keys = KeyStore::connect(&app.databases.keystore, 2, keyring).await.unwrap();
    let no_names = BlindIndexKey::from_bytes(Zeroizing::new([9; 32]));
    let store = Store::connect(&app.databases.main, 2, no_names).await.unwrap();
    let (tenant, first, purpose) = (tenant(app), first.parse::<SubjectId>().unwrap(), Purpose::face_verification());
    let kind = store.templates().list(tenant, first).await.unwrap().remove(0).kind;
    let key = keys.get(tenant, first).await.unwrap().unwrap();
    let template = store.templates().load(tenant, first, &kind, None, &key).await.unwrap().remove(0).template;
    let now = app.clock.now();
    let act = |action| -> Act { Event::of(Actor::operator(), action, "a thousand persons", now).into() };
    let (keys, store, kind, template, purpose, act) = (&keys, &store, &kind, &template, &purpose, &act);
    let give = |subject: &String| {
        let subject = subject.parse::<SubjectId>().unwrap();
        async move {
            let key = keys.get(tenant, subject).await.unwrap().unwrap();
            let consent = consent_of(subject, now);
            store.consents().insert(tenant, &consent, &key, act(Action::ConsentGranted)).await.unwrap();
            let (id, kind) = (EnrolmentId::generate(), kind.clone());
            let new = NewTemplate { id, subject, purpose, kind, older_key: None, template, created_at: now };
            store.templates().insert(tenant, new, &key, act(Action::EnrolmentCreated)).await.unwrap();
        }
    };
    stream::iter(others).for_each_concurrent(AT_ONCE, give).await;
}

/// A step of an erasure: the database that it is written in, and the statement that writes it.
struct Written {
    what: &'static str,
    database: fn(&Databases) -> &str,
    event: &'static str,
    table: &'static str,
    /// Of `NEW`, where the table is written in another step too.
    condition: &'static str,
}

/// In the order in which they are taken.
const STEPS: [Written; 6] = [
    Written {
        what: "the ledger knows that it was begun",
        database: |databases| &databases.ledger,
        event: "INSERT",
        table: "ledger_entries",
        condition: "NEW.kind = 'begun'",
    },
    Written {
        what: "the data key is destroyed",
        database: |databases| &databases.keystore,
        event: "UPDATE",
        table: "data_keys",
        condition: "NEW.wrapped IS NULL",
    },
    Written {
        what: "the keyholder has forgotten the person",
        database: |databases| &databases.journal,
        event: "INSERT",
        table: "forgotten_subjects",
        condition: "NEW.forgotten_at > 0",
    },
    Written {
        what: "the rows are removed",
        database: |databases| &databases.main,
        event: "UPDATE",
        table: "erasure_requests",
        condition: "NEW.removed IS NOT NULL",
    },
    Written {
        what: "the ledger has the certificate",
        database: |databases| &databases.ledger,
        event: "INSERT",
        table: "ledger_entries",
        condition: "NEW.kind = 'certified'",
    },
    Written {
        what: "the request has the certificate",
        database: |databases| &databases.main,
        event: "UPDATE",
        table: "erasure_requests",
        condition: "NEW.state = 'completed'",
    },
];

impl Written {
    /// From now on nobody gets past the step before this one.
    fn forbid(&self, databases: &Databases) {
        let Self { event, table, condition, .. } = self;
        let sql = match databases.kind {
            Kind::Sqlite => format!(
                "CREATE TRIGGER stop_here BEFORE {event} ON {table} WHEN {condition} \
                 BEGIN SELECT RAISE(ABORT, 'stopped by the test'); END"
            ),
            Kind::Postgres => format!(
                "CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'stopped by the test'; END $$; \
                 CREATE TRIGGER stop_here BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) \
                 EXECUTE FUNCTION stop_here()"
            ),
        };
        databases.execute((self.database)(databases), &sql);
    }

    fn allow(&self, databases: &Databases) {
        let sql = match databases.kind {
            Kind::Sqlite => "DROP TRIGGER stop_here".to_owned(),
            Kind::Postgres => format!("DROP TRIGGER stop_here ON {}; DROP FUNCTION stop_here()", self.table),
        };
        databases.execute((self.database)(databases), &sql);
    }
}

/// Which of the steps were taken, as the databases tell.
fn taken(databases: &Databases, request: &str, subject: &str) -> [bool; STEPS.len()] {
    let ledger = |kind: &str| {
        let condition = format!("kind = '{kind}' AND request_id = '{request}'");
        databases.count(&databases.ledger, "ledger_entries", &condition) == 1
    };
    let gone = |url: &str, table: &str, condition: &str| databases.count(url, table, condition) == 0;
    let rows = ["subjects WHERE id", "consents WHERE subject_id", "enrolments WHERE subject_id"];
    let rows = rows.map(|rows| rows.split_once(" WHERE ").unwrap());
    [
        ledger("begun"),
        gone(&databases.keystore, "data_keys", &format!("subject_id = '{subject}' AND wrapped IS NOT NULL")),
        !gone(&databases.journal, "forgotten_subjects", "1 = 1"),
        rows.iter().all(|(table, column)| gone(&databases.main, table, &format!("{column} = '{subject}'"))),
        ledger("certified"),
        !gone(&databases.main, "erasure_requests", &format!("id = '{request}' AND state = 'completed'")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_ends_after_any_of_its_steps_is_finished_by_the_next_run() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let twin = app.twin(NO_WORKER).await;
        for (number, step) in STEPS.iter().enumerate() {
            app.databases.execute(&app.databases.journal, "DELETE FROM forgotten_subjects");
            let subject = client.consenting_subject().await;
            client.enrol(&subject, photos::collins()).await.expect(201);
            client.verify(&subject, photos::collins()).await.expect(201);
            let key = wrapped_key(&app.databases, &subject);
            let body = json!({ "subject_id": subject, "verified": true });
            let request = officer.post("/v1/erasure-requests", body).await.expect(201).id();
            let run = async |flows| erasures::execute(flows, tenant(&app), request.parse::<ErasureId>().unwrap()).await;

            step.forbid(&app.databases);
            // Twice, and the second time in another process: whoever comes next gets no further.
            for flows in [app.running.flows(), twin.flows()] {
                assert!(run(flows).await.is_err(), "{}: not stopped", step.what);
                let before: Vec<_> = (0..STEPS.len()).map(|other| other < number).collect();
                assert_eq!(taken(&app.databases, &request, &subject).as_slice(), before, "before {}", step.what);
                assert_eq!(show(&officer, &request).await["state"], "in_progress");
                officer.get(&format!("/v1/erasure-requests/{request}/certificate")).await.expect(404);
            }
            step.allow(&app.databases);

            run(twin.flows()).await.unwrap();
            assert_eq!(taken(&app.databases, &request, &subject), [true; STEPS.len()], "after {}", step.what);
            let told = certified(&officer, &request).await;
            let counted = [
                ("key store", "data key"),
                ("database", "person"),
                ("database", "consents"),
                ("database", "template"),
                ("database", "verification"),
                ("keyholder", "counters"),
            ];
            let counted = counted.map(|(place, what)| destroyed(&told, place, what));
            assert_eq!(counted, [Some(1); 6], "whoever finishes it knows what the others did: {}", step.what);
            assert_eq!(told.data_keys[0].wrapped_sha256, key, "{}", step.what);
            let acts = |action: &str| {
                let condition = format!("object = '{request}' AND action = '{action}'");
                app.databases.count(&app.databases.main, "audit_events", &condition)
            };
            assert_eq!((acts("subject.erased"), acts("erasure.completed")), (1, 1), "{}", step.what);
        }
        twin.stop(Duration::ZERO).await;
    })
    .await;
}

/// Erasures that wait for the workers below.
const QUEUED: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_again_and_again_leaves_every_erasure_to_the_next_one() {
    for kind in Kind::here() {
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let at_home = |command: &mut Command| {
            databases.are_of(command).env("VELUM_WORKER", "separate");
        };
        let server = Process::start_with(data.path(), at_home);
        let worker = || {
            let mut command = server.command();
            at_home(&mut command);
            Worker::start(command)
        };
        let client = server.client_with_scopes(&databases, "subjects consents dsr").await;
        let mut requests = vec![];
        for _ in 0..QUEUED {
            let subject = client.consenting_subject().await;
            let body = json!({ "subject_id": subject, "verified": true });
            requests.push(client.post("/v1/erasure-requests", body).await.expect(201).id());
        }
        let entries = |kind: &str| databases.count(&databases.ledger, "ledger_entries", &format!("kind = '{kind}'"));
        let open = || databases.count(&databases.main, "erasure_requests", "state <> 'completed'");
        // In the middle of more and more of them, each time a little further into a step.
        let mut killed_at_work = 0;
        for (begun, further_us) in [(5, 0), (20, 700), (40, 1_900), (60, 3_700), (80, 6_100), (100, 9_300)] {
            let worker = worker();
            let patience = Instant::now();
            while entries("begun") < begun && open() > 0 {
                assert!(patience.elapsed() < Duration::from_secs(90), "{begun}: the worker does nothing");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_micros(further_us)).await;
            worker.signal("-KILL");
            drop(worker);
            let left = databases.count(&databases.main, "jobs", "kind = 'erasure' AND lease IS NOT NULL");
            killed_at_work += usize::from(left > 0);
            // As if the half minute had passed for which a worker that says nothing is believed to be alive.
            databases.execute(&databases.main, "UPDATE jobs SET leased_until = 1 WHERE lease IS NOT NULL");
        }
        assert!(killed_at_work > 0, "no worker was killed over an erasure");

        let _last = worker();
        let patience = Instant::now();
        while open() > 0 || databases.count(&databases.main, "jobs", "kind = 'erasure'") > 0 {
            assert!(patience.elapsed() < Duration::from_secs(90), "{} erasures are not finished", open());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!((entries("begun"), entries("certified")), (QUEUED as i64, QUEUED as i64));
        for action in ["erasure.begun", "subject.erased", "erasure.completed"] {
            let query = format!("SELECT object AS text FROM audit_events WHERE action = '{action}'");
            let objects = databases.texts(&databases.main, &query);
            assert_eq!(objects.len(), QUEUED, "{action}: each once");
            assert_eq!(objects.iter().collect::<BTreeSet<_>>(), requests.iter().collect(), "{action}");
        }
        for request in &requests {
            let told = certified(&client, request).await;
            assert_eq!(told.jti, *request);
            let counted = [("key store", "data key"), ("database", "person"), ("database", "consents")];
            assert_eq!(counted.map(|(place, what)| destroyed(&told, place, what)), [Some(1); 3], "{request}");
            assert_eq!(told.data_keys.len(), 1);
        }
        assert_eq!(databases.count(&databases.keystore, "data_keys", "wrapped IS NOT NULL"), 0);
        assert_eq!(databases.count(&databases.main, "subjects", "1 = 1"), 0);
    }
}

/// Persons in each round of the test below.
const PERSONS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_every_erasure_that_was_begun_ends_with_a_certificate() {
    for kind in Kind::here() {
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let at_home = |command: &mut Command| {
            databases.are_of(command);
        };
        let start = || Process::start_with(data.path(), at_home);
        let mut process = start();
        let requests = |condition| databases.count(&databases.main, "erasure_requests", condition);
        let unfinished = || requests("state <> 'completed'");
        let mut killed_at_work = 0;
        // Later and later, so that every step is once the one in which the program dies: from the moment that something is
        // begun, which comes sooner on one machine and later on another.
        for delay_ms in [0, 2, 5, 9, 14, 20, 30, 45] {
            let client = process.client().await;
            let mut persons = vec![];
            for _ in 0..PERSONS {
                persons.push(client.consenting_subject().await);
            }
            let before = requests("1 = 1");
            let erasing = persons.into_iter().map(|person| {
                let client = client.clone();
                tokio::spawn(async move {
                    let path = format!("/v1/subjects/{person}");
                    let _killed_meanwhile = client.request(reqwest::Method::DELETE, &path).send().await;
                })
            });
            let erasing: Vec<_> = erasing.collect();
            until("an erasure is begun", 60, async || requests("1 = 1") > before).await;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            process.signal("-KILL");
            process.ended().await;
            for erasure in erasing {
                erasure.await.unwrap();
            }
            killed_at_work += usize::from(unfinished() > 0);
            process = start();
        }
        assert!(killed_at_work > 0, "nothing was at work when the program was killed");
        // A worker takes up what nobody came back for.
        let begun = Instant::now();
        while unfinished() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "{} erasures are not finished", unfinished());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let main = |table, condition: &str| databases.count(&databases.main, table, condition);
        let erased = main("erasure_requests", "certificate IS NOT NULL AND subject_id IS NULL");
        assert_eq!(erased, requests("1 = 1"));
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
