use std::{
    collections::BTreeSet,
    process::Child,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::json;
use velum::measure;

use super::helpers::{Kind, TestApp, engine, free_port, photos, program, scrape};

/// Every label there may be. None of them can name a person, a tenant, a client or an address.
const LABELS: [&str; 14] = [
    "method",
    "route",
    "status",
    "outcome",
    "stage",
    "dependency",
    "version",
    "le",
    "kind",
    "state",
    "limit",
    "source",
    "database",
    "certificate",
];

async fn measured() -> TestApp {
    TestApp::spawn(Kind::Sqlite, &[("METRICS_LISTEN", "127.0.0.1:0")]).await
}

/// The value of one series.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// The labels of a line, each with its value. No value of ours holds a comma or a quote.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let Some((_, rest)) = line.split_once('{') else { return vec![] };
    let (labels, _) = rest.rsplit_once('}').expect("an end of the labels");
    labels.split(',').map(|label| label.split_once('=').expect("a label has a value")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_says_what_happened_and_never_to_whom() {
    let app = TestApp::spawn(Kind::Sqlite, &[("METRICS_LISTEN", "127.0.0.1:0"), ("QUOTA_PER_DAY", "4")]).await;
    let client = app.client().await;
    let (client_id, _) = app.credential();
    client.post("/v1/subjects", json!({ "external_ref": "canary-name" })).await.expect(201);
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    client.enrol(&subject, photos::nobody()).await.expect(422);
    client.verify(&subject, photos::collins()).await.expect(201);
    client.enrol(&client.subject().await, photos::collins()).await.expect(403);
    client.enrol(&subject, photos::collins()).await.expect(429);
    client.get(&format!("/nowhere/{subject}")).await.expect(404);
    client.send(client.request(Method::from_bytes(b"CANARY").unwrap(), "/v1/subjects")).await.expect(405);
    let wrong = [("grant_type", "client_credentials"), ("client_id", &client_id), ("client_secret", "wrong")];
    client.post_token(&wrong).await.expect(401);
    app.databases.execute(&app.databases.main, "UPDATE jobs SET due_at = 0 WHERE kind = 'retention'");
    while app.databases.count(&app.databases.main, "jobs", "kind = 'retention' AND due_at > 0") == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    let text = scrape(app.running.metrics_address().unwrap(), "/metrics");
    for (series, least) in [
        (r#"velum_enrolments_total{outcome="enrolled"}"#, 1.0),
        (r#"velum_enrolments_total{outcome="refused"}"#, 2.0),
        (r#"velum_token_requests_total{outcome="granted"}"#, 1.0),
        (r#"velum_token_requests_total{outcome="invalid_client"}"#, 1.0),
        (r#"velum_stage_duration_seconds_count{stage="face"}"#, 3.0),
        (r#"velum_stage_duration_seconds_count{stage="decide"}"#, 1.0),
        (r#"velum_dependency_up{dependency="keyholder"}"#, 1.0),
        (r#"velum_job_runs_total{kind="retention",outcome="done"}"#, 1.0),
        (r#"velum_jobs{state="later"}"#, 2.0),
        ("velum_erasures_open", 0.0),
        ("velum_erasures_overdue_seconds", 0.0),
        (r#"velum_jobs{state="dead"}"#, 0.0),
        ("velum_jobs_oldest_due_age_seconds", 0.0),
        (r#"velum_limit_refusals_total{limit="quota"}"#, 1.0),
        (r#"velum_revocation_checks_total{source="database"}"#, 5.0),
        (r#"velum_database_pool_waiting{database="keystore"}"#, 0.0),
        (r#"velum_keyholder_openings_total{outcome="opened"}"#, 1.0),
        (r#"velum_certificate_expires_timestamp_seconds{certificate="server"}"#, 1.78e9),
        ("velum_erasures_first_due_timestamp_seconds", f64::INFINITY),
        ("velum_audit_log_breaks_total", 0.0),
        (
            r#"velum_http_request_duration_seconds_count{method="POST",route="/v1/subjects/{subject}/enrolments",status="403"}"#,
            1.0,
        ),
        (r#"velum_http_request_duration_seconds_count{method="GET",route="unmatched",status="404"}"#, 1.0),
        (r#"velum_http_request_duration_seconds_count{method="other",route="/v1/subjects",status="405"}"#, 1.0),
    ] {
        assert!(value(&text, series).is_some_and(|value| value >= least), "{series}\n{text}");
    }
    let labels_seen: BTreeSet<_> =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(labels).map(|(name, _)| name).collect();
    assert_eq!(labels_seen, BTreeSet::from(LABELS));
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let told: BTreeSet<_> = families.collect();
    assert!(told.is_subset(&measure::names().collect()), "{told:?}");
    for name in &told {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    let prefixes = ["sub_", "ten_", "cli_", "key_", "con_", "enr_", "ver_", "req_", "velum_test_", "eyJ"];
    let names = ["127.0.0.1", "localhost", "development", "canary", "CANARY", "person-", "localhost"];
    for word in prefixes.into_iter().chain(names).chain([client_id.as_str(), subject.as_str()]) {
        assert!(!text.contains(word), "{word} stands in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_told_by_the_batch_and_never_one_by_one() {
    const BATCH: f64 = 20.0;
    let app = measured().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let decided = || {
        let text = scrape(app.running.metrics_address().unwrap(), "/metrics");
        let of = |outcome| value(&text, &format!(r#"velum_verifications_total{{outcome="{outcome}"}}"#)).unwrap_or(0.0);
        of("match") + of("no_match")
    };
    let before = decided();
    for _ in 0..BATCH as usize {
        client.verify(&subject, photos::collins()).await.expect(201);
        assert_eq!(decided() % BATCH, 0.0);
    }
    assert!(decided() >= before + BATCH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_is_away_is_seen_at_the_next_scrape() {
    let app = measured().await;
    let up = || {
        let text = scrape(app.running.metrics_address().unwrap(), "/metrics");
        value(&text, r#"velum_dependency_up{dependency="keyholder"}"#)
    };
    assert_eq!(up(), Some(1.0));
    app.databases.execute(&app.databases.journal, "ALTER TABLE opened_verifications RENAME TO away");
    assert_eq!(up(), Some(0.0));
    app.databases.execute(&app.databases.journal, "ALTER TABLE away RENAME TO opened_verifications");
    assert_eq!(up(), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_an_address_of_their_own_and_nothing_else_is_there() {
    let app = measured().await;
    app.stranger().get("/metrics").await.expect_problem(404, "not_found");
    let address = app.running.metrics_address().unwrap();
    for path in ["/", "/readyz", "/v1/subjects", "/oauth/token"] {
        assert_eq!(scrape(address, path), "", "{path}");
    }
    assert_eq!(TestApp::start().await.running.metrics_address(), None, "off unless asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyholder_of_its_own_tells_what_it_opened_and_how_much_it_may() {
    engine::make_keys_once();
    let data = tempfile::tempdir().unwrap();
    let (metrics, mut command) = (free_port(), program(data.path(), free_port()));
    let told_at = format!("127.0.0.1:{metrics}");
    command.env("VELUM_METRICS_LISTEN", &told_at).env("VELUM_KEYHOLDER_LISTEN", "127.0.0.1:0");
    let is_alive = || {
        let mut asking = program(data.path(), free_port());
        asking.env("VELUM_METRICS_LISTEN", &told_at).args(["healthcheck", "--alive"]).status().unwrap().success()
    };
    assert!(!is_alive(), "before it was started");
    let _keyholder = Killed(command.arg("keyholder").spawn().unwrap());
    let begin = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", metrics)).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the keyholder serves no metrics");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = scrape(([127, 0, 0, 1], metrics).into(), "/metrics");
    assert_eq!(value(&text, "velum_keyholder_budget_used_ratio"), Some(0.0), "{text}");
    let ends = value(&text, r#"velum_certificate_expires_timestamp_seconds{certificate="keyholder"}"#);
    assert!(ends.is_some_and(|ends| ends > 1.78e9), "{text}");
    assert!(is_alive());
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}
