//! The console in a real Chromium: an officer walks from a request to its certificate with the keyboard alone, and axe-core finds
//! nothing on any page, light or dark (tests/console/walk.py). Pictures of every page are kept below target/console.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use velum::{auth::evidence::EvidenceVerifier, console::PATHS, flows::certificate};

use super::helpers::{Client, Process, photos};

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_walks_from_a_request_to_its_certificate_in_a_browser() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    let client = server.client().await;
    let subject = person(&client, "member-4711").await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    client.verify(&subject, photos::collins()).await.expect(201);
    let other = person(&client, "member-0815").await;
    late_request(&officer(&server).await, &other).await;

    let pictures = target().join("console");
    let _of_the_run_before = std::fs::remove_dir_all(&pictures);
    let account = account(&server);
    let told = walk(&json!({
        "base": client.base,
        "pictures": pictures,
        "reference": "member-4711",
        "subject": subject,
        "other": other,
        "other_reference": "member-0815",
        "new_password": "a few words of no connection",
        "name": "officer@example.org",
        "password": account["password"],
        "authenticator": account["authenticator"],
    }));
    assert!(told.contains("pages, each light, dark and narrow"), "{told}");

    // What the officer hands out is good for anybody who has the keys.
    let jws = std::fs::read_to_string(pictures.join("certificate.jws")).unwrap();
    let keys = client.get("/.well-known/evidence-jwks.json").await.expect(200).text;
    let certificate = certificate::verify(&jws, &EvidenceVerifier::from_jwks(&keys).unwrap()).unwrap();
    assert_eq!(certificate.destroyed.iter().find(|line| line.what == "template ciphertexts").unwrap().count, Some(1));
    client.get(&format!("/v1/subjects/{subject}")).await.expect_problem(404, "not_found");
    every_page_was_looked_at(&serde_json::from_str(told.lines().last().unwrap()).unwrap());
}

/// Addresses that answer with no page of their own: a file, or the way to another page.
const NO_PAGES: &[&str] = &[
    "/sign-out",
    "/requests/{id}/certificate",
    "/access/{id}/reject",
    "/access/{id}/cancel",
    "/access/{id}/package",
    "/subjects/{id}/consents/{consent}/receipt",
    "/audit/export",
];
/// Comes with every page.
const STYLE: &str = "/assets/console.css";

fn every_page_was_looked_at(told: &Value) {
    let paths = |what: &str| told[what].as_array().unwrap().iter().map(|path| path.as_str().unwrap());
    let looked: BTreeSet<_> = paths("looked").map(route_of).collect();
    let pages: BTreeSet<_> = PATHS.iter().copied().filter(|path| !NO_PAGES.contains(path) && *path != STYLE).collect();
    assert_eq!(looked, pages, "looked at, and what the console has");
    let taken: BTreeSet<_> = paths("sent").chain(paths("fetched")).map(route_of).collect();
    let untaken: Vec<_> = NO_PAGES.iter().filter(|path| !taken.contains(*path)).collect();
    assert!(untaken.is_empty(), "nobody went to {untaken:?}");
    let steps = paths("looked").filter(|path| route_of(path) == "/requests/{id}/{step}");
    let steps: BTreeSet<_> = steps.filter_map(|path| path.rsplit('/').next()).collect();
    assert_eq!(steps, BTreeSet::from(["cancel", "hold", "reject", "release", "verify"]));
}

/// The address of the console's table that a path is of: `requests/new` is no id.
fn route_of(path: &str) -> &'static str {
    let path = path.strip_prefix("/console").unwrap_or(path).trim_end_matches('/');
    let words: Vec<_> = path.split('/').collect();
    let fits = |route: &&&str| {
        let own: Vec<_> = route.split('/').collect();
        own.len() == words.len() && own.iter().zip(&words).all(|(own, word)| own == word || own.starts_with('{'))
    };
    let route = PATHS.iter().filter(fits).min_by_key(|route| route.matches('{').count());
    route.unwrap_or_else(|| panic!("{path} is no address of the console"))
}

async fn person(client: &Client, reference: &str) -> String {
    let subject = client.post("/v1/subjects", json!({ "external_ref": reference })).await.expect(201).id();
    client.consent(&subject).await;
    subject
}

/// A program that may open requests.
async fn officer(server: &Process) -> Client {
    let create = ["clients", "create", "--tenant", "development", "--role", "compliance-officer", "--json"];
    let made = server.command().args(create).stdout(Stdio::piped()).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).expect("a credential");
    let member = |name: &str| made[name].as_str().unwrap().to_owned();
    let stranger = Client::stranger(&server.authority(), server.port);
    stranger.with_token(&member("client_id"), &member("client_secret"), "").await
}

/// One that should have been answered a month ago.
async fn late_request(client: &Client, subject: &str) {
    let received = (OffsetDateTime::now_utc() - Duration::days(61)).format(&Rfc3339).unwrap();
    let body = json!({ "subject_id": subject, "received_at": received, "regulation": "gdpr" });
    client.post("/v1/erasure-requests", body).await.expect(201);
}

/// As the operator hands it out.
fn account(server: &Process) -> Value {
    let add = ["officers", "add", "--tenant", "development", "--json", "officer@example.org"];
    let made = server.command().args(add).stdout(Stdio::piped()).output().unwrap();
    serde_json::from_slice(&made.stdout).expect("an account")
}

fn walk(task: &Value) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut walker = Command::new(root.join("scripts/browser.sh"))
        .arg(root.join("tests/console/walk.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    walker.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let ended = walker.wait_with_output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}\n{wrong}");
    said.into_owned()
}

fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
