//! A stop loses nothing: whoever had sent the whole of a request before it began is answered, what was answered is in the
//! database, and nothing is there that nobody was told about.
//!
//! Forty stops by default. `VELUM_TEST_STOPS=1000` makes it a thousand, which takes some minutes.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::Method;
use rustls::ClientConfig;
use serde_json::Value;
use time::OffsetDateTime;
use velum::{domain::clock::ManualClock, tls};

use super::helpers::{Client, Kind, Process, TestApp, credential_in, databases::Databases, raw};

/// Servers that are stopped at the same time as others.
const LANES: usize = 8;
const CLIENTS: usize = 3;
/// Between "not ready any more" and the end of listening; a quarter of what the program itself takes.
const NOTICE: Duration = Duration::from_millis(250);

fn stops_wanted() -> usize {
    std::env::var("VELUM_TEST_STOPS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// What became of one request.
struct Sent {
    /// The notice version of the consent that it makes; `None` for a request that changes nothing.
    makes: Option<String>,
    /// When its last byte had left.
    at: Instant,
    answered: Option<u16>,
}

struct Caller {
    tls: Arc<ClientConfig>,
    port: u16,
    token: String,
    subject: String,
    /// Unlike that of every other caller of every other server.
    name: String,
    /// Between an answer and the next request: callers in a hurry, and one whose connection lies idle in between.
    pause: Duration,
    over: Arc<AtomicBool>,
}

impl Caller {
    /// Asks and makes consents in turn over one connection for as long as there is a server.
    fn call(self) -> Vec<Sent> {
        let mut log: Vec<Sent> = vec![];
        let mut connection = None;
        while !self.over.load(Ordering::Acquire) {
            // Nobody listens any more, or the handshake was cut short: no request was sent.
            let Ok(mut open) = connection.take().map_or_else(|| raw::try_connect(&self.tls, self.port), Ok) else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            let makes = log.len().is_multiple_of(2).then(|| format!("{}-{}", self.name, log.len()));
            if raw::send(&mut open, &self.request(makes.as_deref())).is_err() {
                continue; // closed before all of it had left
            }
            let at = Instant::now();
            let answer = raw::read_answer(&mut open).ok();
            log.push(Sent { makes, at, answered: answer.as_ref().map(|answer| answer.status) });
            connection = answer.filter(|answer| !answer.closes).map(|_| open);
            thread::sleep(self.pause);
        }
        log
    }

    fn request(&self, makes: Option<&str>) -> Vec<u8> {
        let body = makes.map(|version| format!(r#"{{"purpose":"face_verification","notice_version":"{version}"}}"#));
        let (method, body) = if let Some(body) = &body { ("POST", body.as_str()) } else { ("GET", "") };
        format!(
            "{method} /v1/subjects/{}/consents HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.subject,
            self.token,
            body.len()
        )
        .into_bytes()
    }
}

/// What is wrong with one stop, and how many requests it met.
fn judge(log: &[Sent], began: Instant, stored: &BTreeSet<String>) -> Vec<String> {
    let mut losses = vec![];
    for Sent { makes, at, answered } in log {
        let name = makes.as_deref().unwrap_or("a question");
        let is_stored = makes.as_ref().is_some_and(|version| stored.contains(version));
        match answered {
            None if *at < began => losses.push(format!("{name}: sent {:?} before the stop, not answered", began - *at)),
            None if is_stored => losses.push(format!("{name}: stored, and nobody was told")),
            Some(201) if !is_stored => losses.push(format!("{name}: answered 201, not stored")),
            Some(status) if *status >= 500 => losses.push(format!("{name}: answered {status}")),
            _ => {}
        }
    }
    losses
}

/// Where one server after another runs.
struct Lane {
    number: usize,
    data: tempfile::TempDir,
    databases: Databases,
}

impl Lane {
    fn new(number: usize) -> Self {
        // Every fourth on PostgreSQL, where there is one.
        let kind = if number % 4 == 3 && Kind::Postgres.is_here() { Kind::Postgres } else { Kind::Sqlite };
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        Self { number, data, databases }
    }

    /// Starts a server, stops it `after` a while under load, and says what was lost.
    async fn stop_once(&self, round: usize, after: Duration) -> (usize, Vec<String>) {
        let clock = Arc::new(ManualClock::at(OffsetDateTime::now_utc()));
        let running = TestApp::serve(self.data.path(), &self.databases, &[], clock).await;
        let (authority, port) = (running.authority.clone().unwrap(), running.address.port());
        let client = client_of(self.data.path(), &authority, port).await;
        let subject = client.subject().await;
        let over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CLIENTS)
            .map(|caller| Caller {
                tls: Arc::new(tls::public_client(&authority).unwrap()),
                port,
                token: client.token.clone().unwrap(),
                subject: subject.clone(),
                name: format!("stop-{}-{round}-{caller}", self.number),
                pause: Duration::from_millis([0, 3, 70][caller % 3]),
                over: Arc::clone(&over),
            })
            .map(|caller| thread::spawn(|| caller.call()))
            .collect();
        // Its idle connection would be waited for.
        drop(client);
        tokio::time::sleep(after).await;

        let began = Instant::now();
        running.stop(NOTICE).await;
        let took = began.elapsed();
        over.store(true, Ordering::Release);
        let logs = callers.into_iter().map(|caller| caller.join().unwrap());
        let logs: Vec<_> = tokio::task::block_in_place(|| logs.collect());

        let condition = format!("SELECT notice_version AS text FROM consents WHERE subject_id = '{subject}'");
        let stored: BTreeSet<_> = self.databases.texts(&self.databases.main, &condition).into_iter().collect();
        let mut losses: Vec<_> = logs.iter().flat_map(|log| judge(log, began, &stored)).collect();
        if took > Duration::from_secs(30) {
            losses.push(format!("the stop took {took:?}"));
        }
        (logs.iter().map(Vec::len).sum(), losses)
    }
}

async fn client_of(data: &Path, authority: &Path, port: u16) -> Client {
    let (id, secret) = credential_in(data);
    Client::stranger(authority, port).with_token(&id, &secret, "").await
}

/// From 20 to 220 ms.
fn some_moment() -> Duration {
    Duration::from_millis(20 + u64::from(uuid::Uuid::now_v7().as_bytes()[15]) * 200 / 255)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_stop_at_any_moment_loses_nothing() {
    let begin = Instant::now();
    let rounds = stops_wanted().div_ceil(LANES);
    let lanes = join_all((0..LANES).map(|number| {
        tokio::spawn(async move {
            let lane = Lane::new(number);
            let (mut requests, mut losses) = (0, vec![]);
            for round in 0..rounds {
                let (seen, lost) = lane.stop_once(round, some_moment()).await;
                requests += seen;
                losses.extend(lost);
            }
            (requests, losses)
        })
    }));
    let (mut requests, mut losses) = (0, vec![]);
    for lane in lanes.await {
        let (seen, lost) = lane.unwrap();
        requests += seen;
        losses.extend(lost);
    }
    println!("{} stops, {requests} requests, {} lost, {:?}", rounds * LANES, losses.len(), begin.elapsed());
    assert!(losses.is_empty(), "\n{}\n", losses.join("\n"));
    assert!(requests > rounds * LANES * CLIENTS, "hardly any load: {requests}");
}

#[test]
fn a_loss_would_be_seen() {
    let began = Instant::now();
    let (before, after) = (began - Duration::from_millis(1), began + Duration::from_millis(1));
    let sent = |makes: &str, at, answered| Sent { makes: Some(makes.to_owned()), at, answered };
    let stored = BTreeSet::from(["stored".to_owned()]);
    for (one, lost) in [
        (sent("stored", before, Some(201)), false),
        (sent("absent", after, None), false),
        (sent("absent", before, None), true),
        (sent("absent", before, Some(201)), true),
        (sent("stored", after, None), true),
        (sent("absent", after, Some(503)), true),
    ] {
        assert_eq!(judge(&[one], began, &stored).len(), usize::from(lost));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_told_to_stop_at_any_moment_ends_with_0_and_loses_nothing() {
    let data = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let mut process = Process::start(data.path());
        let client = process.client().await;
        let subject = client.subject().await;
        let over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..CLIENTS)
            .map(|caller| Caller {
                tls: Arc::new(tls::public_client(&process.authority()).unwrap()),
                port: process.port,
                token: client.token.clone().unwrap(),
                subject: subject.clone(),
                name: format!("process-{round}-{caller}"),
                pause: Duration::from_millis([0, 3, 70][caller % 3]),
                over: Arc::clone(&over),
            })
            .map(|caller| thread::spawn(|| caller.call()))
            .collect();
        tokio::time::sleep(some_moment()).await;
        let began = Instant::now();
        process.signal("-TERM");
        assert!(process.ended().await.success());
        println!("ended after {:?}", began.elapsed());
        over.store(true, Ordering::Release);
        let logs: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();

        // The next process says what this one kept.
        let heir = Process::start(data.path());
        let client = heir.client().await;
        let (mut stored, mut cursor) = (BTreeSet::new(), String::new());
        loop {
            let path = format!("/v1/subjects/{subject}/consents?limit=100{cursor}");
            let page = client.send(client.request(Method::GET, &path)).await.expect(200).json();
            let versions = page["data"].as_array().unwrap().iter().map(|one| &one["notice_version"]);
            stored.extend(versions.map(|version| version.as_str().unwrap().to_owned()));
            let Value::String(next) = &page["next_cursor"] else { break };
            cursor = format!("&cursor={next}");
        }
        let losses: Vec<_> = logs.iter().flat_map(|log| judge(log, began, &stored)).collect();
        assert!(losses.is_empty(), "\n{}\n", losses.join("\n"));
    }
}
