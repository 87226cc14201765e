//! Requests of persons to be given what is known of them: what is in the package, who can open it, and how it ends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use age::{scrypt, secrecy::SecretString, x25519};
use reqwest::Method;
use serde_json::{Value, json};
use velum::auth::Role;

use super::helpers::{
    Client, Kind, Options, Process, TestApp, databases::Databases, each_database, each_database_with, photos, until,
};

const NO_WORKER: Options<'_> = &[("WORKER", "separate")];

/// A package as it comes over the line.
async fn download(client: &Client, path: &str) -> (u16, Vec<u8>) {
    let response = client.request(Method::GET, path).send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

/// The path of a link, at whichever port this server listens.
fn path_of(answer: &Value) -> String {
    let link = answer["link"].as_str().unwrap();
    link[link.find("/v1/packages/").unwrap()..].to_owned()
}

fn by_passphrase(passphrase: &str) -> scrypt::Identity {
    scrypt::Identity::new(SecretString::from(passphrase.to_owned()))
}

fn opened(identity: &impl age::Identity, package: &[u8]) -> Value {
    serde_json::from_slice(&age::decrypt(identity, package).unwrap()).unwrap()
}

async fn ask(officer: &Client, subject: &str, recipient: Option<&x25519::Identity>) -> Value {
    let recipient = recipient.map(|identity| identity.to_public().to_string());
    let body = json!({ "subject_id": subject, "verified": true, "recipient": recipient });
    officer.post("/v1/access-requests", body).await.expect(201).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_from_asking_to_a_package_that_only_the_person_opens() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        let asked = json!({ "subject_id": subject, "regulation": "ccpa", "received_at": "2026-01-01T00:00:00Z" });
        let made = officer.post("/v1/access-requests", asked).await.expect(201);
        let at = made.header("location").unwrap().to_owned();
        assert_eq!(at, format!("/v1/access-requests/{}", made.id()));
        let seen = made.json();
        assert_eq!((&seen["state"], &seen["due_at"]), (&json!("received"), &json!("2026-02-15T00:00:00Z")));
        assert!(seen.get("link").is_none() && seen.get("passphrase").is_none() && seen["package"].is_null());
        officer.get(&format!("{at}/package")).await.expect_problem(404, "not_found");

        let done = officer.post_empty(&format!("{at}/verify")).await.expect(200).json();
        assert_eq!((&done["state"], &done["package"]["encrypted_for"]), (&json!("completed"), &json!("passphrase")));
        let identity = by_passphrase(done["passphrase"].as_str().unwrap());
        let (status, package) = download(&officer, &format!("{at}/package")).await;
        let told = opened(&identity, &package);
        assert_eq!((status, &told["subject"]["id"], &told["request"]["id"]), (200, &json!(subject), &seen["id"]));
        let other = ask(&officer, &subject, None).await;
        assert!(age::decrypt(&by_passphrase(other["passphrase"].as_str().unwrap()), &package).is_err());
        assert!(age::decrypt(&x25519::Identity::generate(), &package).is_err());

        // Told once: neither looking again nor the row says it.
        let shown = officer.get(&at).await.expect(200).json();
        assert!(shown.get("link").is_none() && shown.get("passphrase").is_none());
        officer.post_empty(&format!("{at}/verify")).await.expect_problem(409, "access_state");
        officer.post(&format!("{at}/reject"), json!({ "reason": "late" })).await.expect_problem(409, "access_state");

        let person = x25519::Identity::generate();
        let for_key = ask(&officer, &subject, Some(&person)).await;
        assert_eq!(for_key["package"]["encrypted_for"], "recipient");
        assert!(for_key.get("passphrase").is_none());
        let (_, package) = download(&app.stranger(), &path_of(&for_key)).await;
        assert_eq!(opened(&person, &package)["schema"], "velum.access-package.1");
        assert!(age::decrypt(&x25519::Identity::generate(), &package).is_err());
    })
    .await;
}

