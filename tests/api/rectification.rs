//! A person's name is put right.

use reqwest::Method;
use serde_json::json;
use velum::auth::Role;

use super::helpers::{Answer, Client, each_database};

async fn rename(client: &Client, subject: &str, name: &str) -> Answer {
    let path = format!("/v1/subjects/{subject}");
    client.send(client.request(Method::PATCH, &path).json(&json!({ "external_ref": name }))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_found_by_the_new_name_and_no_more_by_the_old_one() {
    each_database(|app| async move {
        let client = app.client().await;
        let made = client.post("/v1/subjects", json!({ "external_ref": "Zwiebelturm" })).await.expect(201).json();
        let subject = made["id"].as_str().unwrap();
        let consent = client.consent(subject).await;
        let renamed = rename(&client, subject, "Kirchturm").await.expect(200).json();
        assert_eq!((&renamed["external_ref"], &renamed["created_at"]), (&json!("Kirchturm"), &made["created_at"]));
        assert_eq!(client.get(&format!("/v1/subjects/{subject}")).await.expect(200).json(), renamed);
        let found = async |name: &str| {
            client.get(&format!("/v1/subjects?external_ref={name}")).await.expect(200).json()["data"].clone()
        };
        assert_eq!((found("Kirchturm").await, found("Zwiebelturm").await), (json!([renamed]), json!([])));
        let consents = client.get(&format!("/v1/subjects/{subject}/consents")).await.expect(200).json();
        assert_eq!(consents["data"][0]["id"], json!(consent), "all else stands");

        // The old name is free, the new one is not; one's own is no conflict and no act.
        client
            .post("/v1/subjects", json!({ "external_ref": "Kirchturm" }))
            .await
            .expect_problem(409, "external_ref_taken");
        let other = client.post("/v1/subjects", json!({ "external_ref": "Zwiebelturm" })).await.expect(201).id();
        rename(&client, &other, "Kirchturm").await.expect_problem(409, "external_ref_taken");
        rename(&client, subject, "").await.expect_problem(422, "validation_failed");
        rename(&client, subject, "Kirchturm").await.expect(200);
        let officer = app.client_of(Role::ComplianceOfficer).await;
        let acts = officer.get("/v1/audit-events?action=subject.rectified").await.expect(200).json();
        assert_eq!(acts["data"].as_array().unwrap().len(), 1);

        let foreigner = app.foreign_client().await;
        rename(&foreigner, subject, "Mine").await.expect_problem(404, "not_found");
        rename(&foreigner, &foreigner.subject().await, "Kirchturm").await.expect(200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_that_is_sent_twice_has_one_effect() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let path = format!("/v1/subjects/{subject}");
        let send = || {
            let request = client.request(Method::PATCH, &path).header("idempotency-key", "k");
            client.send(request.json(&json!({ "external_ref": "first" })))
        };
        let first = send().await.expect(200);
        rename(&client, &subject, "second").await.expect(200);
        let again = send().await.expect(200);
        assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &first.text));
        assert_eq!(client.get(&path).await.expect(200).json()["external_ref"], "second");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_one_name_one_gets_it() {
    each_database(|app| async move {
        let client = app.client().await;
        let mut persons = vec![];
        for _ in 0..6 {
            persons.push(client.subject().await);
        }
        let answers =
            futures_util::future::join_all(persons.iter().map(|person| rename(&client, person, "wanted"))).await;
        let statuses = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
        assert_eq!((statuses(200), statuses(409)), (1, 5));
    })
    .await;
}
