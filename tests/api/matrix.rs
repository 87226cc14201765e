//! Who may call what: every operation of the OpenAPI document, with every kind of credential, on everybody's data.
//!
//! The requests are built from the document, and so is what each must be answered with: an operation says in its `security`
//! which scope opens it, a role says which scopes it has, and the rest are three rules. Without a good credential: 401.
//! Without the scope: 403. With both, on what is not one's own: 404, the same to the last byte whether the thing is
//! somebody else's or nobody's. A new operation is in here by itself, and fails until [`body_of`] knows its body.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;
use velum::{
    auth::{
        Role, Scope, Scopes,
        api_key::{ApiKey, Environment},
    },
    domain::{clock::Clock as _, id::TenantId},
    flows::{clients, erasures},
    http::openapi,
};

use super::helpers::{
    Answer, Client, TestApp, claims_of, each_database_with, photos, signed_like, signing_key, uuid_of_four,
};

/// Cells on each database. Raise it when the document grows: a matrix that shrinks unseen proves less and less.
const CELLS_MIN: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_every_caller_as_the_document_says() {
    // Without a worker, which would end what is still to be cancelled.
    each_database_with(&[("WORKER", "separate")], |app| async move {
        let house = House::build(&app).await;
        let (operations, columns) = (operations(), columns(&app, &house).await);
        let before = house.what_nobody_may_touch().await;
        let mut cells = 0;
        for operation in &operations {
            for column in &columns {
                cells += check(&house, operation, column).await;
            }
        }
        assert_eq!(house.what_nobody_may_touch().await, before);
        println!("{:?}: {cells} cells, {} operations, {} callers", app.databases.kind, operations.len(), columns.len());
        assert!(cells >= CELLS_MIN, "{cells} cells");
    })
    .await;
}

/// One row of cells: an operation and a caller, on each target there is. Their number.
async fn check(house: &House<'_>, operation: &Operation, column: &Column) -> usize {
    let expected = expectation(operation, column);
    let mut not_his: Option<(Target, Answer)> = None;
    let mut cells = 0;
    for &target in operation.targets() {
        let path = match (&expected, target) {
            // An operation may end what it is called on.
            (Expected::Admitted, Target::Own) => operation.path_with(&house.new_things(operation).await),
            _ => operation.path_with(&house.things(target)),
        };
        let answer = house.ask(&operation.method, operation, column.bearer.as_deref(), &path).await;
        let cell = format!("{} {} by {} on {target:?}: {}", operation.method, path, column.name, answer.text);
        match (&expected, target) {
            (Expected::Open, _) => {
                let anonymous = house.ask(&operation.method, operation, None, &path).await;
                assert_eq!((anonymous.status, &anonymous.text), (answer.status, &answer.text), "{cell}");
                assert!(operation.documents(answer.status.as_u16()), "{cell}");
            }
            (Expected::Refused { status, code, challenge }, _) => {
                assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (*status, &json!(code)), "{cell}");
                assert_eq!(answer.header("www-authenticate"), Some(*challenge), "{cell}");
                assert!(operation.documents_code(*status, code), "the document does not name this: {cell}");
            }
            (Expected::Admitted, Target::Own) => {
                assert!(answer.status.is_success() && operation.documents(answer.status.as_u16()), "{cell}");
            }
            (Expected::Admitted, _) => {
                assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (404, &json!("not_found")), "{cell}");
                assert!(operation.documents_code(404, "not_found"), "the document does not name this: {cell}");
                let (other, same) = not_his.get_or_insert_with(|| (target, answer.clone()));
                assert_eq!(
                    (&same.text, told(&same.headers)),
                    (&answer.text, told(&answer.headers)),
                    "as {other:?}: {cell}"
                );
            }
        }
        cells += 1;
        // HEAD is GET without its body, for every caller alike.
        if operation.method == Method::GET {
            let head = house.ask(&Method::HEAD, operation, column.bearer.as_deref(), &path).await;
            assert_eq!((head.status, head.text.as_str()), (answer.status, ""), "HEAD: {cell}");
            cells += 1;
        }
    }
    cells
}

/// What the rules say of an operation and a caller.
enum Expected {
    /// The operation asks nobody who he is: the same answer as to a stranger.
    Open,
    Refused {
        status: u16,
        code: &'static str,
        challenge: &'static str,
    },
    /// The rest depends on whose thing it is.
    Admitted,
}

const INVALID: &str = r#"Bearer error="invalid_token""#;

