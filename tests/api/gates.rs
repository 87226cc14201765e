//! Nobody's face is looked at without a yes, and nobody's whose data are restricted: every route that takes a photo, as the route table and the document have them,
//! with a real photo of somebody who has not agreed, in every way of not having agreed.
//!
//! A new route is in here by itself. If it takes a photo it must ask for a consent; if it takes none it must say so, which is
//! how a route that takes one and is not documented to is found.

use reqwest::{Method, multipart::Form, multipart::Part};
use serde_json::{Value, json};
use time::Duration;
use velum::{
    auth::Role,
    flows::clients,
    http::{ROUTES, openapi},
};

use super::helpers::{Answer, Client, TestApp, each_database, photos};

/// A route of the table that answers to POST.
struct Gate {
    path: &'static str,
    /// The document says that it takes an image.
    takes_a_face: bool,
}

fn gates() -> Vec<Gate> {
    let document: Value = serde_json::from_str(openapi::document_json()).unwrap();
    let takes_a_face = |path: &str| {
        let content = document["paths"][path]["post"]["requestBody"]["content"].as_object();
        content.is_some_and(|content| content.keys().any(|kind| kind.starts_with("image/")))
    };
    let posts = ROUTES.iter().filter(|row| row.methods.split(", ").any(|method| method == "POST"));
    posts.map(|row| Gate { path: row.path, takes_a_face: takes_a_face(row.path) }).collect()
}

/// Somebody of a tenant of their own, with whatever consents, and the client that asks about them.
struct Person {
    client: Client,
    subject: String,
}

impl Person {
    async fn new(app: &TestApp) -> Self {
        let flows = app.running.flows();
        let tenant = clients::create_tenant(flows, "a tenant").await.unwrap();
        let made = clients::create(flows, tenant, "everything", Role::Admin.scopes()).await.unwrap();
        let client = app.stranger().with_token(&made.client.to_string(), made.secret.expose_text(), "").await;
        let subject = client.subject().await;
        Self { client, subject }
    }

    async fn agree(&self, body: Value) -> String {
        self.client.post(&format!("/v1/subjects/{}/consents", self.subject), body).await.expect(201).id()
    }

    async fn enrol(&self) {
        self.client.enrol(&self.subject, photos::hopper()).await.expect(201);
    }

    async fn publish(&self, version: &str, material_change: bool) {
        let notice = json!({
            "purpose": "face_verification", "version": version, "language": "en", "text": "We compare your face.",
            "controller": { "name": "Example Bank", "contact": "privacy@bank.example" }, "retention": "P3Y",
            "data_categories": ["face template"], "material_change": material_change,
        });
        self.client.post("/v1/notices", notice).await.expect(201);
    }

    /// A photo, as a form or bare.
    async fn send_face(&self, gate: &Gate, as_form: bool) -> Answer {
        let key = self.client.post("/v1/api-keys", json!({ "name": "a", "scopes": [] })).await.expect(201).id();
        let consents = self.client.get(&format!("/v1/subjects/{}/consents", self.subject)).await.expect(200).json();
        let consent = consents["data"][0]["id"].as_str().unwrap_or("none").to_owned();
        let other = json!({ "subject_id": self.client.subject().await });
        let erasure = self.client.post("/v1/erasure-requests", other).await.expect(201).id();
        let access = json!({ "subject_id": self.client.subject().await });
        let access = self.client.post("/v1/access-requests", access).await.expect(201).id();
        let subject = self.subject.as_str();
        let things = [
            ("{subject}", subject),
            ("{key}", &key),
            ("{consent}", &consent),
            ("{erasure}", &erasure),
            ("{access}", &access),
        ];
        let path = things.iter().fold(gate.path.to_owned(), |path, (name, id)| path.replace(name, id));
        assert!(!path.contains('{'), "{path}: this test has nothing of that name; give it one");
        let request = self.client.request(Method::POST, &path);
        let request = match as_form {
            true => request.multipart(Form::new().part("image", Part::bytes(photos::hopper()).file_name("face"))),
            false => request.header("content-type", "image/jpeg").body(photos::hopper()),
        };
        self.client.send(request).await
    }
}

