//! What people are told, what they are asked again for, and the receipt that they keep.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use velum::{
    auth::evidence::{Document, EvidenceError, EvidenceVerifier},
    domain::clock::Clock as _,
};

use super::helpers::{Answer, Client, TestApp, each_database, photos};

const TEXT: &str = "We compare a photo of your face\nwith one that you gave us. Größe und Umfang: siehe unten.";

fn notice(version: &str, language: &str, material_change: bool) -> Value {
    json!({
        "purpose": "face_verification", "version": version, "language": language, "text": TEXT,
        "controller": { "name": "Example Bank", "contact": "privacy@bank.example" },
        "retention": "P3Y", "data_categories": ["face image, not kept", "face template"],
        "recipients": ["Example Hosting GmbH"], "jurisdiction": "DE", "withdrawal_method": "in the app",
        "policy_url": "https://bank.example/privacy", "material_change": material_change,
    })
}

async fn publish(client: &Client, version: &str, material_change: bool) -> String {
    client.post("/v1/notices", notice(version, "en", material_change)).await.expect(201).id()
}

async fn agree(client: &Client, subject: &str, body: Value) -> Answer {
    let mut asked = json!({ "purpose": "face_verification" });
    asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    client.post(&format!("/v1/subjects/{subject}/consents"), asked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_notice_is_found_again_and_never_changes() {
    each_database(|app| async move {
        let client = app.client().await;
        let published = client.post("/v1/notices", notice("2026-11", "de", false)).await.expect(201);
        let path = published.header("location").unwrap().to_owned();
        let shown = client.get(&path).await.expect(200).json();
        assert_eq!(shown, published.json());
        assert_eq!((&shown["text"], &shown["text_sha256"]), (&json!(TEXT), &json!(hex::encode(Sha256::digest(TEXT)))));
        assert_eq!(shown["recipients"], json!(["Example Hosting GmbH"]));
        assert_eq!(shown["published_by"], app.credential().0);

        let again = client.post("/v1/notices", notice("2026-11", "de", false)).await;
        again.expect_problem(409, "notice_version_taken");
        let otherwise = client.post("/v1/notices", notice("2026-11", "en", true)).await;
        let otherwise = otherwise.expect_problem(422, "validation_failed").json();
        assert_eq!(otherwise["errors"][0]["pointer"], "/material_change");
        let listed = client.get("/v1/notices?purpose=face_verification").await.expect(200).json();
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        assert_eq!(listed["data"][0]["id"], shown["id"]);
        assert!(listed["data"][0].get("text").is_none());
        let others = client.get("/v1/notices?purpose=newsletter").await.expect(200).json();
        assert_eq!(others["data"], json!([]));
        client.post(&path, json!({})).await.expect_problem(405, "method_not_allowed");
        client.delete(&path).await.expect_problem(405, "method_not_allowed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_sent_twice_under_one_key_is_published_once_and_answered_alike() {
    each_database(|app| async move {
        let client = app.client().await;
        let send = async || {
            let request = client.request(reqwest::Method::POST, "/v1/notices").header("idempotency-key", "one");
            client.send(request.json(&notice("1", "en", false))).await.expect(201)
        };
        let (first, second) = (send().await, send().await);
        assert_eq!((first.json(), first.header("location")), (second.json(), second.header("location")));
        assert_eq!((first.header("idempotency-replayed"), second.header("idempotency-replayed")), (None, Some("true")));
        assert_eq!(app.databases.count(&app.databases.main, "notices", "1 = 1"), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_says_too_little_or_cannot_be_shown_is_refused_by_member() {
    let app = TestApp::start().await;
    let client = app.client().await;
    for (pointer, value) in [
        ("/purpose", json!("Face")),
        ("/version", json!("")),
        ("/language", json!("English")),
        ("/text", json!("")),
        ("/text", json!("a".repeat(20_001))),
        ("/text", json!("a\u{0}b")),
        ("/controller/name", json!("")),
        ("/controller/contact", json!("a\nb")),
        ("/data_categories", json!([])),
        ("/recipients", json!(["a\nb"])),
        ("/retention", json!("")),
    ] {
        let mut body = notice("1", "en", false);
        *body.pointer_mut(pointer).unwrap() = value;
        let refused = client.post("/v1/notices", body).await.expect_problem(422, "validation_failed").json();
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
    // Longer than any other body may be, and still a notice.
    let mut long = notice("1", "en", false);
    long["text"] = json!("ü".repeat(20_000));
    client.post("/v1/notices", long).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_names_a_notice_that_was_published_for_its_purpose() {
    each_database(|app| async move {
        let (client, foreign) = (app.client().await, app.foreign_client().await);
        let subject = client.subject().await;
        let refused = async |body: Value, pointer: &str| {
            let problem = agree(&client, &subject, body).await.expect_problem(422, "validation_failed").json();
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        };
        let free = agree(&client, &subject, json!({ "notice_version": "on paper" })).await.expect(201).json();
        assert_eq!(free["notice_id"], Value::Null, "where no notice is published, versions are the tenant's own");

        let english = publish(&client, "1", false).await;
        let named = agree(&client, &subject, json!({ "notice_version": "1" })).await.expect(201).json();
        assert_eq!((&named["notice_id"], &named["notice_version"]), (&json!(english), &json!("1")));
        refused(json!({ "notice_version": "on paper" }), "/notice_version").await;
        refused(json!({}), "/notice_version").await;
        refused(json!({ "notice_version": "1", "notice_id": english }), "/notice_version").await;

        let german = client.post("/v1/notices", notice("1", "de", false)).await.expect(201).id();
        refused(json!({ "notice_version": "1" }), "/notice_version").await;
        let named = agree(&client, &subject, json!({ "notice_id": german })).await.expect(201).json();
        assert_eq!((&named["notice_id"], &named["notice_version"]), (&json!(german), &json!("1")));
        refused(json!({ "notice_id": german, "purpose": "newsletter" }), "/notice_id").await;
        let theirs = publish(&foreign, "1", false).await;
        refused(json!({ "notice_id": theirs }), "/notice_id").await;
        refused(json!({ "notice_id": "ntc_1" }), "/notice_id").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_and_a_material_change_hold_at_once_in_every_process() {
    each_database(|app| async move {
        let client = app.client().await;
        let twin = app.twin(&[]).await;
        let there = client.at(twin.address.port());
        let subject = client.subject().await;
        publish(&client, "1", false).await;
        let first = agree(&client, &subject, json!({ "notice_version": "1" })).await.expect(201).id();
        client.enrol(&subject, photos::collins()).await.expect(201);
        there.verify(&subject, photos::collins()).await.expect(201);

        publish(&client, "2", true).await;
        there.verify(&subject, photos::collins()).await.expect_problem(403, "consent_superseded");
        let listed = there.get(&format!("/v1/subjects/{subject}/consents")).await.expect(200).json();
        assert_eq!(listed["data"][0]["state"], "superseded");
        agree(&client, &subject, json!({ "notice_version": "1" })).await.expect_problem(409, "notice_superseded");
        agree(&client, &subject, json!({ "notice_version": "2" })).await.expect(201);
        there.verify(&subject, photos::collins()).await.expect(201);

        client.withdraw(&subject, &first).await.expect(200);
        there.verify(&subject, photos::collins()).await.expect_problem(403, "consent_required");
        twin.stop(std::time::Duration::ZERO).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_said_what_when_and_how_is_kept_with_the_consent() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let yes = json!({
            "notice_version": "1", "method": "paper", "evidence_ref": "form 4711", "given_by": "guardian",
            "guardian_ref": "guardian 12",
        });
        let granted = agree(&client, &subject, yes).await.expect(201).json();
        let me = app.credential().0;
        assert_eq!((&granted["granted_by"], &granted["method"]), (&json!(me), &json!("paper")));
        assert_eq!((&granted["given_by"], &granted["guardian_ref"]), (&json!("guardian"), &json!("guardian 12")));
        assert_eq!(granted["evidence_ref"], "form 4711");

        let path = format!("/v1/subjects/{subject}/consents");
        let withdraw = format!("{path}/{}/withdraw", granted["id"].as_str().unwrap());
        client.post(&withdraw, json!({ "method": "fax" })).await.expect_problem(422, "validation_failed");
        client.post_raw(&withdraw, "text/plain", "app").await.expect_problem(415, "unsupported_media_type");
        let listed = client.get(&path).await.expect(200).json();
        assert_eq!(listed["data"][0], granted, "what was refused changed nothing");
        let no = json!({ "method": "app", "evidence_ref": "call 0815" });
        let withdrawn = client.post(&withdraw, no).await.expect(200).json();
        assert_eq!((&withdrawn["withdrawn_by"], &withdrawn["withdrawal_method"]), (&json!(me), &json!("app")));
        assert_eq!(withdrawn["withdrawal_evidence_ref"], "call 0815");
        assert_eq!((&withdrawn["method"], &withdrawn["evidence_ref"]), (&granted["method"], &granted["evidence_ref"]));

        for (body, pointer) in [
            (json!({ "given_by": "parent" }), "/guardian_ref"),
            (json!({ "guardian_ref": "somebody" }), "/guardian_ref"),
            (json!({ "given_by": "friend" }), "/given_by"),
            (json!({ "method": "fax" }), "/method"),
            (json!({ "evidence_ref": "" }), "/evidence_ref"),
        ] {
            let mut asked = json!({ "notice_version": "1" });
            asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            let problem = agree(&client, &subject, asked).await.expect_problem(422, "validation_failed").json();
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        }
    })
    .await;
}

/// A receipt, as a third party reads it: with the published keys and nothing else.
async fn receipt(app: &TestApp, client: &Client, subject: &str, consent: &str) -> (String, Value) {
    let answer = client.get(&format!("/v1/subjects/{subject}/consents/{consent}/receipt")).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/vnd.velum.consent-receipt+jwt"));
    let keys = app.stranger().get("/.well-known/evidence-jwks.json").await.expect(200).text;
    let verifier = EvidenceVerifier::from_jwks(&keys).unwrap();
    let claims = verifier.verify(Document::ConsentReceipt, &answer.text).unwrap();
    let taken = verifier.verify::<Value>(Document::ErasureCertificate, &answer.text);
    assert!(matches!(taken, Err(EvidenceError::WrongType { .. })));
    (answer.text, claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_says_to_anybody_what_was_agreed_to_and_names_nobody() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.post("/v1/subjects", json!({ "external_ref": "Ada Zwiebelturm" })).await.expect(201).id();
        let shown = publish(&client, "2026-11", false).await;
        let expires_at = app.clock_in(Duration::HOUR);
        let yes = json!({
            "notice_id": shown, "method": "web_form", "evidence_ref": "Zwiebelturm 1", "given_by": "parent",
            "guardian_ref": "Zwiebelturm 2", "expires_at": expires_at,
        });
        let consent = agree(&client, &subject, yes).await.expect(201).json();
        let id = consent["id"].as_str().unwrap();
        let (text, claims) = receipt(&app, &client, &subject, id).await;
        let now = app.clock.now();
        let expected = json!({
            "iss": "https://localhost:8443", "iat": now.unix_timestamp(), "jti": format!("{id}-{}", now.unix_timestamp()),
            "sub": subject, "schema_version": "velum.consent-receipt.1", "record_id": id, "pii_principal_id": subject,
            "privacy_notice": {
                "version": "2026-11", "id": shown, "sha256": hex::encode(Sha256::digest(TEXT)),
                "url": "https://bank.example/privacy",
            },
            "language": "en",
            "purposes": [{
                "purpose": "face_verification", "lawful_basis": "consent", "consent_type": "explicit",
                "collection_method": "web_form", "retention_period": "P3Y", "jurisdiction": "DE",
                "pii_information": [
                    { "pii_type": "face image, not kept", "special_pii_category": "biometric" },
                    { "pii_type": "face template", "special_pii_category": "biometric" },
                ],
                "recipient_third_parties": ["Example Hosting GmbH"], "withdrawal_method": "in the app",
            }],
            "pii_controllers": [{
                "party_id": claims["pii_controllers"][0]["party_id"], "party_name": "Example Bank",
                "party_role": "pii_controller", "party_contact": "privacy@bank.example",
            }],
            "events": [{
                "event_type": "granted", "event_time": consent["granted_at"], "valid_until": consent["expires_at"],
                "entity_id": app.credential().0, "method": "web_form", "given_by": "parent",
            }],
            "state": "granted",
        });
        assert_eq!(claims, expected);
        assert!(!claims.to_string().contains("Zwiebelturm"), "{claims}");
        let as_token = Client { token: Some(text), ..client.clone() };
        as_token.get("/v1/me").await.expect_problem(401, "token_invalid");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_follows_the_consent_through_its_states() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let free = agree(&client, &subject, json!({ "notice_version": "on paper" })).await.expect(201).id();
        let (_, claims) = receipt(&app, &client, &subject, &free).await;
        assert_eq!(claims["privacy_notice"], json!({ "version": "on paper" }));
        assert_eq!(claims["pii_controllers"][0]["party_name"], "development", "the tenant");

        let state = async |consent: &str| receipt(&app, &client, &subject, consent).await.1["state"].clone();
        publish(&client, "1", true).await;
        assert_eq!(state(&free).await, "superseded");
        let body = json!({ "notice_version": "1", "expires_at": app.clock_in(Duration::MINUTE) });
        let short = agree(&client, &subject, body).await.expect(201).id();
        assert_eq!(state(&short).await, "granted");
        app.clock.advance(Duration::MINUTE);
        assert_eq!(state(&short).await, "expired");

        let withdraw = format!("/v1/subjects/{subject}/consents/{short}/withdraw");
        client.post(&withdraw, json!({ "method": "phone" })).await.expect(200);
        for consent in [&free, &short] {
            let (_, claims) = receipt(&app, &client, &subject, consent).await;
            let event = &claims["events"][1];
            assert_eq!((&claims["state"], &event["event_type"]), (&json!("withdrawn"), &json!("withdrawn")));
            assert_eq!(event["method"], "phone", "one no for every consent to the purpose");
            let at = OffsetDateTime::parse(event["event_time"].as_str().unwrap(), &Rfc3339).unwrap();
            assert_eq!(at.unix_timestamp(), app.clock.now().unix_timestamp());
        }
        client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        let path = format!("/v1/subjects/{subject}/consents/{short}/receipt");
        client.get(&path).await.expect_problem(404, "not_found");
    })
    .await;
}