fn expectation(operation: &Operation, column: &Column) -> Expected {
    match (&operation.needs, &column.standing) {
        (None, _) => Expected::Open,
        (Some(_), Standing::Refused(code @ "token_missing")) => {
            Expected::Refused { status: 401, code, challenge: r#"Bearer realm="velum""# }
        }
        (Some(_), Standing::Refused(code)) => Expected::Refused { status: 401, code, challenge: INVALID },
        (Some(needed), Standing::Good(scopes)) if scopes.covers(needed) => Expected::Admitted,
        (Some(_), Standing::Good(_)) => {
            let challenge = r#"Bearer error="insufficient_scope""#;
            Expected::Refused { status: 403, code: "scope_missing", challenge }
        }
    }
}

/// Whose things the ids of a path name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Own,
    /// All of another tenant.
    Foreign,
    /// Well-formed ids of nothing.
    Absent,
    /// No ids at all.
    Nonsense,
    /// What is under a person: of another tenant, the person one's own.
    ForeignPart,
    AbsentPart,
}

/// One operation of the document.
struct Operation {
    method: Method,
    path: String,
    /// The scopes that open it, the same for tokens and API keys; `None` for anybody.
    needs: Option<Scopes>,
    described: Value,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(openapi::document_json()).unwrap();
    let paths = document["paths"].as_object().unwrap().clone();
    let each = paths.into_iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().clone().into_iter();
        methods.map(move |(method, described)| Operation::read(&method, &path, described))
    });
    each.collect()
}

impl Operation {
    fn read(method: &str, path: &str, described: Value) -> Self {
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let stated = described["security"].as_array().unwrap_or_else(|| panic!("{method} {path} states no security"));
        let by_scheme = |scheme: &str| {
            let names = stated.iter().find_map(|one| one[scheme].as_array())?;
            Some(names.iter().map(|name| name.as_str().unwrap().parse::<Scope>().unwrap()).collect::<Scopes>())
        };
        let needs = by_scheme("oauth2");
        assert_eq!(needs, by_scheme("api_key"), "{method} {path}: a key opens what a token opens");
        assert_eq!(needs.is_none(), stated.is_empty(), "{method} {path}: {stated:?}");
        Self { method, path: path.to_owned(), needs, described }
    }

    /// The names in the path, in order.
    fn ids(&self) -> Vec<&str> {
        self.path.split(['{', '}']).skip(1).step_by(2).collect()
    }

    fn path_with(&self, things: &Things) -> String {
        let fill = |path: String, name: &str| {
            let id = things.get(name).unwrap_or_else(|| panic!("nothing is made for {{{name}}}: see `things_of`"));
            path.replace(&format!("{{{name}}}"), id)
        };
        self.ids().into_iter().fold(self.path.clone(), fill)
    }

    fn targets(&self) -> &'static [Target] {
        use Target::*;
        match self.ids().len() {
            0 => &[Own],
            1 => &[Own, Foreign, Absent, Nonsense],
            _ => &[Own, Foreign, Absent, Nonsense, ForeignPart, AbsentPart],
        }
    }

    fn documents(&self, status: u16) -> bool {
        self.described["responses"].get(status.to_string()).is_some()
    }

    fn documents_code(&self, status: u16, code: &str) -> bool {
        let description = self.described["responses"][status.to_string()]["description"].as_str().unwrap_or_default();
        description.split([' ', ',', '.']).any(|word| word == code)
    }
}

/// A body that an operation takes. The form of `/oauth` names no client: what counts there is not the bearer.
/// `subject`: somebody of the tenant.
fn body_of(operation: &Operation, request: RequestBuilder, photo: &[u8], subject: &str) -> RequestBuilder {
    if operation.described.get("requestBody").is_none() {
        return request;
    }
    let form = |text: &'static str| ("application/x-www-form-urlencoded", text.as_bytes().to_vec());
    let json = |value: Value| ("application/json", value.to_string().into_bytes());
    let (content_type, bytes) = match format!("{} {}", operation.method, operation.path).as_str() {
        "POST /oauth/token" => form("grant_type=client_credentials"),
        "POST /oauth/revoke" | "POST /oauth/introspect" => form("token=any"),
        "POST /v1/subjects" | "PATCH /v1/subjects/{subject}" => {
            json(json!({ "external_ref": Uuid::now_v7().to_string() }))
        }
        "POST /v1/subjects/{subject}/restriction" => json(json!({ "reason": "objection" })),
        "POST /v1/subjects/{subject}/consents" => {
            json(json!({ "purpose": "face_verification", "notice_version": "1" }))
        }
        "POST /v1/subjects/{subject}/consents/{consent}/withdraw" => json(json!({ "method": "app" })),
        "POST /v1/notices" => json(new_notice()),
        "POST /v1/subjects/{subject}/enrolments" | "POST /v1/subjects/{subject}/verifications" => {
            ("image/jpeg", photo.to_vec())
        }
        "POST /v1/erasure-requests" | "POST /v1/access-requests" => json(json!({ "subject_id": subject })),
        "POST /v1/access-requests/{access}/verify" => json(json!({ "recipient": RECIPIENT })),
        "POST /v1/erasure-requests/{erasure}/reject"
        | "POST /v1/erasure-requests/{erasure}/hold"
        | "POST /v1/access-requests/{access}/reject" => json(json!({ "reason": "a duty" })),
        "POST /opendsr/v1/requests" => json(passed_on(subject)),
        "POST /v1/api-keys" => json(json!({ "name": "another", "scopes": [] })),
        "POST /v1/api-keys/{key}/roll" => json(json!({ "overlap_s": 60 })),
        unknown => panic!("{unknown} takes a body, and this test does not know one: add it to `body_of`"),
    };
    request.header("content-type", content_type).body(bytes)
}

