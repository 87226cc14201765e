//! Keys for servers that call without buying tokens.

use serde_json::json;
use time::Duration;
use velum::{
    auth::{Scope, Scopes},
    flows::clients,
};

use super::helpers::{Client, TestApp, each_database, photos};

/// A client of the first tenant that may make keys, and whatever else an app may.
async fn admin(app: &TestApp) -> Client {
    let tenants = app.databases.texts(&app.databases.main, "SELECT tenant_id AS text FROM clients ORDER BY id");
    let scopes: Scopes = Scopes::client_app().iter().chain([Scope::Admin]).collect();
    let made = clients::create(app.running.flows(), tenants[0].parse().unwrap(), "admin", scopes).await.unwrap();
    app.stranger().with_token(&made.client.to_string(), made.secret.expose_text(), "").await
}

fn with_key(app: &TestApp, key: &str) -> Client {
    Client { token: Some(key.to_owned()), ..app.stranger() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_opens_what_it_was_made_for() {
    each_database(|app| async move {
        let admin = admin(&app).await;
        let body = json!({ "name": "back office", "scopes": ["subjects", "consents", "faces:enrol"] });
        let made = admin.post("/v1/api-keys", body).await.expect(201);
        assert_eq!(made.header("location"), Some(format!("/v1/api-keys/{}", made.id()).as_str()));
        let made = made.json();
        let key = made["key"].as_str().unwrap().to_owned();
        assert!(key.starts_with("velum_test_") && key.starts_with(made["prefix"].as_str().unwrap()));

        let server = with_key(&app, &key);
        let subject = server.consenting_subject().await;
        server.enrol(&subject, photos::collins()).await.expect(201);
        server.verify(&subject, photos::collins()).await.expect_problem(403, "scope_missing");
        server.get("/v1/api-keys").await.expect_problem(403, "scope_missing");
        // The key works in the tenant of its maker.
        admin.get(&format!("/v1/subjects/{subject}")).await.expect(200);

        let listed = admin.get("/v1/api-keys").await.expect(200);
        assert!(!listed.text.contains(&key));
        let listed = listed.json()["data"][0].clone();
        assert_eq!((&listed["id"], &listed["name"]), (&made["id"], &made["name"]));
        assert!(listed["last_used_at"].is_string() && listed["expires_at"].is_null() && listed["revoked_at"].is_null());
        let stored = app.databases.count(&app.databases.main, "api_keys", &format!("prefix = '{key}'"));
        assert_eq!(stored, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_an_expired_and_an_unknown_key_open_nothing() {
    each_database(|app| async move {
        let admin = admin(&app).await;
        let until = app.clock_in(Duration::HOUR);
        let body = json!({ "name": "short", "scopes": ["subjects"], "expires_at": until });
        let made = admin.post("/v1/api-keys", body).await.expect(201);
        let server = with_key(&app, made.json()["key"].as_str().unwrap());
        server.get("/v1/subjects").await.expect(200);

        let key = made.json()["key"].as_str().unwrap().to_owned();
        let unknown = velum::auth::api_key::ApiKey::generate(velum::auth::api_key::Environment::Test);
        let of_production = velum::auth::api_key::ApiKey::generate(velum::auth::api_key::Environment::Live);
        for bad in [&key[..key.len() - 1], "velum_test_", unknown.expose_text(), of_production.expose_text()] {
            let answer = with_key(&app, bad).get("/v1/subjects").await.expect_problem(401, "api_key_invalid");
            assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
        }
        app.clock.advance(Duration::HOUR);
        server.get("/v1/subjects").await.expect_problem(401, "api_key_expired");

        let admin = self::admin(&app).await;
        let path = format!("/v1/api-keys/{}", made.id());
        app.foreign_admin().await.delete(&path).await.expect_problem(404, "not_found");
        for _ in 0..2 {
            admin.delete(&path).await.expect(204);
            server.get("/v1/subjects").await.expect_problem(401, "api_key_revoked");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_key_lives_on_for_its_overlap_and_no_longer() {
    each_database(|app| async move {
        let admin = admin(&app).await;
        let make =
            async || admin.post("/v1/api-keys", json!({ "name": "a", "scopes": ["subjects"] })).await.expect(201);
        let roll = async |id: &str, overlap_s: i64| {
            admin.post(&format!("/v1/api-keys/{id}/roll"), json!({ "overlap_s": overlap_s })).await
        };
        let server = |answer: &super::helpers::Answer| with_key(&app, answer.json()["key"].as_str().unwrap());

        let first = make().await;
        let second = roll(&first.id(), 60).await.expect(201);
        assert_eq!((&second.json()["name"], &second.json()["scopes"]), (&json!("a"), &json!(["subjects"])));
        server(&first).get("/v1/subjects").await.expect(200);
        server(&second).get("/v1/subjects").await.expect(200);
        roll(&first.id(), 60).await.expect_problem(409, "api_key_rolled");
        let listed = admin.get("/v1/api-keys").await.expect(200).json();
        assert_eq!(listed["data"][1]["successor_id"], second.json()["id"]);
        app.clock.advance(Duration::MINUTE);
        server(&first).get("/v1/subjects").await.expect_problem(401, "api_key_expired");
        server(&second).get("/v1/subjects").await.expect(200);

        let third = roll(&second.id(), 0).await.expect(201);
        server(&second).get("/v1/subjects").await.expect_problem(401, "api_key_expired");
        server(&third).get("/v1/subjects").await.expect(200);

        for overlap_s in [-1, 604_801] {
            roll(&third.id(), overlap_s).await.expect_problem(422, "validation_failed");
        }
        let until = app.clock_in(Duration::SECOND);
        let brief = json!({ "name": "brief", "scopes": ["subjects"], "expires_at": until });
        let brief = admin.post("/v1/api-keys", brief).await.expect(201);
        app.clock.advance(Duration::SECOND);
        roll(&brief.id(), 0).await.expect_problem(422, "validation_failed");

        admin.delete(&format!("/v1/api-keys/{}", third.id())).await.expect(204);
        roll(&third.id(), 0).await.expect_problem(404, "not_found");
        let path = format!("/v1/api-keys/{}/roll", make().await.id());
        app.foreign_admin().await.post(&path, json!({ "overlap_s": 0 })).await.expect_problem(404, "not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_key_that_can_do_more_than_he_can() {
    let app = TestApp::start().await;
    let admin = admin(&app).await;
    let make = async |client: &Client, scopes: &[&str]| {
        client.post("/v1/api-keys", json!({ "name": "a", "scopes": scopes })).await
    };
    make(&admin, &["audit:read"]).await.expect_problem(403, "scopes_beyond_caller");
    let refused = make(&admin, &["everything"]).await.expect_problem(422, "validation_failed");
    assert_eq!(refused.json()["errors"][0]["pointer"], "/scopes");
    // An operator's key: good for what needs no scope, and for nothing else.
    let without = make(&admin, &[]).await.expect(201);
    let without = with_key(&app, without.json()["key"].as_str().unwrap());
    without.get("/v1/models").await.expect(200);
    without.get("/v1/subjects").await.expect_problem(403, "scope_missing");
    make(&app.client().await, &["subjects"]).await.expect_problem(403, "scope_missing");

    let narrow = make(&admin, &["admin"]).await.expect(201);
    let narrow = with_key(&app, narrow.json()["key"].as_str().unwrap());
    make(&narrow, &["subjects"]).await.expect_problem(403, "scopes_beyond_caller");
    let broad = make(&admin, &["subjects"]).await.expect(201);
    let path = format!("/v1/api-keys/{}/roll", broad.id());
    narrow.post(&path, json!({ "overlap_s": 0 })).await.expect_problem(403, "scopes_beyond_caller");
    let past = json!({ "name": "a", "scopes": ["subjects"], "expires_at": app.clock_in(-Duration::SECOND) });
    admin.post("/v1/api-keys", past).await.expect_problem(422, "validation_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_in_pages_and_nobody_sees_those_of_another_tenant() {
    let app = TestApp::start().await;
    let admin = admin(&app).await;
    let mut made = vec![];
    for name in ["a", "b", "c"] {
        made.push(admin.post("/v1/api-keys", json!({ "name": name, "scopes": ["subjects"] })).await.expect(201).id());
    }
    let page = admin.get("/v1/api-keys?limit=2").await.expect(200).json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&json!(made[2]), &json!(true)));
    let rest = format!("/v1/api-keys?limit=2&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(admin.get(&rest).await.expect(200).json()["data"][0]["id"], json!(made[0]));
    assert_eq!(app.foreign_admin().await.get("/v1/api-keys").await.expect(200).json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_bound_to_networks_opens_nothing_from_elsewhere() {
    each_database(|app| async move {
        let admin = admin(&app).await;
        let make = async |networks: serde_json::Value| {
            let body = json!({ "name": "a", "scopes": ["subjects"], "allowed_networks": networks });
            admin.post("/v1/api-keys", body).await
        };
        let server = |answer: &super::helpers::Answer| with_key(&app, answer.json()["key"].as_str().unwrap());

        let here = make(json!(["203.0.113.7/24", "127.0.0.1", "::1"])).await.expect(201);
        assert_eq!(here.json()["allowed_networks"], json!(["203.0.113.0/24", "127.0.0.1/32", "::1/128"]));
        server(&here).get("/v1/subjects").await.expect(200);
        let elsewhere = make(json!(["203.0.113.0/24", "2001:db8::/32"])).await.expect(201);
        server(&elsewhere).get("/v1/subjects").await.expect_problem(403, "network_not_allowed");
        // A use that was refused is none.
        let listed = admin.get("/v1/api-keys").await.expect(200).json()["data"].clone();
        assert_eq!(listed[0]["allowed_networks"], elsewhere.json()["allowed_networks"]);
        assert!(listed[0]["last_used_at"].is_null() && listed[1]["last_used_at"].is_string());

        let roll = format!("/v1/api-keys/{}/roll", elsewhere.id());
        let successor = admin.post(&roll, json!({ "overlap_s": 0 })).await.expect(201);
        assert_eq!(successor.json()["allowed_networks"], elsewhere.json()["allowed_networks"]);
        server(&successor).get("/v1/subjects").await.expect_problem(403, "network_not_allowed");

        make(json!(vec!["10.0.0.0/8"; 20])).await.expect(201);
        assert!(make(json!(null)).await.expect(201).json()["allowed_networks"].is_null());
        for bad in [json!([]), json!(["10.0.0.0/33"]), json!(["10.0.0.0/8,::/0"]), json!([""]), json!(vec!["::1"; 21])]
        {
            let refused = make(bad).await.expect_problem(422, "validation_failed");
            assert_eq!(refused.json()["errors"][0]["pointer"], "/allowed_networks");
        }
    })
    .await;
}