fn stored(app: &TestApp) -> [i64; 4] {
    let (main, journal) = (&app.databases.main, &app.databases.journal);
    let of_main = ["enrolments", "verifications", "verification_attempts"];
    let [enrolments, verifications, attempts] = of_main.map(|table| app.databases.count(main, table, "1 = 1"));
    [enrolments, verifications, attempts, app.databases.count(journal, "opened_verifications", "1 = 1")]
}

const VERIFICATION: &str = "face_verification";

/// Everybody who has not agreed, or not any more, or whose yes is not to be used now, and the code that says so.
async fn those_who_have_not_agreed(app: &TestApp) -> Vec<(&'static str, Person, &'static str)> {
    let never = Person::new(app).await;

    let otherwise = Person::new(app).await;
    for purpose in ["face_identification", "newsletter"] {
        otherwise.agree(json!({ "purpose": purpose, "notice_version": "1" })).await;
    }

    let withdrawn = Person::new(app).await;
    withdrawn.agree(json!({ "purpose": VERIFICATION, "notice_version": "1" })).await;
    let consent = withdrawn.agree(json!({ "purpose": VERIFICATION, "notice_version": "1" })).await;
    withdrawn.enrol().await;
    withdrawn.client.withdraw(&withdrawn.subject, &consent).await.expect(200);

    let superseded = Person::new(app).await;
    superseded.publish("1", false).await;
    superseded.agree(json!({ "purpose": VERIFICATION, "notice_version": "1" })).await;
    superseded.enrol().await;
    superseded.publish("2", true).await;

    let restricted = Person::new(app).await;
    restricted.agree(json!({ "purpose": VERIFICATION, "notice_version": "1" })).await;
    restricted.enrol().await;
    let restriction = format!("/v1/subjects/{}/restriction", restricted.subject);
    restricted.client.post(&restriction, json!({ "reason": "objection" })).await.expect(200);

    let expired = Person::new(app).await;
    let expires_at = app.clock_in(Duration::MINUTE);
    expired.agree(json!({ "purpose": VERIFICATION, "notice_version": "1", "expires_at": expires_at })).await;
    expired.enrol().await;
    app.clock.advance(Duration::MINUTE);

    vec![
        ("nobody asked", never, "consent_required"),
        ("another purpose", otherwise, "consent_required"),
        ("withdrawn", withdrawn, "consent_required"),
        ("superseded", superseded, "consent_superseded"),
        // Has agreed, and still does.
        ("restricted", restricted, "subject_restricted"),
        ("expired", expired, "consent_required"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_takes_a_face_without_an_active_consent() {
    each_database(|app| async move {
        let gates = gates();
        assert!(gates.iter().filter(|gate| gate.takes_a_face).count() >= 2, "enrolment and verification at least");
        let people = those_who_have_not_agreed(&app).await;
        let before = stored(&app);
        for (what, person, code) in &people {
            for (gate, as_form) in gates.iter().flat_map(|gate| [(gate, true), (gate, false)]) {
                let answer = person.send_face(gate, as_form).await;
                let told = format!("{what}: POST {}: {} {}", gate.path, answer.status, answer.text);
                if gate.takes_a_face {
                    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (403, &json!(code)), "{told}");
                } else {
                    // Whoever wants no photo says so before anything else; the endpoints of OAuth have their own words.
                    let refused: &[u16] = match gate.path {
                        path if path.starts_with("/oauth/") => &[400],
                        // Whoever never agreed has no consent to withdraw.
                        path if path.contains("{consent}") => &[404, 415],
                        _ => &[415],
                    };
                    assert!(refused.contains(&answer.status.as_u16()), "{told}");
                }
            }
        }
        assert_eq!(stored(&app), before, "something was stored");
    })
    .await;
}

/// Otherwise the test above would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_photo_passes_every_gate_with_an_active_consent() {
    each_database(|app| async move {
        let person = Person::new(&app).await;
        person.agree(json!({ "purpose": VERIFICATION, "notice_version": "1" })).await;
        person.enrol().await;
        let before = stored(&app);
        for gate in gates().iter().filter(|gate| gate.takes_a_face) {
            person.send_face(gate, true).await.expect(201);
            person.send_face(gate, false).await.expect(201);
        }
        assert!(stored(&app)[..2] > before[..2]);
    })
    .await;
}
