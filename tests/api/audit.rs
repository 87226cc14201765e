//! The audit log, from outside: nothing is changed without a line in it, and no line says more than it should.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use velum::{
    audit::{Checkpoint, export},
    auth::{
        Role,
        evidence::{Document, EvidenceVerifier},
    },
    http::ROUTES,
};

use super::helpers::{Answer, Client, Process, each_database, each_database_with, photos};

const ERASURE_ROUTES: [&str; 5] = [
    "POST /v1/erasure-requests/{erasure}/verify",
    "POST /v1/erasure-requests/{erasure}/reject",
    "POST /v1/erasure-requests/{erasure}/hold",
    "POST /v1/erasure-requests/{erasure}/release",
    "POST /v1/erasure-requests/{erasure}/cancel",
];

const ACCESS_ROUTES: [&str; 3] = [
    "POST /v1/access-requests/{access}/verify",
    "POST /v1/access-requests/{access}/reject",
    "POST /v1/access-requests/{access}/cancel",
];

/// What an entry says of the reason of a decision: people's own words never.
fn why(verb: &str) -> Value {
    match verb {
        "reject" | "hold" => json!("stated_in_request"),
        "cancel" => json!("not_asked"),
        _ => Value::Null,
    }
}

/// The newest entry, and how many there are.
async fn newest(officer: &Client) -> (Value, u64) {
    let page = officer.get("/v1/audit-events?limit=1").await.expect(200).json();
    (page["data"][0].clone(), page["data"][0]["sequence"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_changes_something_leaves_one_entry() {
    // Without a worker, which would write entries of its own in between.
    each_database_with(&[("WORKER", "separate")], |app| async move {
        let (id, secret) = app.credential_of(Role::Admin).await;
        let client = app.stranger().with_token(&id, &secret, "").await;
        let officer = app.client_of(Role::ComplianceOfficer).await;
        let mut covered = BTreeSet::new();
        let sequence = Cell::new(newest(&officer).await.1);
        // One call after another: the route it covers, what it is called in the log, and which id it says.
        let mut seen = async |route: &'static str, answer: Answer, action: &str, object: Option<&str>| {
            let (entry, now) = newest(&officer).await;
            assert_eq!(now, sequence.get() + 1, "{route}: {}", answer.text);
            sequence.set(now);
            assert_eq!((&entry["action"], entry["object"].as_str()), (&json!(action), object), "{route}");
            assert_eq!(entry["actor"], json!(id), "{route}");
            if !route.contains("/oauth/") {
                assert_eq!(entry["request_id"].as_str(), answer.header("x-request-id"), "{route}");
            }
            covered.insert(route);
            entry
        };

        let made = client.post("/v1/subjects", json!({ "external_ref": "somebody" })).await.expect(201);
        let subject = made.id();
        let entry = seen("POST /v1/subjects", made, "subject.created", None).await;
        let digest = entry["subject_digest"].as_str().unwrap().to_owned();
        assert_eq!(digest.len(), 64);
        let own = format!("/v1/subjects/{subject}");

        let patch = client.request(reqwest::Method::PATCH, &own).json(&json!({ "external_ref": "somebody else" }));
        let done = client.send(patch).await.expect(200);
        seen("PATCH /v1/subjects/{subject}", done, "subject.rectified", None).await;
        let restriction = format!("{own}/restriction");
        let done = client.post(&restriction, json!({ "reason": "objection" })).await.expect(200);
        let entry = seen("POST /v1/subjects/{subject}/restriction", done, "subject.restricted", None).await;
        assert_eq!((&entry["reason"], &entry["subject_digest"]), (&json!("objection"), &json!(digest)));
        let done = client.delete(&restriction).await.expect(204);
        seen("DELETE /v1/subjects/{subject}/restriction", done, "subject.restriction_lifted", None).await;

        let body = json!({ "purpose": "face_verification", "notice_version": "2026-11" });
        let made = client.post(&format!("{own}/consents"), body).await.expect(201);
        let consent = made.id();
        let entry = seen("POST /v1/subjects/{subject}/consents", made, "consent.granted", Some(&consent)).await;
        assert_eq!(entry["subject_digest"], json!(digest), "one person, one digest");

        let made = client.enrol(&subject, photos::collins()).await.expect(201);
        let enrolment = made.id();
        seen("POST /v1/subjects/{subject}/enrolments", made, "enrolment.created", Some(&enrolment)).await;
        let made = client.verify(&subject, photos::hopper()).await.expect(201);
        let verification = made.id();
        let route = "POST /v1/subjects/{subject}/verifications";
        let entry = seen(route, made, "verification.decided", Some(&verification)).await;
        assert!(!entry.to_string().contains("match"), "what was decided is nobody's business here: {entry}");
        let done = client.delete(&format!("{own}/enrolments/{enrolment}")).await.expect(204);
        let route = "DELETE /v1/subjects/{subject}/enrolments/{enrolment}";
        seen(route, done, "enrolment.deleted", Some(&enrolment)).await;
        let done = client.withdraw(&subject, &consent).await.expect(200);
        let route = "POST /v1/subjects/{subject}/consents/{consent}/withdraw";
        seen(route, done, "consent.withdrawn", Some(&consent)).await;

        let made = client.post("/v1/api-keys", json!({ "name": "server", "scopes": ["subjects"] })).await.expect(201);
        let key = made.id();
        seen("POST /v1/api-keys", made, "api_key.created", Some(&key)).await;
        let rolled = client.post(&format!("/v1/api-keys/{key}/roll"), json!({ "overlap_s": 60 })).await.expect(201);
        seen("POST /v1/api-keys/{key}/roll", rolled, "api_key.rolled", Some(&key)).await;
        let done = client.delete(&format!("/v1/api-keys/{key}")).await.expect(204);
        seen("DELETE /v1/api-keys/{key}", done, "api_key.revoked", Some(&key)).await;

        let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret)];
        let token = app.stranger().post_token(&form).await.expect(200).json();
        let token = token["access_token"].as_str().unwrap().to_owned();
        let token_id = super::helpers::claims_of(&token)["jti"].as_str().unwrap().to_owned();
        let form = [("token", token.as_str()), ("client_id", &id), ("client_secret", &secret)];
        let done = app.stranger().post_oauth("/oauth/revoke", &form).await.expect(200);
        seen("POST /oauth/revoke", done, "token.revoked", Some(&token_id)).await;

        let notice = json!({
            "purpose": "newsletter", "version": "1", "language": "en", "text": "We write to you.", "retention": "P1Y",
            "controller": { "name": "Example Bank", "contact": "privacy@bank.example" }, "data_categories": ["address"],
        });
        let made = client.post("/v1/notices", notice).await.expect(201);
        let notice = made.id();
        seen("POST /v1/notices", made, "notice.published", Some(&notice)).await;

        for (verb, action) in
            [("verify", "access.completed"), ("reject", "access.rejected"), ("cancel", "access.cancelled")]
        {
            let made = client.post("/v1/access-requests", json!({ "subject_id": subject })).await.expect(201);
            let request = made.id();
            seen("POST /v1/access-requests", made, "access.requested", Some(&request)).await;
            let at = format!("/v1/access-requests/{request}/{verb}");
            let done = match verb {
                "reject" => client.post(&at, json!({ "reason": "not you" })).await.expect(200),
                _ => client.post_empty(&at).await.expect(200),
            };
            let route = ACCESS_ROUTES.iter().find(|route| route.ends_with(verb)).unwrap();
            let entry = seen(route, done, action, Some(&request)).await;
            assert_eq!(entry["subject_digest"], json!(digest));
            assert_eq!(entry["reason"], why(verb), "{verb}");
        }

        // Each decision about an erasure, on a person of its own.
        for (verb, action) in [
            ("hold", "erasure.held"),
            ("release", "erasure.released"),
            ("reject", "erasure.rejected"),
            ("cancel", "erasure.cancelled"),
            ("verify", "erasure.verified"),
        ] {
            let person = client.subject().await;
            sequence.update(|sequence| sequence + 1);
            let made = client.post("/v1/erasure-requests", json!({ "subject_id": person })).await.expect(201);
            let request = made.id();
            seen("POST /v1/erasure-requests", made, "erasure.requested", Some(&request)).await;
            let at = |verb: &str| format!("/v1/erasure-requests/{request}/{verb}");
            if verb == "release" {
                client.post(&at("hold"), json!({ "reason": "a lawsuit" })).await.expect(200);
                sequence.update(|sequence| sequence + 1);
            }
            let done = match verb {
                "hold" | "reject" => client.post(&at(verb), json!({ "reason": "a lawsuit" })).await.expect(200),
                _ => client.post_empty(&at(verb)).await.expect(200),
            };
            let route = ERASURE_ROUTES.iter().find(|route| route.ends_with(verb)).unwrap();
            let entry = seen(route, done, action, Some(&request)).await;
            assert_eq!(entry["reason"], why(verb), "{verb}");
        }

        // By the other door: one request for each call. The first is of somebody whom nobody knows.
        let passed_on = |id: &str, person: &str| {
            let identity = json!({
                "identity_type": "controller_customer_id", "identity_value": person, "identity_format": "raw",
            });
            json!({
                "subject_request_id": id, "subject_request_type": "erasure", "submitted_time": "2026-11-01T00:00:00Z",
                "subject_identities": [identity],
            })
        };
        let (route, nobody) = ("POST /opendsr/v1/requests", super::helpers::uuid_of_four());
        let made = client.post("/opendsr/v1/requests", passed_on(&nobody, "nobody")).await.expect(201);
        seen(route, made, "opendsr.found_nobody", Some(&nobody)).await;
        let (somebody, person) = (super::helpers::uuid_of_four(), client.subject().await);
        sequence.update(|sequence| sequence + 1);
        let made = client.post("/opendsr/v1/requests", passed_on(&somebody, &person)).await.expect(201);
        let at = made.header("location").unwrap().to_owned();
        let status = client.get(&at).await.expect(200).json();
        let erasure = status["extensions"]["localhost"]["erasure_request_id"].as_str().unwrap().to_owned();
        seen(route, made, "erasure.requested", Some(&erasure)).await;
        let done = client.delete(&at).await.expect(202);
        seen("DELETE /opendsr/v1/requests/{request}", done, "erasure.cancelled", Some(&erasure)).await;

        // An erasure is several acts: asked for, the rows removed by the service, certified.
        client.delete(&own).await.expect(204);
        covered.insert("DELETE /v1/subjects/{subject}");
        let page = officer.get("/v1/audit-events?limit=3").await.expect(200).json();
        let told = |place: usize| (page["data"][place]["action"].clone(), page["data"][place]["actor"].clone());
        assert_eq!(told(0), (json!("erasure.completed"), json!(id)));
        assert_eq!(told(1), (json!("subject.erased"), json!("service")));
        assert_eq!(told(2), (json!("erasure.requested"), json!(id)));

        let unsafe_routes = ROUTES.iter().flat_map(|row| {
            let methods = row.methods.split(", ").filter(|method| !["GET", "HEAD"].contains(method));
            methods.map(|method| format!("{method} {}", row.path))
        });
        // Neither changes anything that is there to stay.
        let harmless = ["POST /oauth/token", "POST /oauth/introspect"];
        for route in unsafe_routes.filter(|route| !harmless.contains(&route.as_str())) {
            assert!(covered.contains(route.as_str()), "{route} has no line in this test");
        }

        let foreigner = app.foreign_officer().await;
        // Whoever knows the erased person's id still finds what was done, and only within the tenant.
        let path = format!("/v1/audit-events?subject_id={subject}&limit=100");
        let about = officer.get(&path).await.expect(200).json();
        assert_eq!(about["data"].as_array().unwrap().len(), 18);
        assert!(!about.to_string().contains(&subject));
        assert_eq!(foreigner.get(&path).await.expect(200).json()["data"], json!([]));
        let withdrawn = officer.get("/v1/audit-events?action=consent.withdrawn").await.expect(200).json();
        assert_eq!(withdrawn["data"].as_array().unwrap().len(), 1);
        officer.get("/v1/audit-events?action=rained").await.expect_problem(422, "validation_failed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_replayed_leaves_none() {
    each_database(|app| async move {
        let client = app.client_of(Role::Admin).await;
        let body = json!({ "external_ref": "somebody" });
        let create =
            || client.request(reqwest::Method::POST, "/v1/subjects").header("Idempotency-Key", "k").json(&body);
        client.send(create()).await.expect(201);
        let (_, before) = newest(&client).await;
        client.send(create()).await.expect(201);
        client.post("/v1/subjects", body.clone()).await.expect_problem(409, "external_ref_taken");
        client.get("/v1/subjects").await.expect(200);
        assert_eq!(newest(&client).await.1, before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_log_is_checked_offline_and_no_bit_of_it_can_change() {
    each_database(|app| async move {
        let officer = app.client_of(Role::ComplianceOfficer).await;
        for _ in 0..1_000 {
            officer.subject().await;
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, jwks) = (folder.path().join("audit.jsonl"), folder.path().join("jwks.json"));
        let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
        fs::write(&jwks, &keys).unwrap();
        let exported = officer.get("/v1/audit/export").await.expect(200).text;
        fs::write(&file, &exported).unwrap();
        let verify = || {
            let program = Command::new(env!("CARGO_BIN_EXE_velum"))
                .args(["audit", "verify"])
                .arg(&file)
                .arg("--jwks")
                .arg(&jwks)
                .output()
                .unwrap();
            (program.status.success(), String::from_utf8_lossy(&program.stdout).into_owned())
        };
        let (good, told) = verify();
        assert!(good && told.starts_with("whole: 10"), "{told}");
        fs::write(&file, exported.replacen("subject.created", "subject.erased", 1)).unwrap();
        assert!(!verify().0);

        // Every bit of the signature's line, and bits all over the file. (That each bit of each other line counts is tested
        // where lines are read.)
        let keys = EvidenceVerifier::from_jwks(&keys).unwrap();
        let whole =
            |bytes: &[u8]| export::verify(bytes, |jws| keys.verify(Document::AuditCheckpoint, jws).ok()).is_ok();
        let jws = exported.lines().next_back().unwrap().split('"').nth(3).unwrap().to_owned();
        let open = |jws: &[u8]| -> Option<Checkpoint> {
            keys.verify(Document::AuditCheckpoint, std::str::from_utf8(jws).ok()?).ok()
        };
        let mut bytes = jws.clone().into_bytes();
        assert!(open(&bytes).is_some());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bytes).is_none(), "bit {bit} of the checkpoint");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut bytes = exported.into_bytes();
        assert!(whole(&bytes));
        for bit in (0..bytes.len() * 8).step_by(9_973) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!whole(&bytes), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }

        // Checkpoints are kept for whoever asks, and are of this tenant alone.
        let kept = officer.get("/v1/audit/checkpoints").await.expect(200).json();
        let jws = kept["data"][0]["jws"].as_str().unwrap();
        let checkpoint: Checkpoint = keys.verify(Document::AuditCheckpoint, jws).unwrap();
        assert!(checkpoint.size >= 1_000);
        let foreigner = app.foreign_officer().await;
        assert_eq!(foreigner.get("/v1/audit/checkpoints").await.expect(200).json()["data"], json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_signing_key_stands_in_the_log_by_the_moment_from_which_it_signs() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path());
    let officer = process.client_of_role("compliance-officer").await;
    for (kind, action) in [("jwt", "keys.token_added"), ("evidence", "keys.evidence_added")] {
        let made = process.command().args(["keys", "rotate", kind]).stdout(Stdio::piped()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = officer.get(&format!("/v1/audit-events?action={action}")).await.expect(200).json();
        let moment = log["data"][0]["object"].as_str().unwrap();
        assert!(data.path().join("secrets").join(kind).join(format!("{moment}.pem")).exists(), "{moment}");
        assert_eq!(log["data"][0]["actor"], "operator");
    }
    // Another key that wraps is told of too; the first was there before anybody could be told.
    let made = process.command().args(["keys", "generate", "--kind", "kek"]).stdout(Stdio::piped()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let log = officer.get("/v1/audit-events?action=keys.field_added").await.expect(200).json();
    let name = log["data"][0]["object"].as_str().unwrap();
    assert!(String::from_utf8_lossy(&made.stdout).contains(&format!("/kek/{name}.key")), "{name}");
    assert_eq!(log["data"].as_array().unwrap().len(), 1);

    // What cannot be written down is not done.
    fs::remove_file(data.path().join("secrets/client_secret_pepper.key")).unwrap();
    let keys = || fs::read_dir(data.path().join("secrets/jwt")).unwrap().count();
    let before = keys();
    let refused = process.command().args(["keys", "rotate", "jwt"]).stderr(Stdio::piped()).output().unwrap();
    assert!(!refused.status.success());
    assert_eq!(keys(), before);
}