/// A kind of caller.
struct Column {
    name: String,
    bearer: Option<String>,
    standing: Standing,
}

enum Standing {
    Good(Scopes),
    /// With this code, whatever the operation.
    Refused(&'static str),
}

/// Each role with a token and with a key, and each way in which either can be bad. The bad ones have every scope: what they
/// are refused for is that they are bad.
async fn columns(app: &TestApp, house: &House<'_>) -> Vec<Column> {
    let mut columns = vec![];
    let mut add = |name: String, bearer: Option<String>, standing| columns.push(Column { name, bearer, standing });
    for role in Role::ALL {
        let (token, key) = (house.token(role).await, house.key(role.scopes(), None).await.1);
        add(format!("a token of {role}"), Some(token), Standing::Good(role.scopes()));
        add(format!("a key of {role}"), Some(key), Standing::Good(role.scopes()));
    }
    let good = house.token(Role::Admin).await;
    let now = app.clock.now().unix_timestamp();
    // A good token with one claim changed, signed with the server's own key.
    let changed = |claim: &str, value: Value| {
        let mut claims = claims_of(&good);
        claims[claim] = value;
        signed_like(&good, &claims, &signing_key(app))
    };
    let unsigned = {
        let claims = good.split('.').nth(1).unwrap();
        format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#))
    };
    let key_of_another = include_str!("../fixtures/keys/test_only_rsa_2048_one.pem");
    let unknown_key = ApiKey::generate(Environment::Test).expose_text().to_owned();
    let ended_key = {
        let (id, key) = house.key(Role::Admin.scopes(), None).await;
        house.admin.delete(&format!("/v1/api-keys/{id}")).await.expect(204);
        key
    };
    let expired_key = {
        let (_, key) = house.key(Role::Admin.scopes(), Some(app.clock_in(time::Duration::seconds(1)))).await;
        app.clock.advance(time::Duration::seconds(1));
        key
    };
    for (name, bearer, code) in [
        ("nobody", None, "token_missing"),
        ("a malformed token", Some("nonsense".to_owned()), "token_invalid"),
        ("an unsigned token", Some(unsigned), "token_invalid"),
        ("a token for another audience", Some(changed("aud", json!("billing"))), "token_invalid"),
        ("a token of another issuer", Some(changed("iss", json!("https://elsewhere"))), "token_invalid"),
        ("a token signed by another key", Some(signed_like(&good, &claims_of(&good), key_of_another)), "token_invalid"),
        ("an expired token", Some(changed("exp", json!(now - 60))), "token_expired"),
        ("a token of tomorrow", Some(changed("nbf", json!(now + 86_400))), "token_not_yet_valid"),
        ("a revoked token", Some(house.revoked_token().await), "token_revoked"),
        ("a token of a disabled client", Some(house.token_of_a_disabled_client().await), "token_revoked"),
        ("a malformed key", Some(unknown_key[..unknown_key.len() - 1].to_owned()), "api_key_invalid"),
        ("a key that was never made", Some(unknown_key), "api_key_invalid"),
        ("an expired key", Some(expired_key), "api_key_expired"),
        ("a revoked key", Some(ended_key), "api_key_revoked"),
    ] {
        add(name.to_owned(), bearer, Standing::Refused(code));
    }
    // The means are good: a token that was taken apart and put together again unchanged opens what it opened.
    add(
        "a token put together again".to_owned(),
        Some(changed("aud", json!("velum"))),
        Standing::Good(Role::Admin.scopes()),
    );
    columns
}

/// Ids by their names in paths.
type Things = BTreeMap<String, String>;

/// Our tenant, its neighbour, and something of each kind on both sides.
struct House<'a> {
    app: &'a TestApp,
    tenant: TenantId,
    admin: Client,
    neighbour: Client,
    ours: Things,
    theirs: Things,
    photo: Vec<u8>,
}

