//! What callers may know about themselves and their tenant.

use super::helpers::{TestApp, each_database, photos};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_who_it_is() {
    let app = TestApp::start().await;
    let (id, _) = app.credential();
    let me = app.client_with_scope("faces:verify").await.get("/v1/me").await.expect(200).json();
    assert_eq!((me["id"].as_str(), &me["tenant_name"]), (Some(&*id), &"development".into()));
    assert_eq!((&me["scopes"], &me["environment"]), (&serde_json::json!(["faces:verify"]), &"test".into()));
    app.stranger().get("/v1/me").await.expect_problem(401, "token_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_says_what_was_done_to_whom_and_not_how_it_came_out() {
    each_database(|app| async move {
        let client = app.client().await;
        let (one, other) = (client.consenting_subject().await, client.consenting_subject().await);
        let mut done = vec![];
        for subject in [&one, &other] {
            done.push(client.enrol(subject, photos::collins()).await.expect(201).id());
            done.push(client.verify(subject, photos::collins()).await.expect(201).id());
            done.push(client.verify(subject, photos::hopper()).await.expect(201).id());
        }
        done.reverse();
        let mut seen = vec![];
        let mut path = "/v1/history?limit=4".to_owned();
        loop {
            let page = client.get(&path).await.expect(200).json();
            for entry in page["data"].as_array().unwrap() {
                let kind = if entry["id"].as_str().unwrap().starts_with("enr_") { "enrolment" } else { "verification" };
                assert_eq!(entry["kind"], kind);
                assert_eq!(entry.get("false_match_rate").is_some(), kind == "verification");
                assert!(entry.get("decision").is_none());
                seen.push(entry["id"].as_str().unwrap().to_owned());
            }
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/v1/history?limit=4&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(seen, done);

        let of_one = client.get(&format!("/v1/history?subject_id={one}")).await.expect(200).json();
        assert_eq!(of_one["data"].as_array().unwrap().len(), 3);
        let foreigner = app.foreign_client().await;
        for path in ["/v1/history".to_owned(), format!("/v1/history?subject_id={one}")] {
            assert_eq!(foreigner.get(&path).await.expect(200).json()["data"].as_array().unwrap().len(), 0);
        }
        client.get("/v1/history?subject_id=nobody").await.expect_problem(422, "validation_failed");

        let stats = client.get("/v1/stats").await.expect(200).json();
        let expected = serde_json::json!({ "subjects": 2, "active_consents": 2, "enrolments": 2, "verifications": 4 });
        assert_eq!(stats, expected);
        client.delete(&format!("/v1/subjects/{one}")).await.expect(204);
        assert_eq!(client.get("/v1/history").await.json()["data"].as_array().unwrap().len(), 3);
        assert_eq!(client.get("/v1/stats").await.json()["verifications"], 2);
        assert_eq!(foreigner.get("/v1/stats").await.json()["subjects"], 0);
    })
    .await;
}
