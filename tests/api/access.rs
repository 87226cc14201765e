use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::json;
use time::Duration;
use velum::flows::clients;

use super::helpers::{Client, TestApp, WithForm as _, each_database, photos};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_bought_by_form_or_by_basic() {
    each_database(|app| async move {
        let (id, secret) = app.credential();
        let stranger = app.stranger();
        let by_form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret)];
        let answer = stranger.post_token(&by_form).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let token = answer.json();
        assert_eq!(token["token_type"], "Bearer");
        assert!((300..=900).contains(&token["expires_in"].as_u64().unwrap()));
        assert_eq!(token["scope"], "subjects consents faces:enrol faces:verify");

        let basic = stranger.request(Method::POST, "/oauth/token").basic_auth(&id, Some(&secret));
        let narrower = basic.with_form(&[("grant_type", "client_credentials"), ("scope", "faces:verify")]);
        assert_eq!(stranger.send(narrower).await.expect(200).json()["scope"], "faces:verify");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_errors_have_the_shape_of_rfc_6749() {
    let app = TestApp::start().await;
    let (id, secret) = app.credential();
    let stranger = app.stranger();
    let grant = ("grant_type", "client_credentials");
    let (client, known) = (("client_id", id.as_str()), ("client_secret", secret.as_str()));
    type Form<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Form<'_>, u16, &str)] = &[
        (&[], 400, "invalid_request"),
        (&[client, known], 400, "invalid_request"),
        (&[("grant_type", "password"), client, known], 400, "unsupported_grant_type"),
        (&[grant, grant, client, known], 400, "invalid_request"),
        (&[grant], 401, "invalid_client"),
        (&[grant, client], 401, "invalid_client"),
        (&[grant, client, ("client_secret", "wrong")], 401, "invalid_client"),
        (&[grant, ("client_id", "cli_0193512ab4c87d0e8f6a5b4c3d2e1f00"), known], 401, "invalid_client"),
        (&[grant, ("client_id", "somebody"), known], 401, "invalid_client"),
        (&[grant, client, known, ("scope", "everything")], 400, "invalid_scope"),
        (&[grant, client, known, ("scope", "subjects admin")], 400, "invalid_scope"),
    ];
    for (form, status, error) in cases {
        let answer = stranger.post_token(form).await.expect(*status);
        assert_eq!(answer.json()["error"], *error, "{form:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let basic = stranger.request(Method::POST, "/oauth/token").basic_auth(&id, Some("wrong")).with_form(&[grant]);
    let answer = stranger.send(basic).await.expect(401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("Basic"));
    let both = stranger
        .request(Method::POST, "/oauth/token")
        .basic_auth(&id, Some(&secret))
        .with_form(&[grant, client, known]);
    assert_eq!(stranger.send(both).await.expect(400).json()["error"], "invalid_request");
    let as_json = stranger.post("/oauth/token", json!({ "grant_type": "client_credentials" })).await.expect(400);
    assert_eq!(as_json.json()["error"], "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_gets_no_token() {
    let app = TestApp::start().await;
    let flows = app.running.flows();
    let tenant = clients::create_tenant(flows, "one").await.unwrap();
    let made = clients::create(flows, tenant, "one", "subjects".parse().unwrap()).await.unwrap();
    let id = made.client.to_string();
    let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", made.secret.expose_text())];
    app.stranger().post_token(&form).await.expect(200);
    clients::disable(flows, tenant, made.client).await.unwrap();
    app.stranger().post_token(&form).await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_are_refused_alike() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let with = |token: &str| Client { token: Some(token.to_owned()), ..client.clone() };
    let good = client.token.clone().unwrap();

    app.stranger().get("/v1/subjects").await.expect_problem(401, "token_missing");
    let missing = app.stranger().get("/v1/subjects").await;
    assert_eq!(missing.header("www-authenticate"), Some(r#"Bearer realm="velum""#));
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let unsigned = BASE64_STANDARD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
    for bad in [
        "nonsense".to_owned(),
        format!("{good}x"),
        format!("{}.{}.", unsigned.trim_end_matches('='), parts[1]),
        format!("{}.{}.{}", parts[0], parts[1].chars().rev().collect::<String>(), parts[2]),
        "a".repeat(7000),
    ] {
        let answer = with(&bad).get("/v1/subjects").await.expect_problem(401, "token_invalid");
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
    }
    parts.clear();
    let two = client.request(Method::GET, "/v1/subjects").header("authorization", "Bearer x");
    client.send(two).await.expect_problem(401, "token_missing");

    client.get("/v1/subjects").await.expect(200);
    app.clock.advance(Duration::HOUR);
    client.get("/v1/subjects").await.expect_problem(401, "token_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_resource_asks_for_its_scope() {
    let app = TestApp::start().await;
    let full = app.client().await;
    let subject = full.consenting_subject().await;
    let paths = [
        ("subjects", "/v1/subjects".to_owned()),
        ("subjects", format!("/v1/subjects/{subject}")),
        ("consents", format!("/v1/subjects/{subject}/consents")),
        ("faces:enrol", format!("/v1/subjects/{subject}/enrolments")),
        ("faces:verify", format!("/v1/subjects/{subject}/verifications")),
    ];
    for given in ["subjects", "consents", "faces:enrol", "faces:verify"] {
        let client = app.client_with_scope(given).await;
        for (needed, path) in &paths {
            let answer = client.get(path).await;
            if given == *needed {
                answer.expect(200);
            } else {
                let answer = answer.expect_problem(403, "scope_missing");
                assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="insufficient_scope""#));
            }
        }
        client.get("/v1/models").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_id_looks_like_an_absent_one() {
    each_database(|app| async move {
        let (owner, foreigner) = (app.client().await, app.foreign_client().await);
        let subject = owner.subject().await;
        let consent = owner.consent(&subject).await;
        let enrolment = owner.enrol(&subject, photos::collins()).await.expect(201).id();
        let absent = "sub_0193512ab4c87d0e8f6a5b4c3d2e1f00";

        for id in [subject.as_str(), absent, "sub_nonsense", "con_0193512ab4c87d0e8f6a5b4c3d2e1f00"] {
            let base = format!("/v1/subjects/{id}");
            let new_consent = json!({ "purpose": "face_verification", "notice_version": "1" });
            let answers = [
                foreigner.get(&base).await,
                foreigner.delete(&base).await,
                foreigner.get(&format!("{base}/consents")).await,
                foreigner.post(&format!("{base}/consents"), new_consent).await,
                foreigner.withdraw(id, &consent).await,
                foreigner.get(&format!("{base}/enrolments")).await,
                foreigner.enrol(id, photos::collins()).await,
                foreigner.delete(&format!("{base}/enrolments/{enrolment}")).await,
                foreigner.get(&format!("{base}/verifications")).await,
                foreigner.verify(id, photos::collins()).await,
            ];
            for answer in answers {
                let mut problem = answer.expect_problem(404, "not_found").json();
                for of_this_request in ["instance", "request_id"] {
                    problem.as_object_mut().unwrap().remove(of_this_request);
                }
                assert_eq!(problem["detail"], "There is nothing here under this name.");
                assert_eq!(problem.as_object().unwrap().len(), 6);
            }
        }
        assert_eq!(foreigner.get("/v1/subjects").await.expect(200).json()["data"], json!([]));
        owner.get(&format!("/v1/subjects/{subject}")).await.expect(200);
        assert_eq!(owner.verify(&subject, photos::collins()).await.expect(201).json()["decision"], "match");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_may_use_the_same_name_for_a_person() {
    let app = TestApp::start().await;
    let (one, other) = (app.client().await, app.foreign_client().await);
    let body = json!({ "external_ref": "member-1" });
    let mine = one.post("/v1/subjects", body.clone()).await.expect(201).id();
    let theirs = other.post("/v1/subjects", body.clone()).await.expect(201).id();
    assert_ne!(mine, theirs);
    one.post("/v1/subjects", body).await.expect_problem(409, "external_ref_taken");
    let found = one.get("/v1/subjects?external_ref=member-1").await.expect(200).json();
    assert_eq!(found["data"][0]["id"], mine.as_str());
    let nobody = one.get("/v1/subjects?external_ref=member-2").await.expect(200).json();
    assert_eq!(nobody["data"], json!([]));
}