/// Which member of the package lists the rows of a table.
const LISTED: [(&str, &str); 7] = [
    ("consents", "consents"),
    ("enrolments", "enrolments"),
    ("verifications", "verifications"),
    ("erasure_requests", "erasure_requests"),
    ("access_requests", "access_requests"),
    ("audit_events", "audit_events"),
    ("idempotency_records", "kept_answers"),
];
/// And which one is the row, of a table that has one.
const SINGLE: [(&str, &str); 1] = [("verification_attempts", "failed_attempts")];

/// The tables that name a person, by the columns with which they do.
fn tables_about_persons(app: &TestApp) -> BTreeMap<String, String> {
    let query = match app.databases.kind {
        Kind::Sqlite => {
            "SELECT m.name || ' ' || c.name AS text FROM sqlite_master m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND c.name LIKE 'subject%'"
        }
        Kind::Postgres => {
            "SELECT (table_name || ' ' || column_name)::text AS text FROM information_schema.columns \
             WHERE table_schema = 'public' AND column_name LIKE 'subject%'"
        }
    };
    let found = app.databases.texts(&app.databases.main, query);
    // Of two columns the digest, which stays when the id goes: 'subject_digest' comes before 'subject_id'.
    let mut tables = BTreeMap::new();
    for (table, column) in found.iter().map(|line| line.split_once(' ').unwrap()) {
        let known = tables.entry(table.to_owned()).or_insert_with(|| column.to_owned());
        if column == "subject_digest" {
            *known = column.to_owned();
        }
    }
    tables
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_holds_every_row_that_is_about_the_person() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        // And somebody else, of whom nothing may be in it.
        let stranger = client.consenting_subject().await;
        client.enrol(&stranger, photos::collins()).await.expect(201);
        let notice = json!({
            "purpose": "face_verification", "version": "7", "language": "en", "text": "We compare your face.",
            "controller": { "name": "Example Bank", "contact": "privacy@bank.example" }, "retention": "P3Y",
            "data_categories": ["face template"], "recipients": ["Example Cloud"], "withdrawal_method": "in the app",
        });
        client.post("/v1/notices", notice).await.expect(201);
        let made = client.post("/v1/subjects", json!({ "external_ref": "Zwiebelturm" })).await.expect(201);
        let subject = made.id();
        let consent = json!({
            "purpose": "face_verification", "notice_version": "7", "evidence_ref": "form 4711", "given_by": "parent",
            "guardian_ref": "mother of Zwiebelturm",
        });
        client.post(&format!("/v1/subjects/{subject}/consents"), consent).await.expect(201);
        let other = json!({ "purpose": "newsletter", "notice_version": "1" });
        let other = client.post(&format!("/v1/subjects/{subject}/consents"), other).await.expect(201).id();
        client.withdraw(&subject, &other).await.expect(200);
        let enrolment = client.enrol(&subject, photos::collins()).await.expect(201).id();
        for photo in [photos::collins(), photos::hopper()] {
            client.verify(&subject, photo).await.expect(201);
        }
        let rename = client.request(Method::PATCH, &format!("/v1/subjects/{subject}")).header("idempotency-key", "k");
        client.send(rename.json(&json!({ "external_ref": "Kirchturm" }))).await.expect(200);
        let restriction = format!("/v1/subjects/{subject}/restriction");
        officer.post(&restriction, json!({ "reason": "accuracy_contested" })).await.expect(200);
        let erasure = officer.post("/v1/erasure-requests", json!({ "subject_id": subject })).await.expect(201).id();
        officer.post_empty(&format!("/v1/erasure-requests/{erasure}/cancel")).await.expect(200);
        officer.post("/v1/erasure-requests", json!({ "subject_id": subject })).await.expect(201);
        officer.post("/v1/access-requests", json!({ "subject_id": subject })).await.expect(201);

        let digest = officer.get(&format!("/v1/erasure-requests/{erasure}")).await.expect(200).json();
        let digest = digest["subject_digest"].as_str().unwrap().to_owned();
        let tables = tables_about_persons(&app);
        let rows = |table: &str| {
            let condition = match (tables[table].as_str(), app.databases.kind) {
                ("subject_id", _) => format!("subject_id = '{subject}'"),
                (_, Kind::Sqlite) => format!("subject_digest = x'{digest}'"),
                (_, Kind::Postgres) => format!("subject_digest = '\\x{digest}'"),
            };
            app.databases.count(&app.databases.main, table, &condition)
        };
        let held: BTreeMap<&str, i64> = tables.keys().map(|table| (table.as_str(), rows(table))).collect();
        let person = x25519::Identity::generate();
        let answer = ask(&officer, &subject, Some(&person)).await;
        let (_, package) = download(&app.stranger(), &path_of(&answer)).await;
        let told = opened(&person, &package);

        for (table, rows) in &held {
            assert!(*rows > 0, "{table} holds nothing about the person: this test must make something");
            if let Some((_, member)) = LISTED.iter().find(|(known, _)| known == table) {
                let listed = told[*member].as_array().unwrap_or_else(|| panic!("{member}: {told}"));
                assert_eq!(listed.len() as i64, *rows, "{member} of {table}");
            } else if let Some((_, member)) = SINGLE.iter().find(|(known, _)| known == table) {
                assert!(told[*member].is_object(), "{member} of {table}");
            } else {
                panic!("the table {table} is about persons and not in their packages");
            }
        }
        for (table, _) in LISTED.iter().chain(&SINGLE) {
            assert!(held.contains_key(table), "{table} is no table about persons any more");
        }
        let text = told.to_string();
        for wanted in ["Kirchturm", "form 4711", "mother of Zwiebelturm", "We compare your face.", &enrolment, &digest]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert!(!text.contains(&stranger));
        assert_eq!(
            (&told["recipients"], &told["purposes"]),
            (&json!(["Example Cloud"]), &json!(["face_verification", "newsletter"]))
        );
        assert_eq!(told["contacts"], json!(["Example Bank: privacy@bank.example"]));
        let decisions: Vec<_> =
            told["verifications"].as_array().unwrap().iter().map(|one| one["decision"].clone()).collect();
        assert_eq!(decisions, [json!("no_match"), json!("match")]);
        assert_eq!(told["subject"]["restriction"]["reason"], "accuracy_contested");
        // The receipts in it are good without us.
        let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
        let keys = velum::auth::evidence::EvidenceVerifier::from_jwks(&keys).unwrap();
        for consent in told["consents"].as_array().unwrap() {
            let receipt: Value = keys
                .verify(velum::auth::evidence::Document::ConsentReceipt, consent["receipt"].as_str().unwrap())
                .unwrap();
            assert_eq!((&receipt["record_id"], &receipt["state"]), (&consent["id"], &consent["state"]));
        }
        let schedule = app.stranger().get("/v1/policies/retention").await.expect(200).json();
        assert_eq!(told["retention"].as_array().unwrap().len(), schedule["records"].as_array().unwrap().len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_leads_to_the_package_a_few_times_and_then_nowhere() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let (subject, person) = (client.subject().await, x25519::Identity::generate());
        let answer = ask(&officer, &subject, Some(&person)).await;
        let (link, at) = (path_of(&answer), format!("/v1/access-requests/{}", answer["id"].as_str().unwrap()));
        let stranger = app.stranger();
        let left = async || officer.get(&at).await.expect(200).json()["package"]["downloads_left"].as_u64().unwrap();
        let downloads = left().await;
        // All at once: not one more than there are.
        let following = (0..downloads + 4).map(|_| download(&stranger, &link));
        let followed = futures_util::future::join_all(following).await;
        let good: Vec<_> = followed.iter().filter(|(status, _)| *status == 200).collect();
        assert_eq!((good.len() as u64, left().await), (downloads, 0));
        assert!(good.iter().all(|(_, package)| *package == good[0].1));
        let spent = stranger.get(&link).await.expect_problem(404, "not_found");

        // A link that was spent, one of nobody and one that is none look alike.
        let mut unknown = link.clone();
        unknown.replace_range(link.len() - 8.., "00000000");
        for other in [unknown.as_str(), "/v1/packages/nonsense"] {
            let answer = stranger.get(other).await.expect_problem(404, "not_found");
            let bare = |answer: &super::helpers::Answer| {
                let mut problem = answer.json();
                for of_one_request in ["request_id", "instance"] {
                    problem[of_one_request].take();
                }
                problem
            };
            assert_eq!(bare(&answer), bare(&spent));
        }
        // The officer's way is another one; each time is on record.
        assert_eq!(download(&officer, &format!("{at}/package")).await.0, 200);
        let log = officer.get("/v1/audit-events?action=access.fetched&limit=100").await.expect(200).json();
        let actors: Vec<_> =
            log["data"].as_array().unwrap().iter().map(|entry| entry["actor"].as_str().unwrap()).collect();
        assert_eq!(actors.iter().filter(|actor| **actor == "link").count() as u64, downloads);
        assert_eq!(actors.len() as u64, downloads + 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_out_of_reach_at_its_expiry_and_gone_with_the_next_run_of_a_worker() {
    each_database_with(&[("ACCESS_PACKAGE_DAYS", "3")], |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.subject().await;
        let answer = ask(&officer, &subject, None).await;
        let (link, at) = (path_of(&answer), format!("/v1/access-requests/{}", answer["id"].as_str().unwrap()));
        app.clock.advance(time::Duration::days(3) - time::Duration::SECOND);
        let officer = app.client_of(Role::ComplianceOfficer).await;
        assert_eq!(download(&app.stranger(), &link).await.0, 200);
        assert_eq!(officer.get(&at).await.expect(200).json()["state"], "completed");
        app.clock.advance(time::Duration::SECOND);
        assert_eq!(download(&app.stranger(), &link).await.0, 404);
        officer.get(&format!("{at}/package")).await.expect_problem(404, "not_found");
        assert_eq!(officer.get(&at).await.expect(200).json()["state"], "expired");
        let of_state = async |state: &str| {
            let path = format!("/v1/access-requests?state={state}&subject_id={subject}");
            officer.get(&path).await.expect(200).json()["data"].as_array().unwrap().len()
        };
        assert_eq!((of_state("expired").await, of_state("completed").await), (1, 0));
        let begun = Instant::now();
        let kept = || {
            app.databases.count(&app.databases.main, "access_requests", "package IS NOT NULL OR link_hash IS NOT NULL")
        };
        while kept() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the package is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!((of_state("expired").await, of_state("completed").await), (1, 0));
        let log = officer.get("/v1/audit-events?action=access.expired").await.expect(200).json();
        assert_eq!(log["data"].as_array().unwrap().len(), 1);
        officer.post_empty(&format!("{at}/cancel")).await.expect_problem(409, "access_state");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_and_erasing_destroy_the_package() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        let (first, second) = (ask(&officer, &subject, None).await, ask(&officer, &subject, None).await);
        let at = |answer: &Value| format!("/v1/access-requests/{}", answer["id"].as_str().unwrap());
        let packages = || app.databases.count(&app.databases.main, "access_requests", "package IS NOT NULL");
        assert_eq!(packages(), 2);
        let cancelled = officer.post_empty(&format!("{}/cancel", at(&first))).await.expect(200).json();
        assert_eq!((&cancelled["state"], packages()), (&json!("cancelled"), 1));
        assert_eq!(download(&app.stranger(), &path_of(&first)).await.0, 404);
        officer.get(&format!("{}/package", at(&first))).await.expect_problem(404, "not_found");

        let gone = client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        let request = officer.get(gone.header("location").unwrap()).await.expect(200).json();
        assert_eq!((&request["removed"]["access_requests"], packages()), (&json!(2), 0));
        assert_eq!(download(&app.stranger(), &path_of(&second)).await.0, 404);
        officer.get(&at(&second)).await.expect_problem(404, "not_found");
        let body = json!({ "subject_id": subject, "verified": true });
        officer.post("/v1/access-requests", body).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_a_package_is_told_once_and_to_nobody_of_another_tenant() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.subject().await;
        let body = json!({ "subject_id": subject, "verified": true });
        let send = || officer.request(Method::POST, "/v1/access-requests").header("idempotency-key", "k").json(&body);
        let answer = officer.send(send()).await.expect(201).json();
        officer.send(send()).await.expect_problem(409, "idempotency_answer_not_kept");
        let (passphrase, link) = (answer["passphrase"].as_str().unwrap(), path_of(&answer));
        let token = link.rsplit('/').next().unwrap();
        // Neither rests anywhere: on SQLite in no byte of any file of the data folder.
        if app.databases.kind == Kind::Sqlite {
            for entry in std::fs::read_dir(app.data_dir.path()).unwrap() {
                let path = entry.unwrap().path();
                let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { continue };
                for secret in [passphrase, &token[14..]] {
                    assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{path:?}");
                }
            }
        }
        let one = officer.get("/v1/access-requests").await.expect(200).json();
        assert_eq!(one["data"].as_array().unwrap().len(), 1, "it was made once");

        let (foreigner, at) =
            (app.foreign_officer().await, format!("/v1/access-requests/{}", answer["id"].as_str().unwrap()));
        for path in [at.clone(), format!("{at}/package")] {
            foreigner.get(&path).await.expect_problem(404, "not_found");
        }
        for verb in ["verify", "cancel"] {
            foreigner.post_empty(&format!("{at}/{verb}")).await.expect_problem(404, "not_found");
        }
        foreigner.post("/v1/access-requests", body.clone()).await.expect_problem(404, "not_found");
        assert_eq!(foreigner.get("/v1/access-requests").await.expect(200).json()["data"], json!([]));
        client.get(&at).await.expect_problem(403, "scope_missing");

        for (member, bad) in [
            ("recipient", json!("age1nonsense")),
            ("regulation", json!("law")),
            ("received_at", json!("2999-01-01T00:00:00Z")),
        ] {
            let mut body = body.clone();
            body[member] = bad;
            let refused =
                officer.post("/v1/access-requests", body).await.expect_problem(422, "validation_failed").json();
            assert_eq!(refused["errors"][0]["pointer"], format!("/{member}"));
        }
        let early = json!({ "subject_id": subject, "recipient": x25519::Identity::generate().to_public().to_string() });
        officer.post("/v1/access-requests", early).await.expect_problem(422, "validation_failed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_a_request_has_a_whole_package_or_none() {
    for kind in Kind::here() {
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let start = || {
            Process::start_with(data.path(), |command| {
                databases.are_of(command);
            })
        };
        let mut process = start();
        let officer = process.client_with_scopes(&databases, "subjects dsr").await;
        let subject = officer.subject().await;
        let person = x25519::Identity::generate();
        let made = || databases.count(&databases.main, "access_requests", "state = 'completed'");
        let mut links = vec![];
        // From the moment that one is made the others are at it still.
        for delay_ms in [0, 2, 5, 10, 20, 40] {
            let (officer, before) = (officer.at(process.port), made());
            let asking: Vec<_> = (0..6)
                .map(|_| {
                    let (officer, subject, recipient) =
                        (officer.clone(), subject.clone(), person.to_public().to_string());
                    tokio::spawn(async move {
                        let body = json!({ "subject_id": subject, "verified": true, "recipient": recipient });
                        let answer =
                            officer.request(Method::POST, "/v1/access-requests").json(&body).send().await.ok()?;
                        if answer.status() == 201 { Some(answer.json::<Value>().await.ok()?) } else { None }
                    })
                })
                .collect();
            until("a package is made", 60, async || made() > before).await;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            process.signal("-KILL");
            process.ended().await;
            for asked in asking {
                links.extend(asked.await.unwrap().map(|answer| path_of(&answer)));
            }
            process = start();
        }
        let officer = officer.at(process.port);
        links.push(path_of(&ask(&officer, &subject, Some(&person)).await));
        let half =
            "(state = 'completed') <> (package IS NOT NULL AND link_hash IS NOT NULL AND expires_at IS NOT NULL)";
        assert_eq!(databases.count(&databases.main, "access_requests", half), 0);
        let made = made();
        let jobs = databases.count(&databases.main, "jobs", "kind = 'package_expiry'");
        assert_eq!(made, jobs, "each of them will expire");
        // Whoever was told of a package has it.
        for link in &links {
            let (status, package) = download(&officer, link).await;
            assert_eq!((status, &opened(&person, &package)["subject"]["id"]), (200, &json!(subject)));
        }
        assert!(made >= links.len() as i64);
    }
}
