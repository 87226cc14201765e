//! What is done later: by whom, how often, and what becomes of it when its worker is killed.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use time::OffsetDateTime;
use velum::domain::clock::Clock as _;

use super::helpers::{
    Kind, Process, TestApp, Worker, databases::Databases, each_database, each_database_with, photos, until,
};

fn microseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_read_how_long_what_is_kept() {
    let settings = [("RETENTION_VERIFICATIONS_DAYS", "90"), ("RETENTION_ENDED_CONSENTS_PURPOSES", "newsletter=400")];
    each_database_with(&settings, |app| async move {
        let schedule = app.stranger().get("/v1/policies/retention").await.expect(200).json();
        let row = |name: &str| {
            let rows = schedule["records"].as_array().unwrap();
            rows.iter().find(|row| row["record"] == name).unwrap_or_else(|| panic!("{name}: {schedule}")).clone()
        };
        assert_eq!(row("verifications")["kept_for"], "P90D");
        assert_eq!(row("unused_templates")["kept_for"], "P1095D");
        assert_eq!(row("unused_templates")["purpose"], "face_verification");
        assert_eq!(row("templates_without_consent")["kept_for"], "P30D");
        assert_eq!(row("revocations")["kept_for"], "PT3600S");
        assert_eq!(row("revocations")["purpose"], Value::Null);
        assert_eq!(row("access_packages")["kept_for"], "P7D");
        assert_eq!(row("callback_addresses")["kept_for"], "P30D");
        let rows = schedule["records"].as_array().unwrap().iter().filter(|row| row["record"] == "ended_consents");
        let told: Vec<_> = rows.map(|row| (row["purpose"].clone(), row["kept_for"].clone())).collect();
        assert_eq!(told, [("newsletter".into(), "P400D".into()), ("*".into(), "P1095D".into())]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_long_enough_goes_by_itself_on_its_day_by_one_of_two_processes() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.subject().await;
        let consent = client.consent(&subject).await;
        client.enrol(&subject, photos::collins()).await.expect(201);
        client.withdraw(&subject, &consent).await.expect(200);
        let twin = app.twin(&[]).await;
        let jobs = |condition: &str| {
            app.databases.count(&app.databases.main, "jobs", &format!("kind = 'retention' AND {condition}"))
        };
        until("the daily job waits", 90, async || jobs("1 = 1") == 1).await;

        app.clock.advance(time::Duration::days(29));
        let due = microseconds(app.clock.now());
        until("the job was done and put off", 90, async || jobs(&format!("due_at > {due}")) == 1).await;
        let templates = || app.databases.count(&app.databases.main, "enrolments", "1 = 1");
        assert_eq!(templates(), 1);

        app.clock.advance(time::Duration::days(2));
        until("the template is gone", 90, async || templates() == 0).await;
        let due = microseconds(app.clock.now());
        until("the job was put off again", 90, async || jobs(&format!("due_at > {due} AND attempts = 0")) == 1).await;
        assert_eq!(jobs("1 = 1"), 1, "two processes, one job");
        drop(twin);
    })
    .await;
}

/// A server, the databases that it and its workers share, and a job that takes seconds.
struct House {
    databases: Databases,
    server: Process,
    data: tempfile::TempDir,
}

/// Rows that were kept long enough; each transaction takes 500 of them.
const OLD_ROWS: i64 = 100_000;

impl House {
    fn new(kind: Kind) -> Self {
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let server = Process::start_with(data.path(), |command| {
            databases.are_of(command).env("VELUM_WORKER", "separate");
        });
        let house = Self { databases, server, data };
        house.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OLD_ROWS}) \
             INSERT INTO usage_days (tenant_id, day, enrolments, verifications) SELECT id, 1000 - i, 0, 0 FROM tenants, n; \
             INSERT INTO usage_days (tenant_id, day, enrolments, verifications) SELECT id, 9999999, 0, 0 FROM tenants"
        ));
        house
    }

    fn command(&self) -> Command {
        let mut command = self.server.command();
        self.databases.are_of(&mut command).current_dir(self.data.path());
        command
    }

    fn execute(&self, sql: &str) {
        self.databases.execute(&self.databases.main, sql);
    }

    fn old_rows(&self) -> i64 {
        self.databases.count(&self.databases.main, "usage_days", "day <= 1000")
    }

    /// The daily job: its lease, until when, and how often it was begun.
    fn job(&self) -> (String, i64, i64) {
        let query = "SELECT coalesce(lease, '') || ' ' || coalesce(leased_until, 0) || ' ' || attempts AS text FROM jobs \
             WHERE kind = 'retention'";
        let rows = self.databases.texts(&self.databases.main, query);
        let [row] = rows.as_slice() else { panic!("one job: {rows:?}") };
        let mut words = row.split(' ');
        let lease = words.next().unwrap().to_owned();
        let mut number = || words.next().unwrap().parse().unwrap();
        (lease, number(), number())
    }

    fn printed(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn is_at_work(&self) {
        let before = self.old_rows();
        until("the worker is at work", 90, async || self.old_rows() < before).await;
        assert!(self.old_rows() > 0, "it was done before it could be disturbed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_killed_worker_is_taken_over_after_its_lease_and_done() {
    for kind in Kind::here() {
        taken_over(House::new(kind)).await;
    }
}

async fn taken_over(house: House) {
    let queued = || house.databases.count(&house.databases.main, "jobs", "kind = 'retention'");
    let first = Worker::start(house.command());
    until("the daily job waits", 90, async || queued() == 1).await;
    house.execute("UPDATE jobs SET due_at = 0 WHERE kind = 'retention'");
    house.is_at_work().await;
    first.signal("-KILL");
    drop(first);
    let (lease, until_then, attempts) = house.job();
    assert!(!lease.is_empty() && attempts == 1);
    let left = house.old_rows();

    let mut second = Worker::start({
        let mut command = house.command();
        command.env("VELUM_STOP_TIMEOUT_S", "1");
        command
    });
    until("another has the job", 90, async || house.job().0 != lease).await;
    assert!(microseconds(OffsetDateTime::now_utc()) >= until_then, "before the lease had run out");
    until("it goes on where the first stopped", 90, async || house.old_rows() < left).await;

    // Told to stop, a worker gives back what it cannot finish.
    second.signal("-TERM");
    let status = tokio::task::spawn_blocking(move || second.0.wait().unwrap()).await.unwrap();
    assert!(status.success());
    let left = house.old_rows();
    if left > 0 {
        let (lease, _, attempts) = house.job();
        assert_eq!((lease.as_str(), attempts), ("", 1), "begun once, by the one that was killed");
    }

    // And the operator may do it at once.
    let line = |rows: i64| format!("{:<26} {rows}\n", "usage_days");
    let report = house.printed(&["retention", "report"]);
    assert!(report.contains(&line(left)), "{left} are left: {report}");
    assert_eq!(house.old_rows(), left);
    assert!(house.printed(&["retention", "run"]).contains(&line(left)));
    assert!(house.printed(&["retention", "report"]).contains(&line(0)));
    let kept = house.databases.count(&house.databases.main, "usage_days", "day > 1000");
    assert_eq!((house.old_rows(), kept), (0, 1));

    operators_see_the_queue(&house);
}

fn operators_see_the_queue(house: &House) {
    let retention = |lines: &str| -> Option<Value> {
        let mut jobs = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        jobs.find(|job| job["kind"] == "retention")
    };
    let waiting = retention(&house.printed(&["jobs", "list"])).unwrap();
    assert_eq!(house.printed(&["jobs", "dead"]), "");
    house.execute("UPDATE jobs SET dead_at = 1, last_error = 'keyholder_away' WHERE kind = 'retention'");
    assert_eq!(retention(&house.printed(&["jobs", "list"])), None);
    let dead = retention(&house.printed(&["jobs", "dead"])).unwrap();
    assert_eq!((&dead["id"], &dead["last_error"]), (&waiting["id"], &Value::from("keyholder_away")));
    let id = dead["id"].as_str().unwrap();
    house.printed(&["jobs", "retry", id]);
    assert_eq!(house.printed(&["jobs", "dead"]), "");
    let again = house.command().args(["jobs", "retry", id]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_worker_is_separate_carries_nothing_out() {
    let app = TestApp::spawn(Kind::Sqlite, &[("WORKER", "separate")]).await;
    let twin = app.twin(&[]).await;
    let jobs = || app.databases.count(&app.databases.main, "jobs", "kind = 'retention'");
    until("the twin made the daily job", 90, async || jobs() == 1).await;
    twin.stop(Duration::ZERO).await;
    app.databases.execute(&app.databases.main, "UPDATE jobs SET due_at = 0 WHERE kind = 'retention'");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun =
        app.databases.count(&app.databases.main, "jobs", "kind = 'retention' AND (due_at > 0 OR lease IS NOT NULL)");
    assert_eq!(begun, 0);
}
