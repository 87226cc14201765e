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
        client.post("/v1/subjects", body.clone()).await.expect_problem(503, "keyholder_unavailable");

        app.databases.execute(&app.databases.journal, "ALTER TABLE away RENAME TO budget_counters");
        client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);
        assert_eq!(app.databases.count(&app.databases.main, "enrolments", "1 = 1"), 0);
        client.post("/v1/subjects", body).await.expect(201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_nobody_came_back_for_is_finished_when_the_name_is_wanted_again() {
    each_database(|app| async move {
        let client = app.client().await;
        let body = json!({ "external_ref": "member-4711" });
        let subject = client.post("/v1/subjects", body.clone()).await.expect(201).id();
        client.consent(&subject).await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        // As a crash after the first step of the erasure leaves it.
        let destroyed = "UPDATE data_keys SET kek_id = NULL, wrapped = NULL, destroyed_at = 1";
        app.databases.execute(&app.databases.keystore, destroyed);

        let successor = client.post("/v1/subjects", body.clone()).await.expect(201).id();
        assert_ne!(successor, subject);
        assert_eq!(app.databases.count(&app.databases.main, "enrolments", "1 = 1"), 0);
        client.delete(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
        client.post("/v1/subjects", body).await.expect_problem(409, "external_ref_taken");
    })
    .await;
}

/// The key store is in no backup of the main database, so that a backup from before the erasure gives nothing back.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_an_erasure_does_not_bring_the_person_back() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let body = json!({ "external_ref": "member-4711" });
    let subject = client.post("/v1/subjects", body.clone()).await.expect(201).id();
    client.consent(&subject).await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let backup = app.data_dir.path().join("backup.db").display().to_string();
    app.databases.execute(&app.databases.main, &format!("VACUUM INTO '{backup}'"));
    client.delete(&format!("/v1/subjects/{subject}")).await.expect(204);

    // What the backup holds comes back row by row, as a restore would bring it.
    let tables =
        ["subjects", "consents", "enrolments"].map(|table| format!("INSERT INTO {table} SELECT * FROM old.{table};"));
    app.databases.execute(&app.databases.main, &format!("ATTACH '{backup}' AS old; {}", tables.concat()));
    assert_eq!(app.databases.count(&app.databases.main, "enrolments", "1 = 1"), 1);
    client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
    client.verify(&subject, photos::collins()).await.expect_problem(404, "not_found");
    assert_eq!(client.get("/v1/subjects").await.expect(200).json()["data"], json!([]));
    assert_eq!(client.get("/v1/subjects?external_ref=member-4711").await.expect(200).json()["data"], json!([]));
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
    let photo = photos::collins();
    let middle = photo.len() / 2;
    for entry in walk(app.data_dir.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!holds(name.as_bytes()), "the name stands in {}", entry.display());
        assert!(!holds(&photo[middle..middle + 32]), "the photo stands in {}", entry.display());
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
