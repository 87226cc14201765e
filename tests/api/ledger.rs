//! The ledger of erasures after a disaster: a replay that was cut off, a ledger that lost its end, one that somebody changed.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde_json::json;
use velum::{
    audit::{Action, Actor, Event},
    domain::{
        clock::Clock as _,
        erasure::ErasureState,
        id::{ErasureId, SubjectId, TenantId},
        job::JobKind,
    },
    flows::{
        erasures,
        ledger::{
            self, LedgerState,
            rebuild::{RebuildError, Unknown, rebuild},
        },
    },
    store::{ErasureRequest, NewJob, Store},
    vault::BlindIndexKey,
};
use zeroize::Zeroizing;

use super::helpers::{
    Client, Kind, Options, Process, TestApp,
    databases::{Backup, Databases},
    each_database, each_database_with, photos, program,
};

/// Where a test is the worker itself.
const NO_WORKER: Options<'_> = &[("WORKER", "separate")];

fn tenant(app: &TestApp) -> TenantId {
    let tenants = app.databases.texts(&app.databases.main, "SELECT id AS text FROM tenants ORDER BY id");
    tenants[0].parse().unwrap()
}

/// Erases somebody; the request.
async fn erase(client: &Client, subject: &str) -> ErasureId {
    let gone = client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
    gone.header("location").unwrap().rsplit('/').next().unwrap().parse().unwrap()
}

async fn show(app: &TestApp, request: ErasureId) -> ErasureRequest {
    erasures::show(app.running.flows(), tenant(app), request).await.unwrap()
}

async fn state(app: &TestApp) -> LedgerState {
    ledger::check(app.running.flows()).await.unwrap()
}

fn living_keys(databases: &Databases) -> i64 {
    databases.count(&databases.keystore, "data_keys", "wrapped IS NOT NULL")
}

fn entries(databases: &Databases) -> i64 {
    databases.count(&databases.ledger, "ledger_entries", "1 = 1")
}

fn restore_all(databases: &Databases, backups: &[Backup]) {
    backups.iter().for_each(|backup| databases.restore(backup));
}

/// `velum erasures ...` beside the server.
fn velum_erasures(data: &Path, databases: &Databases, arguments: &[&str]) -> Command {
    let mut command = program(data, 0);
    databases.are_of(&mut command);
    command.arg("erasures").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cut_off_leaves_nobody_who_matches_and_a_worker_finishes_it() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let backups = [&app.databases.main, &app.databases.keystore].map(|url| app.databases.back_up(url));
        let request = erase(&client, &subject).await;
        let known = show(&app, request).await;

        let app = app.restarted(|databases| restore_all(databases, &backups)).await;
        let (client, tenant, now) = (app.client().await, tenant(&app), app.clock.now());
        assert_eq!(state(&app).await, LedgerState::ReplayNeeded);

        // Its first half alone: the request is there again, and the key is not destroyed.
        let key = BlindIndexKey::from_bytes(Zeroizing::new([9; 32]));
        let store = Store::connect(&app.databases.main, 1, key).await.unwrap();
        let person: SubjectId = subject.parse().unwrap();
        let (state_then, certificate) = (ErasureState::InProgress, known.certificate.clone());
        let begun = ErasureRequest {
            subject: Some(person),
            state: state_then,
            ended_at: None,
            removed: None,
            certificate: None,
            ..known
        };
        let job = NewJob {
            kind: JobKind::Erasure,
            tenant: Some(tenant),
            payload: json!({ "request": request.to_string() }),
            unique_key: None,
            due_at: now + time::Duration::seconds(10),
            created_at: now,
        };
        let event = Event::of(Actor::service(), Action::ErasureReplayed, request, now);
        store.erasures().restore(&begun, job, event.clone(), event).await.unwrap();
        assert_eq!(living_keys(&app.databases), 1);
        assert_eq!(state(&app).await, LedgerState::ReplayNeeded, "a certificate was given out");
        client.get("/readyz").await.expect(503);
        assert!(client.verify(&subject, photos::collins()).await.status.is_client_error());

        app.clock.advance(time::Duration::seconds(11));
        let started = Instant::now();
        while state(&app).await != LedgerState::Settled {
            assert!(started.elapsed() < Duration::from_secs(60), "no worker finishes it");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client.get("/readyz").await.expect(200);
        assert_eq!(living_keys(&app.databases), 0);
        let started = Instant::now();
        while show(&app, request).await.certificate != certificate {
            assert!(started.elapsed() < Duration::from_secs(60), "no certificate, or another one");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_the_middle_of_an_erasure_is_not_ready_before_the_key_is_destroyed_again() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, databases) = (app.client().await, &app.databases);
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let officer = app.client_of(velum::auth::Role::ComplianceOfficer).await;
        let body = json!({ "subject_id": subject, "verified": true });
        let request: ErasureId = officer.post("/v1/erasure-requests", body).await.expect(201).id().parse().unwrap();
        databases.execute(&databases.main, "UPDATE erasure_requests SET state = 'in_progress', begun_at = received_at");
        // Nobody is to be faster than this test.
        databases.execute(&databases.main, "DELETE FROM jobs WHERE kind = 'erasure'");
        let backups = [&databases.main, &databases.keystore].map(|url| databases.back_up(url));
        erasures::execute(app.running.flows(), tenant(&app), request).await.unwrap();
        assert_eq!(state(&app).await, LedgerState::Settled);

        let app = app.restarted(|databases| restore_all(databases, &backups)).await;
        let client = app.client().await;
        assert_eq!(state(&app).await, LedgerState::ReplayNeeded);
        client.get("/readyz").await.expect(503);
        ledger::replay(app.running.flows()).await.unwrap();
        client.get("/readyz").await.expect(200);
        assert_eq!((living_keys(&app.databases), entries(&app.databases)), (0, 2));
        client.verify(&subject, photos::collins()).await.expect_problem(404, "not_found");
    })
    .await;
}

