//! The life of an access token: revoked (RFC 7009), asked about (RFC 7662), bought with a signature (RFC 7523), and signed
//! with keys that change under it.

use std::{sync::atomic::Ordering, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use velum::{
    auth::{Scopes, assertion::AssertionKey, evidence::Document},
    flows::clients,
    secrets::{self, Signs},
};

use super::helpers::{Answer, Client, TestApp, each_database};

/// A form sent to an endpoint of `/oauth` by somebody who says who he is in it.
async fn ask(app: &TestApp, path: &str, form: &[(&str, &str)]) -> Answer {
    app.stranger().post_oauth(path, form).await
}

fn with_credential<'a>(credential: &'a (String, String), form: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let own = [("client_id", credential.0.as_str()), ("client_secret", credential.1.as_str())];
    own.into_iter().chain(form.iter().copied()).collect()
}

fn token_of(client: &Client) -> String {
    client.token.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_good_for_nothing_from_the_answer_on() {
    each_database(|app| async move {
        let credential = app.credential();
        let (client, other) = (app.client().await, app.client().await);
        let token = token_of(&client);
        client.get("/v1/models").await.expect(200);
        for _ in 0..2 {
            let form = [("token", token.as_str()), ("token_type_hint", "access_token")];
            let answer = ask(&app, "/oauth/revoke", &with_credential(&credential, &form)).await.expect(200);
            assert_eq!((answer.text.as_str(), answer.header("cache-control")), ("", Some("no-store")));
            let answer = client.get("/v1/models").await.expect_problem(401, "token_revoked");
            assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
        }
        other.get("/v1/models").await.expect(200);
        assert_eq!(app.databases.count(&app.databases.main, "revocations", "1 = 1"), 1);

        // Well after the token would have ended by itself, its row has nothing more to say.
        app.clock.advance(time::Duration::HOUR * 2);
        let later = app.client().await;
        let form = [("token", later.token.as_deref().unwrap())];
        ask(&app, "/oauth/revoke", &with_credential(&credential, &form)).await.expect(200);
        assert_eq!(app.databases.count(&app.databases.main, "revocations", "1 = 1"), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_of_the_clients_own_is_left_as_it_is_and_told_as_done() {
    let app = TestApp::start().await;
    let credential = app.credential();
    let foreigner = app.foreign_client().await;
    for token in [token_of(&foreigner).as_str(), "nonsense", "a.b.c"] {
        let answer = ask(&app, "/oauth/revoke", &with_credential(&credential, &[("token", token)])).await;
        assert_eq!(answer.expect(200).text, "");
    }
    foreigner.get("/v1/models").await.expect(200);

    type Form<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Form<'_>, u16, &str)] = &[
        (&[], 400, "invalid_request"),
        (&[("token", "")], 400, "invalid_request"),
        (&[("token", "a"), ("token", "b")], 400, "invalid_request"),
        (&[("token", "a"), ("token_type_hint", "a"), ("token_type_hint", "b")], 400, "invalid_request"),
    ];
    for path in ["/oauth/revoke", "/oauth/introspect"] {
        for (form, status, error) in cases {
            let answer = ask(&app, path, &with_credential(&credential, form)).await.expect(*status);
            assert_eq!(answer.json()["error"], *error, "{path} {form:?}");
        }
        let wrong = (credential.0.clone(), "wrong".to_owned());
        for form in [vec![("token", "a")], with_credential(&wrong, &[("token", "a")])] {
            let answer = ask(&app, path, &form).await.expect(401);
            assert_eq!(answer.json()["error"], "invalid_client");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Basic"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_introspected_by_its_tenant_and_nobody_else() {
    each_database(|app| async move {
        let credential = app.credential();
        let client = app.client_with_scope("faces:verify").await;
        let introspect = async |token: &str| {
            let answer = ask(&app, "/oauth/introspect", &with_credential(&credential, &[("token", token)])).await;
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            answer.expect(200).json()
        };
        let told = introspect(&token_of(&client)).await;
        assert_eq!(
            (&told["active"], &told["scope"], &told["token_type"]),
            (&true.into(), &"faces:verify".into(), &"Bearer".into())
        );
        assert_eq!((&told["client_id"], &told["sub"]), (&credential.0.as_str().into(), &credential.0.as_str().into()));
        assert!(told["exp"].as_i64().unwrap() > told["iat"].as_i64().unwrap());

        let nothing = json!({ "active": false });
        assert_eq!(introspect("nonsense").await, nothing);
        assert_eq!(introspect(&token_of(&app.foreign_client().await)).await, nothing);
        let token = token_of(&client);
        ask(&app, "/oauth/revoke", &with_credential(&credential, &[("token", &token)])).await.expect(200);
        assert_eq!(introspect(&token).await, nothing);
        let old = token_of(&app.client().await);
        app.clock.advance(time::Duration::MINUTE * 20);
        assert_eq!(introspect(&old).await, nothing);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_a_disabled_client_end_with_it() {
    each_database(|app| async move {
        let client = app.client().await;
        client.get("/v1/models").await.expect(200);
        let id = app.credential().0.parse().unwrap();
        let tenants = app.databases.texts(&app.databases.main, "SELECT tenant_id AS text FROM clients");
        clients::disable(app.running.flows(), tenants[0].parse().unwrap(), id).await.unwrap();
        client.get("/v1/models").await.expect_problem(401, "token_revoked");
    })
    .await;
}

const PRIVATE: &str = include_str!("../fixtures/keys/test_only_rsa_2048_one.pem");
const PUBLIC: &str = include_str!("../fixtures/keys/test_only_rsa_2048_one.public.pem");

fn assertion(app: &TestApp, client: &str, id: &str) -> String {
    use velum::domain::clock::Clock as _;
    let claims: Value = json!({ "iss": client, "sub": client, "aud": "https://localhost:8443/oauth/token", "jti": id,
        "exp": app.clock.now().unix_timestamp() + 60 });
    encode(&Header::new(Algorithm::RS256), &claims, &EncodingKey::from_rsa_pem(PRIVATE.as_bytes()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_key_signs_for_each_token_anew() {
    each_database(|app| async move {
        let flows = app.running.flows();
        let tenant = clients::create_tenant(flows, "signers").await.unwrap();
        let key = AssertionKey::from_pem(PUBLIC).unwrap();
        let id =
            clients::create_for_key(flows, tenant, "signer", &key, Scopes::client_app()).await.unwrap().to_string();
        let kind = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        let grant = ("grant_type", "client_credentials");
        let buy = async |form: &[(&str, &str)]| ask(&app, "/oauth/token", form).await;

        let first = assertion(&app, &id, "one");
        let bought = buy(&[grant, kind, ("client_assertion", &first), ("client_id", &id)]).await.expect(200).json();
        let token = bought["access_token"].as_str().unwrap().to_owned();
        let client = Client { token: Some(token.clone()), ..app.stranger() };
        client.get("/v1/models").await.expect(200);

        let refused = [
            vec![grant, kind, ("client_assertion", first.as_str())],
            vec![grant, kind, ("client_assertion", "a.b.c")],
            vec![grant, ("client_id", id.as_str()), ("client_secret", "")],
            vec![grant, ("client_id", id.as_str()), ("client_secret", "guess")],
        ];
        for form in refused {
            assert_eq!(buy(&form).await.expect(401).json()["error"], "invalid_client", "{form:?}");
        }
        let (second, third) = (assertion(&app, &id, "two"), assertion(&app, &id, "three"));
        let other = app.credential().0;
        let named_another = [grant, kind, ("client_assertion", &second), ("client_id", &other)];
        assert_eq!(buy(&named_another).await.expect(401).json()["error"], "invalid_client");
        let malformed = [
            vec![grant, ("client_assertion", third.as_str())],
            vec![grant, kind],
            vec![grant, ("client_assertion_type", "other"), ("client_assertion", &third)],
            vec![grant, kind, ("client_assertion", &third), ("client_id", &id), ("client_secret", "both")],
        ];
        for form in malformed {
            assert_eq!(buy(&form).await.expect(400).json()["error"], "invalid_request", "{form:?}");
        }

        let form = [kind, ("client_assertion", &third), ("token", &token)];
        ask(&app, "/oauth/revoke", &form).await.expect(200);
        client.get("/v1/models").await.expect_problem(401, "token_revoked");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_the_signing_keys_under_load_fails_no_request() {
    use velum::domain::clock::Clock as _;
    let app = TestApp::spawn(super::helpers::Kind::Sqlite, &[("TOKEN_LIFETIME_S", "900")]).await;
    let kids_at = async |path: &str| {
        let keys = app.stranger().get(path).await.expect(200).json();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let kids = async || kids_at("/.well-known/jwks.json").await;
    let evidence_kids = async || kids_at("/.well-known/evidence-jwks.json").await;
    let before = kids().await;
    let old = app.client().await;

    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let (stop, stranger, credential) = (stop.clone(), app.stranger(), app.credential());
        tokio::spawn(async move {
            let mut requests = 0;
            while !stop.load(Ordering::Relaxed) {
                let client = stranger.clone().with_token(&credential.0, &credential.1, "").await;
                client.get("/v1/models").await.expect(200);
                requests += 2;
            }
            requests
        })
    };
    let folder = app.data_dir.path().join("secrets");
    for signs in [Signs::Tokens, Signs::Evidence] {
        secrets::rotate_signing_keys(signs, &folder, app.clock.now(), time::Duration::minutes(10)).unwrap();
    }
    let begun = std::time::Instant::now();
    while kids().await.len() == 1 || evidence_kids().await.len() == 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "a new key is not noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    app.clock.advance(time::Duration::minutes(10));
    let new = app.client().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 10);

    let kid = |client: &Client| jsonwebtoken::decode_header(token_of(client)).unwrap().kid.unwrap();
    assert_eq!(kid(&old), before[0]);
    assert!(!before.contains(&kid(&new)), "the new key signs");
    let evidence = app.running.flows().evidence();
    let document = evidence.sign(Document::ConsentReceipt, &json!({}), app.clock.now()).unwrap();
    let kid = jsonwebtoken::decode_header(&document).unwrap().kid.unwrap();
    assert_eq!(evidence_kids().await.last(), Some(&kid), "the new key signs evidence");
    old.get("/v1/models").await.expect(200);
    new.get("/v1/models").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_names_what_there_is() {
    let app = TestApp::start().await;
    let metadata = app.stranger().get("/.well-known/oauth-authorization-server").await.expect(200).json();
    for endpoint in ["token", "revocation", "introspection"] {
        let url = metadata[format!("{endpoint}_endpoint")].as_str().unwrap();
        let path = url.strip_prefix("https://localhost:8443").unwrap();
        assert_eq!(
            ask(&app, path, &[]).await.expect(if endpoint == "token" { 400 } else { 401 }).header("content-type"),
            Some("application/json")
        );
        let methods = &metadata[format!("{endpoint}_endpoint_auth_methods_supported")];
        assert_eq!(methods, &json!(["client_secret_basic", "client_secret_post", "private_key_jwt"]));
        let algorithms = &metadata[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")];
        assert_eq!(algorithms, &json!(["RS256"]));
    }
    let scopes = ["subjects", "consents", "faces:enrol", "faces:verify", "dsr", "audit:read", "admin"];
    assert_eq!(metadata["scopes_supported"], json!(scopes));
}
