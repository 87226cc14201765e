//! OpenDSR: wishes that controllers pass on, and the callbacks that tell them what became of each.

use std::{
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use reqwest::Method;
use serde_json::{Value, json};
use velum::{
    auth::Role,
    callbacks::{CallbackError, Callbacks, Refusal},
    domain::{
        id::{ErasureId, TenantId},
        network::Networks,
    },
    flows::erasures,
    tls,
};

use super::helpers::{
    Answer, Client, Kind, Options, Process, Received, Receiver, TestApp, databases::Databases, each_database,
    each_database_with, photos, until, uuid_of_four,
};

const REQUESTS: &str = "/opendsr/v1/requests";
/// Where a test is the worker itself.
const NO_WORKER: Options<'_> = &[("WORKER", "separate")];

fn identity(value: &str) -> Value {
    json!({ "identity_type": "controller_customer_id", "identity_value": value, "identity_format": "raw" })
}

fn request(id: &str, person: &str) -> Value {
    json!({
        "subject_request_id": id, "subject_request_type": "erasure", "submitted_time": "2026-01-01T00:00:00Z",
        "regulation": "ccpa", "api_version": "2.0", "subject_identities": [identity(person)],
        "extensions": { "another-processor.example": { "campaign": 7 } },
    })
}

fn with(mut request: Value, member: &str, value: Value) -> Value {
    request[member] = value;
    request
}

fn at(id: &str) -> String {
    format!("{REQUESTS}/{id}")
}

/// The erasure request behind it, its state and its reason.
fn erasure(status: &Value) -> (Option<String>, String, Option<String>) {
    let extension = &status["extensions"]["localhost"];
    let text = |name: &str| extension[name].as_str().map(str::to_owned);
    (text("erasure_request_id"), text("state").unwrap(), text("reason"))
}

async fn status(officer: &Client, id: &str) -> Value {
    officer.get(&at(id)).await.expect(200).json()
}

/// What a worker does.
async fn execute(app: &TestApp, erasure: &str) {
    let tenants = app.databases.texts(&app.databases.main, "SELECT id AS text FROM tenants ORDER BY id");
    let tenant: TenantId = tenants[0].parse().unwrap();
    erasures::execute(app.running.flows(), tenant, erasure.parse::<ErasureId>().unwrap()).await.unwrap();
}

/// As a controller would: with the published keys, over the bytes that came.
struct Verifier(Value);

impl Verifier {
    async fn of(stranger: &Client) -> Self {
        Self(stranger.get("/.well-known/evidence-jwks.json").await.expect(200).json())
    }

    fn verifies(&self, key: &str, signature: &str, body: &[u8]) -> bool {
        let keys = self.0["keys"].as_array().unwrap();
        let Some(jwk) = keys.iter().find(|jwk| jwk["kid"] == key) else { return false };
        let part = |name: &str| jwk[name].as_str().unwrap();
        let public = DecodingKey::from_rsa_components(part("n"), part("e")).unwrap();
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        crypto::verify(&URL_SAFE_NO_PAD.encode(signature), body, &public, Algorithm::RS256).unwrap()
    }

    #[track_caller]
    fn check(&self, answer: &Answer) {
        let header = |name| answer.header(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(header("x-opendsr-processor-domain"), "localhost");
        let (key, signature) = (header("x-opendsr-key-id"), header("x-opendsr-signature"));
        assert!(self.verifies(key, signature, answer.text.as_bytes()), "{}", answer.text);
        let mut changed = answer.text.clone().into_bytes();
        changed[7] ^= 1;
        assert!(!self.verifies(key, signature, &changed));
    }

    #[track_caller]
    fn check_callback(&self, callback: &Received) {
        let header = |name: &str| callback.headers.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(header("x-opendsr-processor-domain"), "localhost");
        assert_eq!(header("content-type"), "application/json");
        let (key, signature) = (header("x-opendsr-key-id"), header("x-opendsr-signature"));
        assert!(self.verifies(key, signature, &callback.body));
        let later = String::from_utf8(callback.body.clone()).unwrap().replace("sent_at\":\"20", "sent_at\":\"21");
        assert!(!self.verifies(key, signature, later.as_bytes()), "the moment of sending is signed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_is_passed_on_is_carried_out_and_every_answer_is_signed() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let verifier = Verifier::of(&app.stranger()).await;
        let known = client.post("/v1/subjects", json!({ "external_ref": "member-4711" })).await.expect(201).id();
        client.consent(&known).await;
        client.enrol(&known, photos::collins()).await.expect(201);

        let id = uuid_of_four();
        let sent = request(&id, "member-4711").to_string();
        let taken = officer.post_raw(REQUESTS, "application/json", sent.clone()).await.expect(201);
        verifier.check(&taken);
        let told = taken.json();
        assert_eq!((&told["subject_request_id"], taken.header("location")), (&json!(id), Some(at(&id).as_str())));
        assert_eq!(STANDARD.decode(told["encoded_request"].as_str().unwrap()).unwrap(), sent.as_bytes());
        assert_eq!(told["expected_completion_time"], "2026-02-15T00:00:00Z", "45 days after the person asked");
        assert!(told["controller_id"].as_str().unwrap().starts_with("ten_"));

        let answer = officer.get(&at(&id)).await.expect(200);
        verifier.check(&answer);
        let pending = answer.json();
        assert_eq!((&pending["request_status"], &pending["api_version"]), (&json!("pending"), &json!("2.0")));
        let (behind, state, _) = erasure(&pending);
        let behind = behind.unwrap();
        assert_eq!((state.as_str(), pending.get("results_url")), ("verified", None));
        let own = officer.get(&format!("/v1/erasure-requests/{behind}")).await.expect(200).json();
        assert_eq!((&own["subject_id"], &own["received_at"]), (&json!(known), &json!("2026-01-01T00:00:00Z")));

        // One person has one open request, by whichever door.
        let other = officer.post(REQUESTS, request(&uuid_of_four(), &known)).await;
        other.expect_problem(409, "erasure_open");
        let twice = json!({ "subject_id": known });
        officer.post("/v1/erasure-requests", twice).await.expect_problem(409, "erasure_open");

        execute(&app, &behind).await;
        let done = status(&officer, &id).await;
        assert_eq!(done["request_status"], "completed");
        let results = done["results_url"].as_str().unwrap();
        let path = results.strip_prefix("https://localhost:8443").unwrap();
        officer.get(path).await.expect(200);
        client.get(&format!("/v1/subjects/{known}")).await.expect_problem(404, "not_found");

        // The same once more is the same, although nobody is left under that name.
        let again = officer.post_raw(REQUESTS, "application/json", sent).await.expect(201);
        verifier.check(&again);
        assert_eq!(again.json(), told);
        app.foreign_officer().await.get(&at(&id)).await.expect_problem(404, "not_found");
        app.foreign_officer().await.delete(&at(&id)).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_known_gets_the_same_answer_and_has_nothing_left_to_be_erased() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let abroad = app.foreign_client().await;
        let (known, foreign) = (client.subject().await, abroad.subject().await);
        let shape = |answer: &Answer| {
            let mut told = answer.json();
            for member in ["subject_request_id", "encoded_request", "received_time"] {
                assert!(told[member].take().is_string(), "{member}");
            }
            told
        };
        let to_known = officer.post(REQUESTS, request(&uuid_of_four(), &known)).await.expect(201);
        for nobody in ["nobody", foreign.as_str(), "sub_0193512ab4c87d0e8f6a5b4c3d2e1f00"] {
            let id = uuid_of_four();
            let answer = officer.post(REQUESTS, request(&id, nobody)).await.expect(201);
            assert_eq!(shape(&answer), shape(&to_known), "{nobody}");
            let seen = status(&officer, &id).await;
            assert_eq!((&seen["request_status"], seen.get("results_url")), (&json!("completed"), None));
            assert_eq!(erasure(&seen).0, None);
            officer.delete(&at(&id)).await.expect_problem(409, "erasure_state");
        }
        abroad.get(&format!("/v1/subjects/{foreign}")).await.expect(200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_is_one_request_however_often_and_at_once_it_is_sent() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let requests = || app.databases.count(&app.databases.main, "opendsr_requests", "1 = 1");
        for round in 1..=5 {
            let (id, subject) = (uuid_of_four(), client.subject().await);
            let body = request(&id, &subject);
            let answers = futures_util::future::join_all((0..8).map(|_| officer.post(REQUESTS, body.clone()))).await;
            let first = answers[0].json();
            for answer in answers {
                assert_eq!(answer.expect(201).json(), first);
            }
            assert_eq!(requests(), round);
            assert_eq!(app.databases.count(&app.databases.main, "erasure_requests", "1 = 1"), round);

            // Another content under this id is a mistake, also in a race.
            let another = with(body.clone(), "regulation", json!("gdpr"));
            officer.post(REQUESTS, another).await.expect_problem(409, "subject_request_id_taken");
        }
        let (id, one, other) = (uuid_of_four(), client.subject().await, client.subject().await);
        let (one, other) = (request(&id, &one), request(&id, &other));
        let (one, other) = tokio::join!(officer.post(REQUESTS, one), officer.post(REQUESTS, other));
        let (first, second) = if one.status == 201 { (one, other) } else { (other, one) };
        first.expect(201);
        second.expect_problem(409, "subject_request_id_taken");

        // Another tenant may have made the same UUID.
        app.foreign_officer().await.post(REQUESTS, request(&id, "nobody")).await.expect(201);

        // An Idempotency-Key changes nothing about that.
        let keyed = |key: &'static str, body: &Value| {
            officer.send(officer.request(Method::POST, REQUESTS).header("Idempotency-Key", key).json(body))
        };
        let body = request(&uuid_of_four(), &client.subject().await);
        let (first, again) = (keyed("a", &body).await.expect(201), keyed("a", &body).await.expect(201));
        assert_eq!(again.json(), first.json());
        assert_eq!(keyed("b", &body).await.expect(201).json(), first.json());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_has_one_of_the_four_words_and_what_is_pending_can_be_cancelled() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let verifier = Verifier::of(&app.stranger()).await;
        let submit = async || {
            let (id, subject) = (uuid_of_four(), client.subject().await);
            officer.post(REQUESTS, request(&id, &subject)).await.expect(201);
            let (behind, _, _) = erasure(&status(&officer, &id).await);
            (id, format!("/v1/erasure-requests/{}", behind.unwrap()))
        };
        let word = async |id: &str| {
            let seen = status(&officer, id).await;
            let (_, state, reason) = erasure(&seen);
            (seen["request_status"].as_str().unwrap().to_owned(), state, reason)
        };
        let told = |word: &str, state: &str, reason: Option<&str>| {
            (word.to_owned(), state.to_owned(), reason.map(str::to_owned))
        };

        let (id, behind) = submit().await;
        officer.post(&format!("{behind}/hold"), json!({ "reason": "a lawsuit" })).await.expect(200);
        assert_eq!(word(&id).await, told("pending", "on_hold", Some("a lawsuit")));
        officer.post_empty(&format!("{behind}/release")).await.expect(200);
        assert_eq!(word(&id).await, told("pending", "verified", None));
        officer.post(&format!("{behind}/reject"), json!({ "reason": "unfounded" })).await.expect(200);
        assert_eq!(word(&id).await, told("cancelled", "rejected", Some("unfounded")));
        officer.delete(&at(&id)).await.expect_problem(409, "erasure_state");

        let (id, behind) = submit().await;
        let cancelled = officer.delete(&at(&id)).await.expect(202);
        verifier.check(&cancelled);
        assert_eq!(cancelled.json()["subject_request_id"], json!(id));
        assert_eq!(officer.get(&behind).await.json()["state"], "cancelled");
        assert_eq!(word(&id).await, told("cancelled", "cancelled", None));
        assert_eq!(officer.delete(&at(&id)).await.expect(202).json(), cancelled.json(), "and stays so");

        let (id, behind) = submit().await;
        execute(&app, behind.rsplit('/').next().unwrap()).await;
        officer.delete(&at(&id)).await.expect_problem(409, "erasure_state");
        assert_eq!(word(&id).await, told("completed", "completed", None));
        officer.delete(&at(&uuid_of_four())).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_refused_with_a_reason_and_leaves_nothing() {
    each_database_with(NO_WORKER, |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let (one, other) = (client.subject().await, client.subject().await);
        let good = || request(&uuid_of_four(), &one);
        let odd = |kind: &str, format: &str| {
            json!([{ "identity_type": kind, "identity_value": "somebody@example.org", "identity_format": format }])
        };
        let tomorrow = app.clock_in(time::Duration::DAY);
        for (member, value, code) in [
            ("subject_request_type", json!("access"), "request_type_unsupported"),
            ("subject_request_type", json!("portability"), "request_type_unsupported"),
            ("subject_request_type", json!("oblivion"), "validation_failed"),
            ("subject_identities", odd("email", "raw"), "identity_unsupported"),
            ("subject_identities", odd("controller_customer_id", "sha256"), "identity_unsupported"),
            ("subject_identities", json!([]), "validation_failed"),
            ("subject_identities", json!([identity("")]), "validation_failed"),
            ("subject_identities", json!(vec![identity(&one); 11]), "validation_failed"),
            ("subject_identities", json!([identity(&one), identity(&other)]), "validation_failed"),
            ("subject_request_id", json!("a7551968-d5d6-11b2-9831-815ac9017798"), "validation_failed"),
            ("subject_request_id", json!(null), "validation_failed"),
            ("submitted_time", json!("yesterday"), "validation_failed"),
            ("submitted_time", json!(tomorrow), "validation_failed"),
            ("regulation", json!("lex"), "validation_failed"),
            ("api_version", json!("3.0"), "validation_failed"),
            ("status_callback_urls", json!(vec!["https://controller.example/"; 6]), "validation_failed"),
            ("status_callback_urls", json!(["http://controller.example/"]), "validation_failed"),
            ("status_callback_urls", json!(["https://controller.example/", "https://127.0.0.1/"]), "validation_failed"),
            ("status_callback_urls", json!(["https://[::ffff:169.254.169.254]/"]), "validation_failed"),
        ] {
            let answer = officer.post(REQUESTS, with(good(), member, value.clone())).await;
            assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (422, &json!(code)), "{member}: {value}");
        }
        officer.post_raw(REQUESTS, "application/json", "[]").await.expect_problem(400, "malformed_json");
        app.client_with_scope("subjects").await.post(REQUESTS, good()).await.expect_problem(403, "scope_missing");
        assert_eq!(app.databases.count(&app.databases.main, "opendsr_requests", "1 = 1"), 0);
        assert_eq!(app.databases.count(&app.databases.main, "erasure_requests", "1 = 1"), 0);

        // What others need stands beside what we need, and a clock that is ahead a little is no mistake.
        let mut identities = odd("email", "sha256").as_array().unwrap().clone();
        identities.push(identity(&one));
        let body = with(good(), "subject_identities", json!(identities));
        let soon = app.clock_in(time::Duration::MINUTE);
        officer.post(REQUESTS, with(body, "submitted_time", json!(soon))).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_learns_what_can_be_asked_for_and_how_to_check_the_answers() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("certificate.pem");
    std::fs::write(&certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let shown = certificate.display().to_string();
    each_database_with(&[("OPENDSR_CERTIFICATE_FILE", &shown)], |app| async move {
        let told = app.stranger().get("/opendsr/v1/discovery").await.expect(200).json();
        assert_eq!(told["api_version"], "2.0");
        assert_eq!(told["supported_subject_request_types"], json!(["erasure"]));
        let supported = json!([{ "identity_type": "controller_customer_id", "identity_format": "raw" }]);
        assert_eq!(told["supported_identities"], supported);
        assert_eq!(told["processor_jwks"], "https://localhost:8443/.well-known/evidence-jwks.json");
        let path = told["processor_certificate"].as_str().unwrap().strip_prefix("https://localhost:8443").unwrap();
        assert_eq!(app.stranger().get(path).await.expect(200).text, "-----BEGIN CERTIFICATE-----\n");
    })
    .await;
    each_database(|app| async move {
        let told = app.stranger().get("/opendsr/v1/discovery").await.expect(200).json();
        assert_eq!(told.get("processor_certificate"), None);
        app.stranger().get("/opendsr/v1/certificate.pem").await.expect_problem(404, "not_found");
    })
    .await;
}

/// Runs a test on each database with a server that may call a receiver.
async fn each_with_receiver<F: Future<Output = ()>>(test: impl Fn(TestApp, Receiver) -> F) {
    for kind in Kind::here() {
        let receiver = Receiver::start();
        let options = receiver.options();
        let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        test(TestApp::spawn(kind, &options).await, receiver).await;
    }
}

fn words(callbacks: &[Received]) -> Vec<String> {
    callbacks.iter().map(|callback| callback.json()["request_status"].as_str().unwrap().to_owned()).collect()
}

fn of_callback<'a>(callback: &'a Value, member: &str) -> &'a Value {
    &callback["extensions"]["localhost"][member]
}

/// Requests whose receivers' addresses are still there.
fn kept(app: &TestApp) -> i64 {
    app.databases.count(&app.databases.main, "opendsr_requests", "addresses IS NOT NULL OR key_id IS NOT NULL")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receiver_is_told_every_change_in_order_and_forgotten_after_the_last() {
    each_with_receiver(|app, receiver| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let verifier = Verifier::of(&app.stranger()).await;
        let (id, subject) = (uuid_of_four(), client.subject().await);
        let urls = [receiver.url("/first?secret=s3cr3t"), receiver.url("/second")];
        let body = with(request(&id, &subject), "status_callback_urls", json!(urls));
        officer.post(REQUESTS, body).await.expect(201);
        for (path, url) in [("/first", &urls[0]), ("/second", &urls[1])] {
            let callbacks = receiver.wait_for(path, 2).await;
            assert_eq!(words(&callbacks), ["in_progress", "completed"]);
            let mut ids = vec![];
            for (place, callback) in callbacks.iter().enumerate() {
                verifier.check_callback(callback);
                let told = callback.json();
                assert_eq!((&told["subject_request_id"], &told["status_callback_url"]), (&json!(id), &json!(url)));
                assert_eq!(told["expected_completion_time"], "2026-02-15T00:00:00.000000Z");
                assert_eq!(of_callback(&told, "change"), &json!(place + 1));
                ids.push(of_callback(&told, "callback_id").as_str().unwrap().to_owned());
            }
            assert_ne!(ids[0], ids[1]);
        }
        until("the addresses are forgotten", 60, async || kept(&app) == 0).await;
        until("the queue is empty", 60, async || {
            app.databases.count(&app.databases.main, "jobs", "kind = 'callback'") == 0
        })
        .await;
        let keys = |condition: &str| app.databases.count(&app.databases.keystore, "data_keys", condition);
        assert_eq!((keys("wrapped IS NOT NULL"), keys("destroyed_at IS NOT NULL")), (0, 2), "the person's, and theirs");
        let log = officer.get("/v1/audit-events?action=callback.delivered").await.expect(200).json();
        assert_eq!(log["data"].as_array().unwrap().len(), 4);
        assert!(log["data"].as_array().unwrap().iter().all(|entry| entry["object"] == json!(id)));

        // Nobody of that name: the end is told at once.
        let id = uuid_of_four();
        let body = with(request(&id, "nobody"), "status_callback_urls", json!([receiver.url("/nobody")]));
        officer.post(REQUESTS, body).await.expect(201);
        assert_eq!(words(&receiver.wait_for("/nobody", 1).await), ["completed"]);
        until("the addresses are forgotten", 60, async || kept(&app) == 0).await;
        assert_eq!(receiver.received().len(), 5);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_fails_comes_again_before_the_next_and_a_redirect_is_not_followed() {
    each_with_receiver(|app, receiver| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let (id, subject) = (uuid_of_four(), client.subject().await);
        receiver.answer_next(&[500, 302, 404]);
        let body = with(request(&id, &subject), "status_callback_urls", json!([receiver.url("/hook")]));
        officer.post(REQUESTS, body).await.expect(201);
        for failed in 1..=3 {
            let received = receiver.wait_for("/hook", failed).await;
            assert_eq!(received.len(), failed, "not before its time");
            until("the failure is written down", 60, async || {
                let failed = format!("kind = 'callback' AND lease IS NULL AND attempts = {failed}");
                app.databases.count(&app.databases.main, "jobs", &failed) == 1
            })
            .await;
            app.clock.advance(time::Duration::minutes(1));
        }
        let received = receiver.wait_for("/hook", 5).await;
        assert_eq!(words(&received), ["in_progress", "in_progress", "in_progress", "in_progress", "completed"]);
        let ids: Vec<_> = received.iter().map(|one| of_callback(&one.json(), "callback_id").clone()).collect();
        assert!(ids[..4].iter().all(|id| *id == ids[0]) && ids[4] != ids[0]);
        assert_eq!(receiver.received_at("/elsewhere").len(), 0);
        until("the addresses are forgotten", 60, async || kept(&app) == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_given_up_is_in_the_audit_log_and_among_the_dead_and_can_be_tried_again() {
    each_with_receiver(|app, receiver| async move {
        let officer = app.client_of(Role::ComplianceOfficer).await;
        let id = uuid_of_four();
        receiver.answer_next(&[503, 503]);
        let body = with(request(&id, "nobody"), "status_callback_urls", json!([receiver.url("/hook")]));
        officer.post(REQUESTS, body).await.expect(201);
        receiver.wait_for("/hook", 1).await;
        let jobs = |condition: &str| {
            app.databases.count(&app.databases.main, "jobs", &format!("kind = 'callback' AND {condition}"))
        };
        until("it failed", 60, async || jobs("lease IS NULL AND attempts = 1") == 1).await;
        app.databases.execute(&app.databases.main, "UPDATE jobs SET attempts = 23, due_at = 0 WHERE kind = 'callback'");
        until("it is given up", 60, async || jobs("dead_at IS NOT NULL AND last_error = 'callback_failed'") == 1).await;
        let log = officer.get("/v1/audit-events?action=callback.given_up").await.expect(200).json();
        assert_eq!((log["data"].as_array().unwrap().len(), &log["data"][0]["object"]), (1, &json!(id)));

        // What `velum jobs retry` does.
        let revive = "UPDATE jobs SET dead_at = NULL, attempts = 0, due_at = 0 WHERE dead_at IS NOT NULL";
        app.databases.execute(&app.databases.main, revive);
        assert_eq!(words(&receiver.wait_for("/hook", 3).await)[2], "completed");
        until("the addresses are forgotten", 60, async || kept(&app) == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_never_answer_keep_no_erasure_waiting() {
    each_with_receiver(|app, receiver| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        receiver.be_silent(true);
        for _ in 0..4 {
            let urls: Vec<_> = (0..5).map(|_| receiver.url("/silent")).collect();
            let body = with(request(&uuid_of_four(), "nobody"), "status_callback_urls", json!(urls));
            officer.post(REQUESTS, body).await.expect(201);
        }
        // More than there are places; each waits ten seconds for an answer.
        receiver.wait_for("/silent", 8).await;
        let begun = Instant::now();
        let (id, subject) = (uuid_of_four(), client.subject().await);
        officer.post(REQUESTS, request(&id, &subject)).await.expect(201);
        while status(&officer, &id).await["request_status"] != "completed" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_this_machine_is_not_called() {
    let receiver = Receiver::start();
    let authority = receiver.authority.display().to_string();
    // It trusts the receiver, and may not call it.
    each_database_with(&[("CALLBACK_CA_FILE", &authority)], |app| async {
        let app = app;
        let officer = app.client_of(Role::ComplianceOfficer).await;
        let url = format!("https://localhost:{}/hook", receiver.port);
        let body = with(request(&uuid_of_four(), "nobody"), "status_callback_urls", json!([url]));
        officer.post(REQUESTS, body).await.expect(201);
        until("the call failed", 60, async || {
            let failed = "kind = 'callback' AND last_error = 'callback_failed'";
            app.databases.count(&app.databases.main, "jobs", failed) == 1
        })
        .await;
        assert_eq!(receiver.received().len(), 0);
    })
    .await;
}

/// What can call nobody but hosts of the public Internet, and whoever lies in these networks.
fn callbacks(also: &str) -> Callbacks {
    let networks: Networks = also.parse().unwrap_or_default();
    Callbacks::new(tls::outgoing_client(None).unwrap(), networks).unwrap()
}

#[test]
fn an_address_that_leads_inside_in_whatever_spelling_is_refused() {
    use Refusal::{MoreThanAnAddress, NoTls, NoUrl, NotPublic};
    let (public, own) = (callbacks(""), callbacks("10.1.0.0/16"));
    for (address, refusal) in [
        ("https://127.0.0.1/", NotPublic),
        ("https://127.0.0.1:8443/hook", NotPublic),
        ("https://127.1/", NotPublic),
        ("https://2130706433/", NotPublic),
        ("https://0x7f000001/", NotPublic),
        ("https://0177.0.0.1/", NotPublic),
        ("https://127.0.0.1./", NotPublic),
        ("https://%31%32%37.0.0.1/", NotPublic),
        ("https://\u{ff11}27.0.0.1/", NotPublic),
        ("https://0.0.0.0/", NotPublic),
        ("https://10.0.0.1/", NotPublic),
        ("https://172.16.0.1/", NotPublic),
        ("https://192.168.0.1/", NotPublic),
        ("https://100.64.0.1/", NotPublic),
        ("https://100.100.100.200/", NotPublic),
        ("https://169.254.169.254/latest/meta-data/", NotPublic),
        ("https://168.63.129.16/", NotPublic),
        ("https://192.0.0.192/", NotPublic),
        ("https://224.0.0.1/", NotPublic),
        ("https://255.255.255.255/", NotPublic),
        ("https://[::]/", NotPublic),
        ("https://[::1]/", NotPublic),
        ("https://[::ffff:127.0.0.1]/", NotPublic),
        ("https://[::ffff:a9fe:a9fe]/", NotPublic),
        ("https://[64:ff9b::7f00:1]/", NotPublic),
        ("https://[2002:7f00:1::]/", NotPublic),
        ("https://[fe80::1]/", NotPublic),
        ("https://[fd00:ec2::254]/", NotPublic),
        ("https://[ff02::1]/", NotPublic),
        ("http://controller.example/", NoTls),
        ("ftp://controller.example/", NoTls),
        ("file:///etc/passwd", NoTls),
        ("HTTP://controller.example/", NoTls),
        ("https://user@controller.example/", MoreThanAnAddress),
        ("https://:word@controller.example/", MoreThanAnAddress),
        ("https://controller.example/#part", MoreThanAnAddress),
        ("https://", NoUrl),
        ("https://[::1%25eth0]/", NoUrl),
        ("https://1.2.3.4.5/", NoUrl),
        ("controller.example/hook", NoUrl),
        ("", NoUrl),
    ] {
        assert_eq!(public.check(address), Err(refusal), "{address}");
        assert_eq!(own.check(address), Err(refusal), "{address}");
    }
    assert_eq!(public.check(&format!("https://controller.example/{}", "a".repeat(2_000))), Err(NoUrl));
    for address in ["https://controller.example/hook?a=b", "https://1.1.1.1:444/", "https://[2606:4700::1111]/"] {
        assert_eq!(public.check(address), Ok(()), "{address}");
    }
    assert_eq!((public.check("https://10.1.2.3/"), own.check("https://10.1.2.3/")), (Err(NotPublic), Ok(())));
}

#[tokio::test]
async fn no_connection_is_made_to_a_name_that_leads_inside() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for name in ["localhost", "LOCALHOST", "127.0.0.1"] {
        let refused = callbacks("").post(&format!("https://{name}:{port}/"), &[], vec![]).await;
        assert!(matches!(refused, Err(CallbackError::Refused(Refusal::NotPublic))), "{name}: {refused:?}");
        assert!(listener.accept().is_err(), "{name} was called");
    }
    // The means are good: where it may, it calls, and says that nobody speaks TLS there.
    let call = callbacks("127.0.0.0/8, ::1");
    let url = format!("https://127.0.0.1:{port}/secret");
    let called = tokio::spawn(async move { call.post(&url, &[], vec![]).await });
    until("it is called", 60, async || listener.accept().is_ok()).await;
    let error = called.await.unwrap().unwrap_err();
    assert!(matches!(error, CallbackError::Unreachable(_)) && !format!("{error:?}").contains("secret"), "{error:?}");
}

/// Requests in each round of the test below.
const PASSED_ON: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_every_receiver_is_told_everything_in_order() {
    for kind in Kind::here() {
        let (receiver, data) = (Receiver::start(), tempfile::tempdir().unwrap());
        let databases = Databases::make(kind, data.path());
        let start = || {
            Process::start_with(data.path(), |command: &mut Command| {
                databases.are_of(command);
                command.envs(receiver.options().into_iter().map(|(name, value)| (format!("VELUM_{name}"), value)));
            })
        };
        let mut process = start();
        let mut wishes = vec![];
        for delay_ms in [5, 40, 150, 400, 800] {
            let client = process.client_with_scopes(&databases, "subjects dsr").await;
            let there = || databases.count(&databases.main, "opendsr_requests", "1 = 1");
            let (before, mut sending) = (there(), vec![]);
            for _ in 0..PASSED_ON {
                let (client, id) = (client.clone(), uuid_of_four());
                let subject = client.subject().await;
                let path = format!("/{id}");
                let body = with(request(&id, &subject), "status_callback_urls", json!([receiver.url(&path)]));
                wishes.push((path, body.clone()));
                sending.push(tokio::spawn(async move {
                    let _killed_meanwhile = client.request(Method::POST, REQUESTS).json(&body).send().await;
                }));
            }
            until("a request is there", 60, async || there() > before).await;
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            process.signal("-KILL");
            process.ended().await;
            for sent in sending {
                sent.await.unwrap();
            }
            process = start();
        }
        // As controllers do that got no answer.
        let client = process.client_with_scopes(&databases, "subjects dsr").await;
        for (_, body) in &wishes {
            client.post(REQUESTS, body.clone()).await.expect(201);
        }
        let left = || {
            databases.count(&databases.main, "jobs", "kind IN ('callback', 'erasure')")
                + databases.count(&databases.main, "opendsr_requests", "addresses IS NOT NULL")
        };
        let begun = Instant::now();
        while left() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "{} are left", left());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for (path, _) in &wishes {
            // One may come twice: it has the same id, and comes before the next.
            let mut told: Vec<(Value, String)> = receiver
                .received_at(path)
                .iter()
                .map(|callback| {
                    (
                        of_callback(&callback.json(), "callback_id").clone(),
                        words(std::slice::from_ref(callback))[0].clone(),
                    )
                })
                .collect();
            told.dedup();
            let told: Vec<_> = told.into_iter().map(|(_, word)| word).collect();
            assert_eq!(told, ["in_progress", "completed"], "{path}");
        }
        assert_eq!(databases.count(&databases.main, "opendsr_requests", "1 = 1") as usize, wishes.len());
    }
}