/// Persons whose erasure is replayed below.
const PERSONS: usize = 150;

/// Ended with the test.
struct Replay(Child);

impl Drop for Replay {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_again_and_again_never_says_that_all_is_well_too_early() {
    for kind in Kind::here() {
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let separate = |command: &mut Command| {
            databases.are_of(command);
            command.env("VELUM_WORKER", "separate");
        };
        let mut process = Process::start_with(data.path(), separate);
        let client = process.client().await;
        let mut persons = vec![];
        for _ in 0..PERSONS {
            persons.push(client.subject().await);
        }
        let backups = [&databases.main, &databases.keystore].map(|url| databases.back_up(url));
        let erasing = persons.iter().map(|person| erase(&client, person));
        stream::iter(erasing).buffer_unordered(4).collect::<Vec<_>>().await;
        process.signal("-KILL");
        process.ended().await;
        restore_all(&databases, &backups);

        let completed = || databases.count(&databases.main, "erasure_requests", "state = 'completed'");
        for enough in [10, 50, 90] {
            let mut replay = Replay(velum_erasures(data.path(), &databases, &["replay"]).spawn().unwrap());
            let started = Instant::now();
            while completed() < enough {
                assert!(started.elapsed() < Duration::from_secs(120), "the replay does not go on");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            replay.0.kill().unwrap();
            replay.0.wait().unwrap();
            // Of whoever is half-way nothing is there that could be matched, and the queue has the rest.
            let half_way = "state = 'in_progress' AND subject_id IN (SELECT id FROM subjects)";
            assert_eq!(databases.count(&databases.main, "erasure_requests", half_way), 0);
            let requests = databases.count(&databases.main, "erasure_requests", "1 = 1");
            assert!(databases.count(&databases.main, "jobs", "kind = 'erasure'") >= requests);
            let status = velum_erasures(data.path(), &databases, &["status"]).output().unwrap();
            let all_done = living_keys(&databases) == 0;
            assert_eq!(status.status.success(), all_done, "{}", told(&status));
        }
        let replay = velum_erasures(data.path(), &databases, &["replay"]).output().unwrap();
        assert!(replay.status.success(), "{}", told(&replay));
        assert_eq!((completed(), living_keys(&databases)), (PERSONS as i64, 0));
        assert_eq!(entries(&databases), 2 * PERSONS as i64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_without_its_end_is_rebuilt_and_whoever_was_erased_stays_erased() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(velum::auth::Role::ComplianceOfficer).await);
        let mut persons = vec![];
        for _ in 0..6 {
            persons.push(client.consenting_subject().await);
        }
        client.enrol(&persons[5], photos::collins()).await.expect(201);
        let kept = client.consenting_subject().await;
        client.enrol(&kept, photos::collins()).await.expect(201);
        let older = [&app.databases.main, &app.databases.keystore].map(|url| app.databases.back_up(url));
        let mut certificates = vec![];
        let mut erase = async |persons: &[String]| {
            for person in persons {
                let path = format!("/v1/erasure-requests/{}/certificate", erase(&client, person).await);
                certificates.push((path.clone(), officer.get(&path).await.expect(200).text));
            }
        };
        erase(&persons[..3]).await;
        let ledger = app.databases.back_up(&app.databases.ledger);
        erase(&persons[3..]).await;
        client.get("/readyz").await.expect(200);

        let app = app.restarted(|databases| databases.restore(&ledger)).await;
        let client = app.client().await;
        client.get("/readyz").await.expect(503);
        assert_eq!(state(&app).await, LedgerState::LedgerBehind);
        let run = |command: &str| velum_erasures(app.data_dir.path(), &app.databases, &[command]).output().unwrap();
        for command in ["status", "replay"] {
            let behind = run(command);
            assert!(!behind.status.success() && told(&behind).contains("velum erasures rebuild"), "{}", told(&behind));
        }
        let rebuilt = run("rebuild");
        assert!(rebuilt.status.success(), "{}", told(&rebuilt));
        assert!(
            told(&rebuilt).contains("3 erasures written into the ledger, 0 persons erased again"),
            "{}",
            told(&rebuilt)
        );
        client.get("/readyz").await.expect(200);
        assert_eq!(entries(&app.databases), 12);
        let again = rebuild(app.running.flows(), false).await.unwrap();
        assert_eq!((again.written, entries(&app.databases)), (0, 12));

        // What the ledger is for: databases of before all erasures.
        let app = app.restarted(|databases| restore_all(databases, &older)).await;
        let (client, officer) = (app.client().await, app.client_of(velum::auth::Role::ComplianceOfficer).await);
        client.get("/readyz").await.expect(503);
        assert_eq!(ledger::replay(app.running.flows()).await.unwrap().erased_again, 6);
        client.get("/readyz").await.expect(200);
        for person in &persons {
            client.get(&format!("/v1/subjects/{person}")).await.expect_problem(404, "not_found");
        }
        assert_eq!(client.verify(&kept, photos::collins()).await.expect(201).json()["decision"], "match");
        assert_eq!(living_keys(&app.databases), 1);
        for (path, certificate) in certificates {
            assert_eq!(officer.get(&path).await.expect(200).text, certificate);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_rebuilt_beside_a_key_store_or_a_main_database_of_before_the_erasure() {
    for older in ["keystore", "main"] {
        each_database(|app| async move {
            let client = app.client().await;
            let subject = client.consenting_subject().await;
            client.enrol(&subject, photos::collins()).await.expect(201);
            let url = if older == "main" { &app.databases.main } else { &app.databases.keystore };
            let backups = [url, &app.databases.ledger].map(|url| app.databases.back_up(url));
            erase(&client, &subject).await;
            client.get("/readyz").await.expect(200);

            let app = app.restarted(|databases| restore_all(databases, &backups)).await;
            let client = app.client().await;
            assert_eq!(state(&app).await, LedgerState::LedgerBehind, "{older}");
            let rebuilt = rebuild(app.running.flows(), false).await.unwrap();
            assert_eq!((rebuilt.written, rebuilt.replayed.erased_again), (1, 1), "{older}");
            client.get("/readyz").await.expect(200);
            assert_eq!((living_keys(&app.databases), entries(&app.databases)), (0, 2), "{older}");
            client.verify(&subject, photos::collins()).await.expect_problem(404, "not_found");
            assert_eq!(app.databases.count(&app.databases.main, "subjects", "1 = 1"), 0);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_write_again_is_accepted_by_an_operator_and_recorded() {
    each_database(|app| async move {
        let (client, _abroad) = (app.client().await, app.foreign_client().await);
        let ledger = app.databases.back_up(&app.databases.ledger);
        let (nameless, lost) = (client.subject().await, client.subject().await);
        erase(&client, &nameless).await;
        let request = erase(&client, &lost).await;
        client.get("/readyz").await.expect(200);
        let app = app
            .restarted(|databases| {
                databases.restore(&ledger);
                // A key store that lost whose key it was, and a main database that lost the request.
                databases
                    .execute(&databases.keystore, &format!("DELETE FROM data_keys WHERE subject_id = '{nameless}'"));
                databases.execute(&databases.main, &format!("DELETE FROM erasure_requests WHERE id = '{request}'"));
            })
            .await;
        let client = app.client().await;
        let refused = rebuild(app.running.flows(), false).await;
        let unknown = Unknown { entries: 4, requests: 1 };
        assert!(matches!(refused, Err(RebuildError::LossNotAccepted(found)) if found == unknown), "{refused:?}");
        assert_eq!((state(&app).await, entries(&app.databases)), (LedgerState::LedgerBehind, 0));
        let run = |arguments: &[&str]| velum_erasures(app.data_dir.path(), &app.databases, arguments).output().unwrap();
        let refused = run(&["rebuild"]);
        assert!(!refused.status.success() && told(&refused).contains("--accept-loss"), "{}", told(&refused));
        let tell = "action = 'ledger.loss_accepted' AND actor = 'operator' AND object = '0 of 4'";
        let recorded = || {
            let losses = app.databases.count(&app.databases.ledger, "ledger_losses", "entries = 4 AND requests = 1");
            (app.databases.count(&app.databases.main, "audit_events", tell), losses)
        };
        assert_eq!(recorded(), (0, 0));

        let accepted = run(&["rebuild", "--accept-loss"]);
        assert!(accepted.status.success(), "{}", told(&accepted));
        assert_eq!(recorded(), (2, 1), "in the log of each tenant, and in the ledger");
        client.get("/readyz").await.expect(200);
        rebuild(app.running.flows(), false).await.unwrap();
        assert_eq!(recorded(), (2, 1), "once");
        let status = run(&["status"]);
        assert!(status.status.success() && told(&status).contains("accepted that entries after 0 up to 4 are lost"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_changed_is_named_and_erases_nobody() {
    each_database(|app| async move {
        let client = app.client().await;
        let (victim, mut persons) = (client.subject().await, vec![]);
        for _ in 0..3 {
            persons.push(client.subject().await);
        }
        for person in &persons[..2] {
            erase(&client, person).await;
        }
        client.get("/readyz").await.expect(200);
        erase(&client, &persons[2]).await;
        let disarm = match app.databases.kind {
            Kind::Sqlite => "DROP TRIGGER ledger_entries_no_update",
            Kind::Postgres => "DROP TRIGGER ledger_entries_append_only ON ledger_entries",
        };
        app.databases.execute(&app.databases.ledger, disarm);
        let change = |sequence: i64, subject: &str| {
            let change = format!("UPDATE ledger_entries SET subject_id = '{subject}' WHERE sequence = {sequence}");
            app.databases.execute(&app.databases.ledger, &change);
        };
        change(5, &victim);
        assert_eq!(state(&app).await, LedgerState::LedgerBroken { sequence: 5 });
        client.get("/readyz").await.expect(503);
        ledger::replay(app.running.flows()).await.unwrap_err();
        rebuild(app.running.flows(), true).await.unwrap_err();
        client.get(&format!("/v1/subjects/{victim}")).await.expect(200);

        // What was agreed on before is looked at by who asks for all of it.
        change(5, &persons[2]);
        change(1, &victim);
        let whole = ledger::check_whole(app.running.flows()).await.unwrap();
        assert_eq!(whole, LedgerState::LedgerBroken { sequence: 1 });
        ledger::replay(app.running.flows()).await.unwrap_err();
        change(1, &persons[0]);
        assert_eq!(ledger::check_whole(app.running.flows()).await.unwrap(), LedgerState::Settled);
        client.get("/readyz").await.expect(200);
        client.get(&format!("/v1/subjects/{victim}")).await.expect(200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_is_stuck_after_its_key_holds_nothing_up_and_a_key_that_comes_back_is_noticed() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, databases) = (app.client().await, &app.databases);
        let mut persons = vec![];
        for _ in 0..3 {
            persons.push(client.subject().await);
        }
        let keystore = databases.back_up(&databases.keystore);
        let request = erase(&client, &persons[0]).await;
        // As if the keyholder had been away for a day: nobody tries any more.
        databases.execute(
            &databases.main,
            &format!(
                "UPDATE erasure_requests SET state = 'in_progress', subject_id = '{}', ended_at = NULL, certificate = NULL \
                 WHERE id = '{request}'",
                persons[0]
            ),
        );
        databases.execute(&databases.main, "DELETE FROM jobs WHERE kind = 'erasure'");
        for person in &persons[1..] {
            erase(&client, person).await;
        }
        assert_eq!(state(&app).await, LedgerState::Settled);
        for database in [&databases.main, &databases.keystore] {
            assert_eq!(databases.count(database, "ledger_mark", "sequence = 6"), 1, "what is settled is not read again");
        }
        let ahead = format!("created_at > {}", app.clock.now().unix_timestamp_nanos() / 1_000);
        assert!(databases.count(&databases.main, "jobs", "kind = 'erasure'") > 0);
        assert_eq!(databases.count(&databases.main, "jobs", &ahead), 0, "no job was made in the future");
        erasures::execute(app.running.flows(), tenant(&app), ErasureId::generate()).await.unwrap();

        let app = app.restarted(|databases| databases.restore(&keystore)).await;
        assert_eq!(state(&app).await, LedgerState::ReplayNeeded);
        ledger::replay(app.running.flows()).await.unwrap();
        assert_eq!((state(&app).await, living_keys(&app.databases)), (LedgerState::Settled, 0));
    })
    .await;
}
