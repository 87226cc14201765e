use super::helpers::{TestApp, each_database, photos};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_person_matches_and_another_does_not() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        let enrolment = client.enrol(&subject, photos::collins()).await.expect(201).json();
        assert!(enrolment["id"].as_str().unwrap().starts_with("enr_"));
        assert_eq!(enrolment["stale"], false);
        assert_eq!(enrolment["quality"]["faces_seen"], 1);

        let same = client.verify(&subject, photos::collins_changed()).await.expect(201).json();
        assert_eq!(same["decision"], "match", "{same}");
        let other = client.verify(&subject, photos::hopper()).await.expect(201).json();
        assert_eq!(other["decision"], "no_match", "{other}");
        assert_eq!(other["subject_id"], subject);
        for member in ["id", "model", "metric", "threshold", "false_match_rate", "quality", "created_at"] {
            assert!(!other[member].is_null(), "{member} in {other}");
        }

        let listed = client.get(&format!("/v1/subjects/{subject}/verifications")).await.expect(200).json();
        let decisions: Vec<_> = listed["data"].as_array().unwrap().iter().map(|one| &one["decision"]).collect();
        assert_eq!(decisions, ["no_match", "match"], "newest first");
        assert_eq!(listed["has_more"], false);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_holds_no_score() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let answer = client.verify(&subject, photos::hopper()).await.expect(201).json();
    let mut members: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    let known =
        ["created_at", "decision", "false_match_rate", "id", "metric", "model", "quality", "subject_id", "threshold"];
    assert_eq!(members, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_false_match_rate_can_be_chosen_in_query_or_form() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let path = format!("/v1/subjects/{subject}/verifications");

    let by_default = client.verify(&subject, photos::collins()).await.expect(201).json();
    assert_eq!(by_default["false_match_rate"], "1e-4");
    let in_query = client.post_raw(&format!("{path}?false_match_rate=1e-2"), "image/png", photos::collins()).await;
    let in_query = in_query.expect(201).json();
    assert_eq!(in_query["false_match_rate"], "1e-2");
    let in_form = client.post_form(&path, photos::collins(), &[("false_match_rate", "1e-3")]).await.expect(201).json();
    assert_eq!(in_form["false_match_rate"], "1e-3");
    assert_ne!(in_query["threshold"], in_form["threshold"]);

    let refused = client.post_form(&path, photos::collins(), &[("false_match_rate", "0.5")]).await;
    assert_eq!(refused.expect_problem(422, "validation_failed").json()["errors"][0]["pointer"], "/false_match_rate");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_enrolment_there_is_nothing_to_compare() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.verify(&subject, photos::collins()).await.expect_problem(409, "no_enrolment");
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_made_under_another_key_or_card_are_stale_and_say_so() {
    each_database(|app| async move {
        let client = app.client().await;
        let model = client.get("/v1/models").await.expect(200).json()["data"][0]["id"].as_str().unwrap().to_owned();
        let (card, fingerprint) = model.split_once('+').expect("the id of the card and its fingerprint");
        assert_eq!((card, fingerprint.len()), ("dlib-resnet29-v1", 8));
        let others = [
            format!("fhe_key_id = '{}'", "0".repeat(32)),
            format!("model_id = '{card}+00000000'"), // another mean, file or preparation under the same id
            format!("model_id = '{card}'"),
        ];
        for other in others {
            let subject = client.consenting_subject().await;
            client.enrol(&subject, photos::collins()).await.expect(201);
            app.databases.execute(&app.databases.main, &format!("UPDATE enrolments SET {other}"));

            client.verify(&subject, photos::collins()).await.expect_problem(409, "enrolments_stale");
            let listed = client.get(&format!("/v1/subjects/{subject}/enrolments")).await.expect(200).json();
            assert_eq!(listed["data"][0]["stale"], true, "{other}");

            let enrolled = client.enrol(&subject, photos::collins()).await.expect(201).json();
            assert_eq!(enrolled["model"], model.as_str());
            let again = client.verify(&subject, photos::collins()).await.expect(201).json();
            assert_eq!(again["decision"], "match", "enrolled again");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_templates_may_match() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::hopper()).await.expect(201);
    client.enrol(&subject, photos::collins()).await.expect(201);
    for photo in [photos::collins_changed(), photos::hopper()] {
        assert_eq!(client.verify(&subject, photo).await.expect(201).json()["decision"], "match");
    }
}
