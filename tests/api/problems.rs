use reqwest::Method;
use serde_json::json;

use super::helpers::{TestApp, each_database};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_member_of_a_body_is_named() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.subject().await;
    let consents = format!("/v1/subjects/{subject}/consents");
    let long = "x".repeat(256);
    // In UTC it is a year that four digits cannot say.
    let beyond_all_time = "9999-12-31T23:59:59-01:00";
    let cases = [
        ("/v1/subjects", json!({ "external_ref": "a", "name": "b" }), "/name"),
        ("/v1/subjects", json!({}), "/external_ref"),
        ("/v1/subjects", json!({ "external_ref": 7 }), "/external_ref"),
        ("/v1/subjects", json!({ "external_ref": "" }), "/external_ref"),
        ("/v1/subjects", json!({ "external_ref": long }), "/external_ref"),
        ("/v1/subjects", json!({ "external_ref": "a\u{0}b" }), "/external_ref"),
        (&consents, json!({ "purpose": "Face", "notice_version": "1" }), "/purpose"),
        (&consents, json!({ "purpose": "face_verification", "notice_version": "" }), "/notice_version"),
        (&consents, json!({ "purpose": "a", "notice_version": "1", "expires_at": "soon" }), "/expires_at"),
        (&consents, json!({ "purpose": "a", "notice_version": "1", "expires_at": beyond_all_time }), "/expires_at"),
    ];
    for (path, body, pointer) in cases {
        let problem = client.post(path, body.clone()).await.expect_problem(422, "validation_failed").json();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let path = "/v1/subjects";
    client.post_raw(path, "application/json", "{").await.expect_problem(400, "malformed_json");
    client.post_raw(path, "application/json", "[".repeat(5000)).await.expect_problem(400, "malformed_json");
    client.post_raw(path, "application/json", " ".repeat(20_000)).await.expect_problem(413, "body_too_large");
    client.post_raw(path, "text/plain", "{}").await.expect_problem(415, "unsupported_media_type");
    client.post_empty(path).await.expect_problem(415, "unsupported_media_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_query_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    for (query, pointer) in [
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=many", ""),
        ("cursor=x!", "/cursor"),
        ("cursor=bm9uc2Vuc2U", "/cursor"),
        ("offset=3", "/offset"),
        ("limit=1&limit=2", "/limit"),
    ] {
        let problem =
            client.get(&format!("/v1/subjects?{query}")).await.expect_problem(422, "validation_failed").json();
        if !pointer.is_empty() {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_framework_are_problems_too() {
    let app = TestApp::start().await;
    let client = app.client().await;
    client.get("/v2/subjects").await.expect_problem(404, "not_found");
    client.get("/").await.expect_problem(404, "not_found");
    let answer =
        client.send(client.request(Method::PUT, "/v1/subjects")).await.expect_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST, GET, HEAD"));
    let answer = client.send(client.request(Method::GET, "/oauth/token")).await;
    assert_eq!(answer.expect_problem(405, "method_not_allowed").header("allow"), Some("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_does_without_a_body() {
    let app = TestApp::start().await;
    let client = app.client().await;
    for path in ["/livez", "/openapi.json", "/v1/subjects", "/v1/subjects/sub_nobody", "/nowhere"] {
        let head = client.send(client.request(Method::HEAD, path)).await;
        let get = client.get(path).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(head.text, "", "{path}");
    }
    let answer = client.send(client.request(Method::HEAD, "/oauth/token")).await.expect(405);
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_request_id_and_the_security_headers() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut seen = vec![];
    for answer in [client.get("/livez").await, client.get("/v1/subjects").await, client.get("/nowhere").await] {
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(id.starts_with("req_") && !seen.contains(&id));
        seen.push(id);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
        assert!(answer.header("strict-transport-security").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    each_database(|app| async move {
        let client = app.client().await;
        let mut made = vec![];
        for _ in 0..5 {
            made.push(client.subject().await);
        }
        made.reverse();
        let (mut seen, mut cursor) = (vec![], String::new());
        loop {
            let page = client.get(&format!("/v1/subjects?limit=2{cursor}")).await.expect(200).json();
            seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, made, "newest first, each once");
    })
    .await;
}
