//! What the RFCs demand of an authorization server and of what its tokens open, as far as no other test asks it already.
//! `docs/conformance.md` lists every demand with the test that keeps it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, decode_header, encode};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use velum::{
    auth::{Scopes, assertion::AssertionKey},
    domain::clock::Clock as _,
    flows::clients,
};

use super::helpers::{Answer, Client, TestApp, WithForm as _, claims_of, each_database, signed_like, signing_key};

const GRANT: (&str, &str) = ("grant_type", "client_credentials");
const ENDPOINTS: [&str; 3] = ["/oauth/token", "/oauth/revoke", "/oauth/introspect"];
const ISSUER: &str = "https://localhost:8443";
const ASSERTION: (&str, &str) = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
const PRIVATE: &str = include_str!("../fixtures/keys/test_only_rsa_2048_one.pem");
const PUBLIC: &str = include_str!("../fixtures/keys/test_only_rsa_2048_one.public.pem");

/// A server, and the credential of its first client.
struct Desk {
    app: TestApp,
    id: String,
    secret: String,
}

impl Desk {
    async fn open() -> Self {
        Self::around(TestApp::start().await)
    }

    fn around(app: TestApp) -> Self {
        let (id, secret) = app.credential();
        Self { app, id, secret }
    }

    fn credential(&self) -> [(&str, &str); 2] {
        [("client_id", &self.id), ("client_secret", &self.secret)]
    }

    async fn token(&self) -> String {
        self.app.client().await.token.unwrap()
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.app.stranger().request(method, path)
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        self.app.stranger().send(request).await
    }

    async fn ask(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.app.stranger().post_oauth(path, form).await
    }

    /// With the client's secret in the form.
    async fn ask_known(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.ask(path, &[&self.credential(), form].concat()).await
    }

