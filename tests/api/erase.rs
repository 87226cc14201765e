use serde_json::json;

use super::helpers::{Kind, TestApp, each_database, photos};

#[tokio::test(flavor = "multi_thread")]
async fn delete_removes_everything_in_every_database() {
    each_database(|app| async move {
        let client = app.client().await;
        let body = json!({ "external_ref": "member-4711" });
        let subject = client.post("/v1/subjects", body.clone()).await.expect(201).id();
        client.consent(&subject).await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        client.verify(&subject, photos::collins()).await.expect(201);
        let kept = client.consenting_subject().await;
        client.enrol(&kept, photos::collins()).await.expect(201);

        let rows = |table: &str, column: &str| {
            app.databases.count(&app.databases.main, table, &format!("{column} = '{subject}'"))
        };
        let tables = [
            ("subjects", "id"),
            ("consents", "subject_id"),
            ("enrolments", "subject_id"),
            ("verifications", "subject_id"),
        ];
        assert!(tables.iter().all(|(table, column)| rows(table, column) == 1));
        let keys = || {
            app.databases.count(
                &app.databases.keystore,
                "data_keys",
                &format!("subject_id = '{subject}' AND wrapped IS NOT NULL"),
            )
        };
        assert_eq!(keys(), 1);
        let counters = || app.databases.count(&app.databases.journal, "budget_counters", "scope = 'subject'");
        let before = counters();

        client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        assert!(tables.iter().all(|(table, column)| rows(table, column) == 0));
        assert_eq!(keys(), 0);
        assert_eq!(counters(), before - 1);
        client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
        client.delete(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
        client.verify(&subject, photos::collins()).await.expect_problem(404, "not_found");

        assert_eq!(client.verify(&kept, photos::collins()).await.expect(201).json()["decision"], "match");
        let successor = client.post("/v1/subjects", body).await.expect(201).id();
        assert_ne!(successor, subject, "the name is free again, the person is another");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_was_interrupted_is_finished_by_the_same_call() {
    each_database(|app| async move {
        let client = app.client().await;
        let body = json!({ "external_ref": "member-4711" });
        let subject = client.post("/v1/subjects", body.clone()).await.expect(201).id();
        client.consent(&subject).await;
        client.enrol(&subject, photos::collins()).await.expect(201);

        // The keyholder's journal is broken: the key is destroyed, the rest has to wait.
        app.databases.execute(&app.databases.journal, "ALTER TABLE budget_counters RENAME TO away");
        client.delete(&format!("/v1/subjects/{subject}")).await.expect_problem(503, "keyholder_unavailable");
        client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
        client.verify(&subject, photos::collins()).await.expect_problem(404, "not_found");
        assert_eq!(client.get("/v1/subjects").await.expect(200).json()["data"], json!([]));
        client.post("/v1/subjects", body.clone()).await.expect_problem(409, "external_ref_taken");

        app.databases.execute(&app.databases.journal, "ALTER TABLE away RENAME TO budget_counters");
        client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        assert_eq!(app.databases.count(&app.databases.main, "enrolments", "1 = 1"), 0);
        client.post("/v1/subjects", body).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_readable_lies_in_the_data_folder() {
    let app = TestApp::spawn(Kind::Sqlite, &[]).await;
    let client = app.client().await;
    let name = "a-name-that-nobody-else-has";
    let subject = client.post("/v1/subjects", json!({ "external_ref": name })).await.expect(201).id();
    client.consent(&subject).await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    client.verify(&subject, photos::collins()).await.expect(201);
    for entry in walk(app.data_dir.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        assert!(
            !bytes.windows(name.len()).any(|part| part == name.as_bytes()),
            "the name stands in {}",
            entry.display()
        );
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