impl<'a> House<'a> {
    async fn build(app: &'a TestApp) -> Self {
        let flows = app.running.flows();
        let (tenant, other) = ("ours", "the neighbour's");
        let tenant = clients::create_tenant(flows, tenant).await.unwrap();
        let other = clients::create_tenant(flows, other).await.unwrap();
        let (admin, neighbour) = (admin_of(app, tenant).await, admin_of(app, other).await);
        let photo = photos::hopper();
        let (ours, theirs) = (things_of(&admin, &photo).await, things_of(&neighbour, &photo).await);
        Self { app, tenant, admin, neighbour, ours, theirs, photo }
    }

    /// The answer, without what is of this one request: its id and its path.
    async fn ask(&self, method: &Method, operation: &Operation, bearer: Option<&str>, path: &str) -> Answer {
        let client = Client { token: bearer.map(str::to_owned), ..self.admin.clone() };
        // Of one who may be named in a body, and erased by it.
        let names_somebody =
            ["/v1/erasure-requests", "/v1/access-requests", "/opendsr/v1/requests"].contains(&operation.path.as_str());
        let named = if names_somebody { self.admin.subject().await } else { String::new() };
        let request = body_of(operation, client.request(method.clone(), path), &self.photo, &named);
        let mut answer = client.send(request).await;
        let id = answer.header("x-request-id").expect("every answer has an id").to_owned();
        let instance = format!("\"instance\":\"{path}\"");
        answer.text = answer.text.replace(&id, "").replace(&instance, r#""instance":"""#);
        answer
    }

    /// What the names of a path stand for. `Own` is not to be changed by anybody: see [`Self::new_things`].
    fn things(&self, target: Target) -> Things {
        let made = |name: &str, id: &str, ours: &str| match target {
            Target::Own => ours.to_owned(),
            Target::Foreign => id.to_owned(),
            Target::Absent => absent_like(id),
            Target::Nonsense => "nonsense".to_owned(),
            Target::ForeignPart if name != "subject" => id.to_owned(),
            Target::AbsentPart if name != "subject" => absent_like(id),
            Target::ForeignPart | Target::AbsentPart => ours.to_owned(),
        };
        self.theirs.iter().map(|(name, id)| (name.clone(), made(name, id, &self.ours[name]))).collect()
    }

    async fn new_things(&self, operation: &Operation) -> Things {
        if operation.ids().is_empty() {
            return Things::new();
        }
        let things = things_of(&self.admin, &self.photo).await;
        let erasure = format!("/v1/erasure-requests/{}", things["erasure"]);
        match operation.path.rsplit('/').next() {
            Some("release") => {
                self.admin.post(&format!("{erasure}/hold"), json!({ "reason": "a duty" })).await.expect(200);
            }
            Some("package") => {
                let path = format!("/v1/access-requests/{}/verify", things["access"]);
                self.admin.post(&path, json!({ "recipient": RECIPIENT })).await.expect(200);
            }
            Some("certificate") => {
                self.admin.post_empty(&format!("{erasure}/verify")).await.expect(200);
                let request = things["erasure"].parse().unwrap();
                erasures::execute(self.app.running.flows(), self.tenant, request).await.unwrap();
            }
            _ => {}
        }
        things
    }

    async fn token(&self, role: Role) -> String {
        token_with(self.app, self.tenant, role.scopes()).await.1
    }

    /// Id and text of a new API key.
    async fn key(&self, scopes: Scopes, expires_at: Option<String>) -> (String, String) {
        let scopes: Vec<_> = scopes.iter().map(Scope::as_str).collect();
        let body = json!({ "name": "matrix", "scopes": scopes, "expires_at": expires_at });
        let made = self.admin.post("/v1/api-keys", body).await.expect(201);
        (made.id(), made.json()["key"].as_str().unwrap().to_owned())
    }

    async fn revoked_token(&self) -> String {
        let (form, token) = token_with(self.app, self.tenant, Role::Admin.scopes()).await;
        let form = [("client_id", form.0.as_str()), ("client_secret", form.1.as_str()), ("token", token.as_str())];
        self.app.stranger().post_oauth("/oauth/revoke", &form).await.expect(200);
        token
    }

    async fn token_of_a_disabled_client(&self) -> String {
        let ((client, _), token) = token_with(self.app, self.tenant, Role::Admin.scopes()).await;
        clients::disable(self.app.running.flows(), self.tenant, client.parse().unwrap()).await.unwrap();
        token
    }

    /// The neighbour's things, and those of ours that no operation was let in on.
    async fn what_nobody_may_touch(&self) -> Vec<Value> {
        let mut seen = vec![];
        for (owner, things) in [(&self.admin, &self.ours), (&self.neighbour, &self.theirs)] {
            let subject = format!("/v1/subjects/{}", things["subject"]);
            let notice = format!("/v1/notices/{}", things["notice"]);
            for path in [subject.clone(), format!("{subject}/consents"), format!("{subject}/enrolments"), notice] {
                seen.push(owner.get(&path).await.expect(200).json());
            }
        }
        seen.push(self.neighbour.get("/v1/api-keys").await.expect(200).json());
        seen
    }
}

async fn admin_of(app: &TestApp, tenant: TenantId) -> Client {
    Client { token: Some(token_with(app, tenant, Role::Admin.scopes()).await.1), ..app.stranger() }
}

/// A new client's credential, and a token bought with it.
async fn token_with(app: &TestApp, tenant: TenantId, scopes: Scopes) -> ((String, String), String) {
    let made = clients::create(app.running.flows(), tenant, "matrix", scopes.clone()).await.unwrap();
    let credential = (made.client.to_string(), made.secret.expose_text().to_owned());
    let form = [("grant_type", "client_credentials"), ("client_id", &credential.0), ("client_secret", &credential.1)];
    let answer = app.stranger().post_token(&form).await.expect(200).json();
    let given: Scopes = answer["scope"].as_str().unwrap_or_default().parse().unwrap();
    assert_eq!((given, answer.get("scope").is_none()), (scopes.clone(), scopes.is_empty()));
    let token = answer["access_token"].as_str().unwrap().to_owned();
    (credential, token)
}

/// Something of each kind that a path can name, by that name: a person who agreed and is enrolled, and a key.
async fn things_of(client: &Client, photo: &[u8]) -> Things {
    let subject = client.subject().await;
    let consent = client.consent(&subject).await;
    let enrolment = client.enrol(&subject, photo.to_vec()).await.expect(201).id();
    let key = client.post("/v1/api-keys", json!({ "name": "a", "scopes": ["subjects"] })).await.expect(201).id();
    let other = json!({ "subject_id": client.subject().await });
    let erasure = client.post("/v1/erasure-requests", other).await.expect(201).id();
    let access = json!({ "subject_id": subject });
    let access = client.post("/v1/access-requests", access).await.expect(201).id();
    let notice = client.post("/v1/notices", new_notice()).await.expect(201).id();
    let wish = client.post("/opendsr/v1/requests", passed_on(&client.subject().await)).await.expect(201);
    let wish = wish.json()["subject_request_id"].as_str().unwrap().to_owned();
    let made = [
        ("subject", subject),
        ("consent", consent),
        ("enrolment", enrolment),
        ("key", key),
        ("erasure", erasure),
        ("access", access),
        // Nobody's: what a good one leads to is in `access_requests`.
        ("token", format!("velum_package_{}", "0".repeat(64))),
        ("notice", notice),
        ("request", wish),
    ];
    made.into_iter().map(|(name, id)| (name.to_owned(), id)).collect()
}

/// A public key whose other half nobody kept.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn passed_on(subject: &str) -> Value {
    json!({
        "subject_request_id": uuid_of_four(), "subject_request_type": "erasure", "submitted_time": "2026-11-01T00:00:00Z",
        "subject_identities": [{
            "identity_type": "controller_customer_id", "identity_value": subject, "identity_format": "raw",
        }],
    })
}

fn new_notice() -> Value {
    json!({
        "purpose": "newsletter", "version": Uuid::now_v7().to_string(), "language": "en", "text": "We write.",
        "controller": { "name": "a", "contact": "b" }, "retention": "P1Y", "data_categories": ["address"],
    })
}

/// An id of the same kind that names nothing.
fn absent_like(id: &str) -> String {
    if !id.contains('_') {
        return uuid_of_four();
    }
    format!("{}_{}", id.split_once('_').unwrap().0, Uuid::now_v7().simple())
}

/// The headers that a caller could tell two answers apart by.
fn told(headers: &HeaderMap) -> Vec<(String, String)> {
    // Whether a connection stays open depends on how much of a body had come by then.
    const OF_ONE_REQUEST: &[&str] = &["connection", "content-length", "date", "ratelimit", "x-request-id"];
    let named = headers.iter().filter(|(name, _)| !OF_ONE_REQUEST.contains(&name.as_str()));
    let mut told: Vec<_> =
        named.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
    told.sort();
    told
}