    /// A good request to an endpoint, to be spoilt.
    async fn good_form(&self, path: &str) -> Vec<(&'static str, String)> {
        match path {
            "/oauth/token" => vec![("grant_type", "client_credentials".to_owned())],
            _ => vec![("token", self.token().await)],
        }
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (status, &json!(error)), "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), (Some("no-store"), Some("no-cache")));
    // RFC 6749, 5.2: these characters only, and no others.
    let description = answer.json()["error_description"].as_str().unwrap().to_owned();
    assert!(description.bytes().all(|byte| matches!(byte, 0x20..=0x21 | 0x23..=0x5B | 0x5D..=0x7E)), "{description}");
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// Every character in the longest way that a form may write it.
fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

// --- RFC 6749, 2.3: who the client is

#[tokio::test(flavor = "multi_thread")]
async fn basic_credentials_are_form_decoded() {
    let desk = Desk::open().await;
    for header in [
        basic(&desk.id, &desk.secret),
        basic(&percent_encoded(&desk.id), &percent_encoded(&desk.secret)),
        basic(&desk.id, &desk.secret).replacen("Basic", "bAsIc", 1),
    ] {
        let request = desk.request(Method::POST, "/oauth/token").header("authorization", header);
        desk.send(request.with_form(&[GRANT])).await.expect(200);
    }
    for header in [
        "Basic".to_owned(),
        "Basic !".to_owned(),
        format!("Basic {}", STANDARD.encode("no colon")),
        format!("Basic {}", STANDARD.encode(b"\xff:\xff")),
        basic(&desk.id, ""),
        basic("", &desk.secret),
        basic(&desk.id, &format!("{}&x=y", desk.secret)),
        format!("Bearer {}", desk.token().await),
    ] {
        let request = desk.request(Method::POST, "/oauth/token").header("authorization", &header);
        let answer = desk.send(request.with_form(&[GRANT])).await;
        assert_refused(&answer, 401, "invalid_client");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm="), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_two_ways_are_refused() {
    let desk = Desk::open().await;
    let known = basic(&desk.id, &desk.secret);
    let [client, secret] = desk.credential();
    for path in ENDPOINTS {
        let form = desk.good_form(path).await;
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let with = |header: Option<&str>, more: &[(&str, &str)]| {
            let request = desk.request(Method::POST, path);
            let request = header.iter().fold(request, |request, value| request.header("authorization", *value));
            request.with_form(&[form.as_slice(), more].concat())
        };
        desk.send(with(Some(&known), &[])).await.expect(200);
        desk.send(with(Some(&known), &[client])).await.expect(200);
        let assertion = ("client_assertion", "a.b.c");
        let twice = with(Some(&known), &[]).header("authorization", &known);
        for request in [
            with(Some(&known), &[client, secret]),
            with(Some(&known), &[secret]),
            with(Some(&known), &[ASSERTION, assertion]),
            with(None, &[client, secret, ASSERTION, assertion]),
            with(Some(&known), &[("client_id", "cli_0193512ab4c87d0e8f6a5b4c3d2e1f00")]),
            twice,
        ] {
            assert_refused(&desk.send(request).await, 400, "invalid_request");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_the_query_string_count_for_nothing() {
    let desk = Desk::open().await;
    let credentials = format!("client_id={}&client_secret={}", desk.id, desk.secret);
    for path in ENDPOINTS {
        let form = desk.good_form(path).await;
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = desk.request(Method::POST, &format!("{path}?{credentials}")).with_form(&form);
        assert_refused(&desk.send(request).await, 401, "invalid_client");
    }
    let all = desk.request(Method::POST, &format!("/oauth/token?grant_type=client_credentials&{credentials}"));
    assert_refused(&desk.send(all.with_form(&[])).await, 400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answers_without_tls() {
    let desk = Desk::open().await;
    let mut plain = TcpStream::connect(desk.app.running.address).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    plain.write_all(b"POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _closed = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
}

// --- RFC 6749, 3.2 and 3.3: the request

#[tokio::test(flavor = "multi_thread")]
async fn only_post_reaches_the_endpoints() {
    let desk = Desk::open().await;
    let query = format!("grant_type=client_credentials&client_id={}&client_secret={}", desk.id, desk.secret);
    for path in ENDPOINTS {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = desk.send(desk.request(method.clone(), &format!("{path}?{query}"))).await.expect(405);
            assert_eq!(answer.header("allow"), Some("POST"), "{method} {path}");
            assert!(!answer.text.contains("access_token"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_form_is_read() {
    let desk = Desk::open().await;
    let form = format!("grant_type=client_credentials&client_id={}&client_secret={}", desk.id, desk.secret);
    let post =
        |kind: &str, body: Vec<u8>| desk.request(Method::POST, "/oauth/token").header("content-type", kind).body(body);
    desk.send(post("application/x-www-form-urlencoded;charset=UTF-8", form.clone().into())).await.expect(200);
    desk.send(post("Application/X-WWW-Form-URLEncoded", form.clone().into())).await.expect(200);
    let as_json = json!({ "grant_type": "client_credentials", "client_id": desk.id, "client_secret": desk.secret });
    for (kind, body) in [
        ("application/json", as_json.to_string().into_bytes()),
        ("text/plain", form.clone().into_bytes()),
        ("multipart/form-data; boundary=x", form.clone().into_bytes()),
        ("application/x-www-form-urlencoded", b"grant_type=client_credentials&client_id=\xff".to_vec()),
        ("application/x-www-form-urlencoded", vec![]),
    ] {
        assert_refused(&desk.send(post(kind, body)).await, 400, "invalid_request");
    }
    let endless = format!("{form}&scope={}", "x".repeat(16 * 1024));
    assert_refused(&desk.send(post("application/x-www-form-urlencoded", endless.into())).await, 413, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_given_twice_is_refused() {
    let desk = Desk::open().await;
    for (path, names) in [
        ("/oauth/token", &["grant_type", "scope"][..]),
        ("/oauth/revoke", &["token", "token_type_hint"][..]),
        ("/oauth/introspect", &["token", "token_type_hint"][..]),
    ] {
        let good = desk.good_form(path).await;
        let of_the_client = ["client_id", "client_secret", "client_assertion", "client_assertion_type"];
        for name in names.iter().chain(&of_the_client) {
            let mut form: Vec<(&str, &str)> = desk.credential().to_vec();
            form.extend(good.iter().map(|(name, value)| (*name, value.as_str())));
            let value = form.iter().find(|(given, _)| given == name).map_or("subjects", |(_, value)| value);
            let missing = 2 - form.iter().filter(|(given, _)| given == name).count();
            form.extend(std::iter::repeat_n((*name, value), missing));
            assert_refused(&desk.ask(path, &form).await, 400, "invalid_request");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_parameter_counts_as_left_out_and_an_unknown_one_for_nothing() {
    let desk = Desk::open().await;
    let empty = [GRANT, ("scope", ""), ("client_assertion", ""), ("client_assertion_type", "")];
    let all = desk.ask_known("/oauth/token", &empty).await.expect(200);
    assert_eq!(all.json()["scope"], "subjects consents faces:enrol faces:verify");
    let unknown = [GRANT, ("resource", "https://elsewhere"), ("audience", "billing"), ("lifetime", "999999")];
    let same = desk.ask_known("/oauth/token", &unknown).await.expect(200).json();
    assert_eq!((&same["scope"], &same["expires_in"]), (&all.json()["scope"], &all.json()["expires_in"]));
    let claims = claims_of(same["access_token"].as_str().unwrap());
    assert_eq!(claims["aud"], "velum");
    for (form, error) in [
        (vec![("grant_type", "")], "invalid_request"),
        (vec![("scope", "subjects")], "invalid_request"),
        (vec![("grant_type", "CLIENT_CREDENTIALS")], "unsupported_grant_type"),
        (vec![("grant_type", "authorization_code")], "unsupported_grant_type"),
        (vec![("grant_type", "refresh_token")], "unsupported_grant_type"),
    ] {
        assert_refused(&desk.ask_known("/oauth/token", &form).await, 400, error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_a_set_of_exact_words_within_what_the_client_has() {
    let desk = Desk::open().await;
    for (asked, given) in [
        ("faces:verify subjects", "subjects faces:verify"),
        ("subjects subjects", "subjects"),
        (" subjects  consents ", "subjects consents"),
    ] {
        let answer = desk.ask_known("/oauth/token", &[GRANT, ("scope", asked)]).await.expect(200).json();
        assert_eq!(answer["scope"], given, "{asked:?}");
        assert_eq!(claims_of(answer["access_token"].as_str().unwrap())["scope"], given);
    }
    for asked in ["SUBJECTS", "subjects,consents", "subjects admin", "subjects \u{0}", "*", " "] {
        assert_refused(&desk.ask_known("/oauth/token", &[GRANT, ("scope", asked)]).await, 400, "invalid_scope");
    }
}

// --- RFC 6749, 5.1: the answer

#[tokio::test(flavor = "multi_thread")]
async fn a_token_answer_has_the_members_of_the_rfc_and_no_other() {
    let desk = Desk::open().await;
    let answer = desk.ask_known("/oauth/token", &[GRANT]).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), (Some("no-store"), Some("no-cache")));
    let body = answer.json();
    let mut members: Vec<&String> = body.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["access_token", "expires_in", "scope", "token_type"], "no refresh token among them");
    assert_eq!(body["token_type"], "Bearer");
    let claims = claims_of(body["access_token"].as_str().unwrap());
    assert_eq!(body["expires_in"].as_i64().unwrap(), claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap());
}

/// RFC 9068, section 2.
#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_has_the_header_and_the_claims_of_its_profile() {
    let desk = Desk::open().await;
    let token = desk.token().await;
    let header = decode_header(&token).unwrap();
    assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::RS256, Some("at+jwt")));
    let keys = desk.app.stranger().get("/.well-known/jwks.json").await.expect(200).json();
    assert!(keys["keys"].as_array().unwrap().iter().any(|key| key["kid"] == json!(header.kid)));
    let claims = claims_of(&token);
    let now = desk.app.clock.now().unix_timestamp();
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(ISSUER), &json!("velum")));
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!(desk.id), &json!(desk.id)));
    assert_eq!((claims["iat"].as_i64(), claims["nbf"].as_i64()), (Some(now), Some(now)));
    assert_ne!(claims["jti"], claims_of(&desk.token().await)["jti"]);
}

// --- RFC 6750: what a token opens

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_bearer_is_read_in_any_case_and_no_other_scheme_is() {
    let desk = Desk::open().await;
    let token = desk.token().await;
    let with = |value: String| desk.request(Method::GET, "/v1/models").header("authorization", value);
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let answer = desk.send(with(format!("{scheme} {token}"))).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "RFC 6750, 5.3");
    }
    for header in [token.clone(), format!("Token {token}"), format!("Bearer{token}"), basic(&desk.id, &desk.secret)] {
        let answer = desk.send(with(header)).await.expect_problem(401, "token_missing");
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="velum""#));
    }
    let twice = with(format!("Bearer {token}")).header("authorization", format!("Bearer {token}"));
    desk.send(twice).await.expect_problem(401, "token_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_or_in_a_form_counts_for_nothing() {
    let desk = Desk::open().await;
    let token = desk.token().await;
    desk.send(desk.request(Method::GET, &format!("/v1/models?access_token={token}")))
        .await
        .expect_problem(401, "token_missing");
    let form = desk.request(Method::POST, "/v1/subjects").with_form(&[("access_token", &token), ("external_ref", "a")]);
    desk.send(form).await.expect_problem(401, "token_missing");
}

// --- RFC 7009 and 7662: ending and asking

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hint_changes_nothing() {
    let desk = Desk::open().await;
    for hint in ["refresh_token", "access_token", "something else"] {
        let token = desk.token().await;
        let form = [("token", token.as_str()), ("token_type_hint", hint)];
        assert_eq!(desk.ask_known("/oauth/introspect", &form).await.expect(200).json()["active"], true);
        desk.ask_known("/oauth/revoke", &form).await.expect(200);
        assert_eq!(desk.ask_known("/oauth/introspect", &form).await.expect(200).json(), json!({ "active": false }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_calls_active_only_what_would_open_something() {
    each_database(|app| async move {
        let desk = Desk::around(app);
        let flows = desk.app.running.flows();
        let tenants = desk.app.databases.texts(&desk.app.databases.main, "SELECT tenant_id AS text FROM clients");
        let tenant = tenants[0].parse().unwrap();
        let made = clients::create(flows, tenant, "to be disabled", Scopes::client_app()).await.unwrap();
        let (id, secret) = (made.client.to_string(), made.secret.expose_text().to_owned());
        let theirs = desk.app.stranger().with_token(&id, &secret, "").await;

        let good = desk.token().await;
        let mut future = claims_of(&good);
        future["nbf"] = json!(desk.app.clock.now().unix_timestamp() + 3_600);
        let future = signed_like(&good, &future, &signing_key(&desk.app));
        let tampered = {
            let parts: Vec<&str> = good.split('.').collect();
            let mut claims = claims_of(&good);
            claims["scope"] = json!("admin");
            format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
        };
        let known = async |token: &str| {
            let opens = Client { token: Some(token.to_owned()), ..desk.app.stranger() }.get("/v1/models").await;
            let answer = desk.ask_known("/oauth/introspect", &[("token", token)]).await.expect(200);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(opens.status.is_success(), answer.json()["active"] == true, "{}", answer.text);
            answer.json()["active"] == true
        };
        let their_token = theirs.token.clone().unwrap();
        assert!(known(&good).await && known(&their_token).await);
        assert!(!known(&future).await && !known(&tampered).await && !known("a.b.c").await);
        clients::disable(flows, tenant, made.client).await.unwrap();
        assert!(!known(&their_token).await);
        desk.app.clock.advance(time::Duration::MINUTE * 20);
        assert!(!known(&good).await);
    })
    .await;
}

// --- RFC 7517, 7518 and 8414: what is published

#[tokio::test(flavor = "multi_thread")]
async fn the_key_set_is_well_formed() {
    let desk = Desk::open().await;
    let set = desk.app.stranger().get("/.well-known/jwks.json").await.expect(200).json();
    let mut kids = vec![];
    for key in set["keys"].as_array().unwrap() {
        assert_eq!((&key["kty"], &key["use"], &key["alg"]), (&json!("RSA"), &json!("sig"), &json!("RS256")));
        // RFC 7518, 6.3.1: base64url without padding, the fewest bytes that hold the number.
        let modulus = URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap();
        assert!(modulus[0] != 0 && modulus.len() * 8 >= 2_048);
        assert_eq!(key["e"], "AQAB");
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        assert!(private.iter().all(|member| key.get(member).is_none()), "{key}");
        kids.push(key["kid"].as_str().unwrap().to_owned());
    }
    assert!(!kids.is_empty());
    let count = kids.len();
    kids.sort();
    kids.dedup();
    assert_eq!(kids.len(), count, "each key has a name of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_is_that_of_its_issuer() {
    let desk = Desk::open().await;
    let answer = desk.app.stranger().get("/.well-known/oauth-authorization-server").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let metadata = answer.json();
    assert_eq!(metadata["issuer"], claims_of(&desk.token().await)["iss"]);
    let issuer = metadata["issuer"].as_str().unwrap();
    assert!(issuer.starts_with("https://") && !issuer.contains(['?', '#']));
    assert_eq!(metadata["response_types_supported"], json!([]), "required, and there is no authorization endpoint");
    for (name, value) in metadata.as_object().unwrap() {
        let empty = value.as_array().is_some_and(Vec::is_empty);
        assert!(!empty || name == "response_types_supported", "{name} has no element");
        if name.ends_with("_endpoint") || name.ends_with("_uri") {
            assert!(value.as_str().unwrap().starts_with(issuer), "{name}: {value}");
        }
        if name.ends_with("_alg_values_supported") {
            assert!(!value.as_array().unwrap().contains(&json!("none")), "{name}");
        }
    }
}

// --- RFC 7523: a client that signs

struct Signer<'a> {
    desk: &'a Desk,
    id: String,
}

impl<'a> Signer<'a> {
    async fn make(desk: &'a Desk) -> Self {
        let flows = desk.app.running.flows();
        let tenant = clients::create_tenant(flows, "signers").await.unwrap();
        let key = AssertionKey::from_pem(PUBLIC).unwrap();
        let id = clients::create_for_key(flows, tenant, "signer", &key, Scopes::client_app()).await.unwrap();
        Self { desk, id: id.to_string() }
    }

    /// A good assertion with some claims changed; `null` takes one away.
    fn assertion(&self, changes: Value) -> String {
        let now = self.desk.app.clock.now().unix_timestamp();
        let mut claims = json!({ "iss": self.id, "sub": self.id, "aud": format!("{ISSUER}/oauth/token"),
            "exp": now + 60, "iat": now, "jti": uuid::Uuid::now_v7().to_string() });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        encode(&Header::new(Algorithm::RS256), &claims, &EncodingKey::from_rsa_pem(PRIVATE.as_bytes()).unwrap())
            .unwrap()
    }

    async fn ask(&self, path: &str, assertion: &str, form: &[(&str, &str)]) -> Answer {
        self.desk.ask(path, &[&[ASSERTION, ("client_assertion", assertion)], form].concat()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_breaks_a_rule_buys_nothing() {
    let desk = Desk::open().await;
    let signer = Signer::make(&desk).await;
    let now = desk.app.clock.now().unix_timestamp();
    let buy = async |assertion: &str| signer.ask("/oauth/token", assertion, &[GRANT]).await;
    buy(&signer.assertion(json!({}))).await.expect(200);
    buy(&signer.assertion(json!({ "aud": ISSUER }))).await.expect(200);
    for broken in [
        json!({ "iss": null }),
        json!({ "iss": desk.id }),
        json!({ "sub": null }),
        json!({ "sub": desk.id }),
        json!({ "aud": null }),
        json!({ "aud": [] }),
        json!({ "aud": "https://elsewhere/oauth/token" }),
        json!({ "aud": format!("{ISSUER}/oauth/revoke") }),
        json!({ "exp": null }),
        json!({ "exp": now - 60 }),
        json!({ "exp": now + 3_600 }),
        json!({ "exp": 253_402_300_799_i64 }),
        json!({ "nbf": now + 60 }),
        json!({ "iat": now + 60 }),
        json!({ "jti": null }),
        json!({ "jti": "" }),
    ] {
        let answer = buy(&signer.assertion(broken.clone())).await;
        assert_refused(&answer, 401, "invalid_client");
    }
    let good = signer.assertion(json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let claims = good.split('.').nth(1).unwrap();
    for forged in [
        format!("{unsigned}.{claims}."),
        format!("{signed}."),
        format!("{signed}.{}", signature.chars().rev().collect::<String>()),
        format!("{good} {good}"),
        good.split('.').next().unwrap().to_owned(),
    ] {
        assert_refused(&buy(&forged).await, 401, "invalid_client");
    }
    buy(&good).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_good_once_at_whichever_endpoint() {
    each_database(|app| async move {
        let desk = Desk::around(app);
        let signer = Signer::make(&desk).await;
        let token = signer.ask("/oauth/token", &signer.assertion(json!({})), &[GRANT]).await.expect(200).json();
        let token = token["access_token"].as_str().unwrap();
        for first in ENDPOINTS {
            for second in ENDPOINTS {
                let assertion = signer.assertion(json!({}));
                // A token that is nobody's: nothing is ended in between.
                let form = [GRANT, ("token", if first == "/oauth/introspect" { token } else { "a.b.c" })];
                signer.ask(first, &assertion, &form).await.expect(200);
                assert_refused(&signer.ask(second, &assertion, &form).await, 401, "invalid_client");
            }
        }
        // The id is the client's own: another client may have chosen the same one.
        let other = Signer::make(&desk).await;
        let same = json!({ "jti": "one" });
        signer.ask("/oauth/token", &signer.assertion(same.clone()), &[GRANT]).await.expect(200);
        other.ask("/oauth/token", &other.assertion(same.clone()), &[GRANT]).await.expect(200);
        assert_refused(&other.ask("/oauth/token", &other.assertion(same), &[GRANT]).await, 401, "invalid_client");
    })
    .await;
}

/// RFC 8725, 3.12: one kind of JWT never passes for another.
#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_no_access_token_and_an_access_token_no_assertion() {
    let desk = Desk::open().await;
    let signer = Signer::make(&desk).await;
    let assertion = signer.assertion(json!({}));
    let as_bearer = Client { token: Some(assertion.clone()), ..desk.app.stranger() };
    as_bearer.get("/v1/models").await.expect_problem(401, "token_invalid");
    assert_eq!(
        desk.ask_known("/oauth/introspect", &[("token", &assertion)]).await.expect(200).json(),
        json!({ "active": false })
    );
    let token = signer.ask("/oauth/token", &assertion, &[GRANT]).await.expect(200).json();
    let token = token["access_token"].as_str().unwrap();
    assert_refused(&signer.ask("/oauth/token", token, &[GRANT]).await, 401, "invalid_client");
}
