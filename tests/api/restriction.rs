//! A person whose data rest: kept, shown, and used for nothing. (That no route takes a face of theirs is in `gates`.)

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use velum::auth::Role;

use super::helpers::{Client, each_database, each_database_with, photos};

async fn show(client: &Client, subject: &str) -> Value {
    client.get(&format!("/v1/subjects/{subject}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn restricted_data_are_shown_and_used_for_nothing_until_the_restriction_is_lifted() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        let enrolment = client.enrol(&subject, photos::collins()).await.expect(201).id();
        assert_eq!(show(&client, &subject).await["restriction"], Value::Null);

        let path = format!("/v1/subjects/{subject}/restriction");
        let set = officer.post(&path, json!({ "reason": "legal_claims" })).await.expect(200).json();
        assert_eq!(set["reason"], "legal_claims");
        assert_eq!(show(&client, &subject).await["restriction"], set);
        app.clock.advance(time::Duration::MINUTE);
        let again = officer.post(&path, json!({ "reason": "objection" })).await.expect(200).json();
        assert_eq!(again, set, "the first one stands");

        // On the other process too.
        let twin = app.twin(&[("LISTEN", "127.0.0.1:0")]).await;
        for client in [client.clone(), client.at(twin.address.port())] {
            client.verify(&subject, photos::collins()).await.expect_problem(403, "subject_restricted");
            client.enrol(&subject, photos::collins()).await.expect_problem(403, "subject_restricted");
        }
        let template = format!("/v1/subjects/{subject}/enrolments/{enrolment}");
        client.delete(&template).await.expect_problem(403, "subject_restricted");
        let listed = client.get(&format!("/v1/subjects/{subject}/enrolments")).await.expect(200).json();
        assert_eq!(listed["data"][0]["id"], json!(enrolment));
        let consents = client.get(&format!("/v1/subjects/{subject}/consents")).await.expect(200).json();
        assert_eq!(consents["data"][0]["state"], "granted");

        officer.delete(&path).await.expect(204);
        officer.delete(&path).await.expect(204);
        assert_eq!(show(&client, &subject).await["restriction"], Value::Null);
        assert_eq!(client.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");
        client.delete(&template).await.expect(204);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_restricted_can_be_erased_but_not_by_a_policy() {
    each_database_with(&[("ERASE_ON_WITHDRAWAL", "true")], |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.subject().await;
        let consent = client.consent(&subject).await;
        let path = format!("/v1/subjects/{subject}/restriction");
        officer.post(&path, json!({ "reason": "unlawful_processing" })).await.expect(200);
        client.withdraw(&subject, &consent).await.expect(200);
        let requests = format!("/v1/erasure-requests?subject_id={subject}");
        assert_eq!(officer.get(&requests).await.expect(200).json()["data"], json!([]));

        client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        officer.delete(&path).await.expect_problem(404, "not_found");
        officer.post(&path, json!({ "reason": "other" })).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_withdrew_while_restricted_is_erased_by_the_policy_when_that_is_lifted() {
    each_database_with(&[("ERASE_ON_WITHDRAWAL", "true")], |app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.subject().await;
        let consent = client.consent(&subject).await;
        let path = format!("/v1/subjects/{subject}/restriction");
        officer.post(&path, json!({ "reason": "legal_claims" })).await.expect(200);
        client.withdraw(&subject, &consent).await.expect(200);
        officer.delete(&path).await.expect(204);
        let requests = format!("/v1/erasure-requests?subject_id={subject}");
        let begun = Instant::now();
        while officer.get(&requests).await.expect(200).json()["data"][0]["state"] != "completed" {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restriction_comes_from_the_right_hands_and_its_answer_comes_twice() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.subject().await;
        let path = format!("/v1/subjects/{subject}/restriction");
        client.post(&path, json!({ "reason": "other" })).await.expect_problem(403, "scope_missing");
        officer.post(&path, json!({ "reason": "because" })).await.expect_problem(422, "validation_failed");
        app.foreign_officer().await.post(&path, json!({ "reason": "other" })).await.expect_problem(404, "not_found");

        let send =
            || officer.request(Method::POST, &path).header("idempotency-key", "k").json(&json!({ "reason": "other" }));
        let first = officer.send(send()).await.expect(200);
        officer.delete(&path).await.expect(204);
        let second = officer.send(send()).await.expect(200);
        assert_eq!((second.header("idempotency-replayed"), &second.text), (Some("true"), &first.text));
        assert_eq!(show(&client, &subject).await["restriction"], Value::Null, "sent again it has no second effect");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_answer_on_no_verification_that_was_on_its_way_comes_through() {
    each_database(|app| async move {
        let (client, officer) = (app.client().await, app.client_of(Role::ComplianceOfficer).await);
        let subject = client.consenting_subject().await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        let path = format!("/v1/subjects/{subject}/restriction");
        let stored = || app.databases.count(&app.databases.main, "verifications", "1 = 1");
        let begun = Instant::now();
        for _ in 0..3 {
            let before = stored();
            let asking: Vec<_> = (0..6)
                .map(|_| {
                    let (client, subject) = (client.clone(), subject.clone());
                    tokio::spawn(async move {
                        loop {
                            let answer = client.verify(&subject, photos::collins()).await;
                            match answer.status.as_u16() {
                                // Too many at once are told so.
                                201 | 429 | 503 => {}
                                _ => break answer.expect_problem(403, "subject_restricted"),
                            }
                        }
                    })
                })
                .collect();
            while stored() == before {
                assert!(begun.elapsed() < Duration::from_secs(120), "nobody was verified");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            officer.post(&path, json!({ "reason": "objection" })).await.expect(200);
            let at_return = stored();
            for asked in asking {
                asked.await.unwrap();
            }
            assert_eq!(stored(), at_return);
            officer.delete(&path).await.expect(204);
        }
    })
    .await;
}
