use futures_util::{StreamExt as _, stream};
use serde_json::json;
use time::{Duration, format_description::well_known::Rfc3339};
use velum::{domain::clock::Clock, store::STANDING_CONSENTS_MAX};

use super::helpers::{Answer, Client, TestApp, each_database, photos, streamed};

/// Bytes that are no image: whoever decodes them says so.
const GARBAGE: &[u8] = b"these bytes are not an image";

#[tokio::test(flavor = "multi_thread")]
async fn without_consent_the_image_is_not_even_decoded() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(403, "consent_required");
        client.verify(&subject, GARBAGE.to_vec()).await.expect_problem(403, "consent_required");
        client.consent(&subject).await;
        client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(415, "image_unsupported_format");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_after_withdrawal_is_refused() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let consent = client.consent(&subject).await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        client.verify(&subject, photos::collins()).await.expect(201);

        let withdrawn = client.withdraw(&subject, &consent).await.expect(200).json();
        assert_eq!(withdrawn["state"], "withdrawn");
        let again = client.withdraw(&subject, &consent).await.expect(200).json();
        assert_eq!(again["withdrawn_at"], withdrawn["withdrawn_at"], "the first time counts");
        client.verify(&subject, photos::collins()).await.expect_problem(403, "consent_required");
        client.verify(&subject, GARBAGE.to_vec()).await.expect_problem(403, "consent_required");
        client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(403, "consent_required");

        client.consent(&subject).await;
        client.verify(&subject, photos::collins()).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_for_another_purpose_permits_nothing_here() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.subject().await;
    let body = json!({ "purpose": "newsletter", "notice_version": "1" });
    client.post(&format!("/v1/subjects/{subject}/consents"), body).await.expect(201);
    client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(403, "consent_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_ends_at_its_expiry() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.subject().await;
    let path = format!("/v1/subjects/{subject}/consents");
    let until = |expires_at: time::OffsetDateTime| {
        let expires_at = expires_at.format(&Rfc3339).unwrap();
        json!({ "purpose": "face_verification", "notice_version": "1", "expires_at": expires_at })
    };
    let past = client.post(&path, until(app.clock.now() - Duration::SECOND)).await;
    assert_eq!(past.expect_problem(422, "validation_failed").json()["errors"][0]["pointer"], "/expires_at");

    client.post(&path, until(app.clock.now() + Duration::MINUTE)).await.expect(201);
    client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(415, "image_unsupported_format");
    app.clock.advance(Duration::MINUTE);
    client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(403, "consent_required");
    let listed = client.get(&path).await.expect(200).json();
    assert_eq!(listed["data"][0]["state"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_agreed_a_hundred_times_need_not_agree_again() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        for _ in 1..STANDING_CONSENTS_MAX {
            client.consent(&subject).await;
        }
        let last = client.consent(&subject).await;
        let path = format!("/v1/subjects/{subject}/consents");
        let body = json!({ "purpose": "face_verification", "notice_version": "2026-11" });
        client.post(&path, body).await.expect_problem(409, "consent_limit_reached");
        client.enrol(&subject, GARBAGE.to_vec()).await.expect_problem(415, "image_unsupported_format");
        client.withdraw(&subject, &last).await.expect(200);
        client.consent(&subject).await;
    })
    .await;
}

/// Sends the head of a photo, waits until `meanwhile` is done, then sends garbage: were it decoded, the answer would be 415.
async fn upload_around(app: &TestApp, client: &Client, path: String, meanwhile: impl Future<Output = ()>) -> Answer {
    let first = photos::hopper()[..1000].to_vec();
    let (go_on, held) = tokio::sync::oneshot::channel::<()>();
    let rest = async move {
        held.await.unwrap();
        GARBAGE.to_vec()
    };
    let body = streamed(stream::iter([first]).chain(stream::once(rest)));
    let client = client.clone();
    let uploading = tokio::spawn(async move { client.post_raw(&path, "image/jpeg", body).await });
    while app.running.flows().uploads().bytes_taken() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    meanwhile.await;
    go_on.send(()).unwrap();
    uploading.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_while_the_image_is_on_its_way_stops_before_it_is_decoded() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let first = client.consent(&subject).await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let withdraw = async |consent: &str| drop(client.withdraw(&subject, consent).await.expect(200));

        let path = format!("/v1/subjects/{subject}/enrolments");
        let answer = upload_around(&app, &client, path, withdraw(&first)).await;
        answer.expect_problem(403, "consent_required");

        let second = client.consent(&subject).await;
        let path = format!("/v1/subjects/{subject}/verifications");
        let answer = upload_around(&app, &client, path, withdraw(&second)).await;
        answer.expect_problem(403, "consent_required");

        assert_eq!(app.databases.count(&app.databases.main, "enrolments", "1 = 1"), 1);
        assert_eq!(app.databases.count(&app.databases.journal, "opened_verifications", "1 = 1"), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_while_the_image_is_on_its_way_leaves_nobody_to_process() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let erase = async || drop(client.delete(&format!("/v1/subjects/{subject}")).await.expect(204));
        let path = format!("/v1/subjects/{subject}/verifications");
        upload_around(&app, &client, path, erase()).await.expect_problem(404, "not_found");
    })
    .await;
}
