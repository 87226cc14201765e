//! Requests that are too long, too slow, too deep or no HTTP at all, against `velum serve` itself. Each is refused or the
//! connection closed, soon and for little memory, and an honest client is served in the midst of them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use velum::tls;

use super::helpers::{
    Client, Process, photos,
    raw::{Connection, connect, read_answer, send, try_connect},
};

/// What an attack may cost. The figures that were measured are printed; they lie far below.
const MEMORY_MB_MAX: f64 = 64.0;
const PATIENCE: Duration = Duration::from_secs(2);
/// A refusal that comes at a limit of time comes this much later at most.
const SLACK: Duration = Duration::from_secs(8);

/// What the server answered so far: `None` while it says nothing.
fn answer_so_far(connection: &mut Connection, wait: Option<Duration>) -> Option<Vec<u8>> {
    connection.sock.set_nonblocking(wait.is_none()).unwrap();
    if wait.is_some() {
        connection.sock.set_read_timeout(wait).unwrap();
    }
    let mut bytes = vec![0; 64 * 1024];
    let read = connection.read(&mut bytes);
    connection.sock.set_nonblocking(false).unwrap();
    match read {
        Ok(count) => Some(bytes[..count].to_vec()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(_) => Some(vec![]), // closed without a word of farewell
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Status(u16),
    Closed,
}

impl Refusal {
    fn of(answer: &[u8]) -> Self {
        let text = String::from_utf8_lossy(answer);
        let mut heads = text.split("HTTP/1.1 ").skip(1).filter(|head| !head.starts_with("100 "));
        heads.next().map_or(Self::Closed, |head| Self::Status(head[..3].parse().expect("a status")))
    }
}

/// Sends all of `bytes` unless an answer comes before their end, and waits for one. How long it took from the first byte on.
fn attack(connection: &mut Connection, bytes: &[u8]) -> (Refusal, Duration) {
    let begin = Instant::now();
    let mut answer = vec![];
    for piece in bytes.chunks(16 * 1024) {
        if connection.write_all(piece).is_err() {
            break;
        }
        if let Some(early) = answer_so_far(connection, None) {
            answer = early;
            break;
        }
    }
    while Refusal::of(&answer) == Refusal::Closed {
        let more = answer_so_far(connection, Some(Duration::from_secs(20))).expect("an answer or an end");
        if more.is_empty() {
            break;
        }
        answer.extend(more);
    }
    (Refusal::of(&answer), begin.elapsed())
}

struct Attack {
    name: &'static str,
    bytes: Vec<u8>,
    /// Any of these, [`NONE`] where the connection may also be closed without a word, or before a sender could read it.
    statuses: &'static [u16],
}

const NONE: u16 = 0;

/// A request with these lines after its first, and a body.
fn request(first: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    [format!("{first}\r\nhost: localhost\r\n{lines}\r\n").as_bytes(), body].concat()
}

fn chunked(piece: &[u8], times: usize) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat().repeat(times)
}

fn attacks(token: &str, subject: &str) -> Vec<Attack> {
    let bearer = format!("authorization: Bearer {token}");
    let with_token =
        |first: &str, lines: &[&str], body: &[u8]| request(first, &[&[bearer.as_str()], lines].concat(), body);
    let json = |lines: &[&str], body: &[u8]| {
        with_token("POST /v1/subjects HTTP/1.1", &[&["content-type: application/json"], lines].concat(), body)
    };
    let enrol = format!("POST /v1/subjects/{subject}/enrolments HTTP/1.1");
    let length = |body: &[u8]| format!("content-length: {}", body.len());
    let small = br#"{"external_ref":"smuggled"}"#;
    let nested = r#"{"a":"#.repeat(100_000);
    let parts = "--b\r\ncontent-disposition: form-data; name=\"x\"\r\n\r\n1\r\n".repeat(10_000);
    // A stream of zeros in gzip: 32 bytes of it hold a kilobyte or so; what they hold is never looked at.
    let bomb = [b"\x1f\x8b\x08\0\0\0\0\0\x02\xff".as_slice(), &[0xed; 100_000]].concat();
    let header = |bytes: usize| format!("x-filler: {}", "x".repeat(bytes));
    let headers: Vec<String> = (0..1_000).map(|number| format!("x-filler-{number}: x")).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let path = |bytes: usize| format!("GET /v1/subjects?cursor={} HTTP/1.1", "x".repeat(bytes));
    let get = |path: &str| with_token(&format!("GET {path} HTTP/1.1"), &[], b"");
    let attack = |name, bytes, statuses| Attack { name, bytes, statuses };
    vec![
        attack("one header of 100 KB", with_token("GET /livez HTTP/1.1", &[&header(100_000)], b""), &[431]),
        attack("one header of 10 MB", with_token("GET /livez HTTP/1.1", &[&header(10_000_000)], b""), &[431, NONE]),
        attack(
            "headers of 20 KB together",
            with_token("GET /livez HTTP/1.1", &[&header(9_999), &header(9_999)], b""),
            &[431],
        ),
        attack("1,000 headers", with_token("GET /livez HTTP/1.1", &headers, b""), &[400, 431]),
        attack("an address of 10 KB", with_token(&path(10_000), &[], b""), &[414]),
        attack("an address of 10 MB", with_token(&path(10_000_000), &[], b""), &[414, 431, NONE]),
        attack("JSON of 100,000 levels", json(&[&length(nested.as_bytes())], nested.as_bytes()), &[413]),
        attack(
            "JSON of 3,000 levels",
            json(&[&length(&nested.as_bytes()[..15_000])], &nested.as_bytes()[..15_000]),
            &[400, 422],
        ),
        attack(
            "a form of 10,000 parts",
            with_token(
                &enrol,
                &["content-type: multipart/form-data; boundary=b", &length(parts.as_bytes())],
                parts.as_bytes(),
            ),
            &[400, 413, 422],
        ),
        attack("a gzip body", json(&["content-encoding: gzip", &length(&bomb)], &bomb), &[413, 415]),
        attack(
            "a gzip image",
            with_token(&enrol, &["content-type: image/png", "content-encoding: gzip", &length(&bomb)], &bomb),
            &[415],
        ),
        attack("10 GB announced as JSON", json(&["content-length: 10000000000"], b""), &[413]),
        attack(
            "10 GB announced and asked for",
            json(&["content-length: 10000000000", "expect: 100-continue"], b""),
            &[413],
        ),
        attack(
            "10 GB announced as an image",
            with_token(&enrol, &["content-type: image/png", "content-length: 10000000000"], b""),
            &[413],
        ),
        attack(
            "10 GB announced as a form",
            request(
                "POST /oauth/token HTTP/1.1",
                &["content-type: application/x-www-form-urlencoded", "content-length: 10000000000"],
                b"",
            ),
            &[413],
        ),
        attack("a body without end", json(&["transfer-encoding: chunked"], &chunked(&[b' '; 8_000], 2_000)), &[413]),
        attack(
            "a chunk of 2^60 bytes",
            json(&["transfer-encoding: chunked"], &[b"1000000000000000\r\n".as_slice(), &[b' '; 20_000]].concat()),
            &[400, 413],
        ),
        attack("a chunk size that is none", json(&["transfer-encoding: chunked"], b"-1\r\nx\r\n"), &[400, NONE]),
        attack("two lengths", json(&["content-length: 27", "content-length: 2"], small), &[400]),
        attack("two lengths in one", json(&["content-length: 27, 2"], small), &[400]),
        attack("a signed length", json(&["content-length: +27"], small), &[400]),
        attack("a negative length", json(&["content-length: -1"], small), &[400]),
        attack(
            "a length and chunks",
            json(&["content-length: 27", "transfer-encoding: chunked"], b"0\r\n\r\n"),
            &[400],
        ),
        attack(
            "chunks and a length",
            json(&["transfer-encoding: chunked", "content-length: 27"], b"0\r\n\r\n"),
            &[400],
        ),
        attack(
            "chunks twice",
            json(&["transfer-encoding: chunked", "transfer-encoding: chunked"], b"0\r\n\r\n"),
            &[400],
        ),
        attack("chunks in disguise", json(&["transfer-encoding: xchunked"], b"0\r\n\r\n"), &[400]),
        attack(
            "chunks that are not the last coding",
            json(&["transfer-encoding: chunked, identity"], b"0\r\n\r\n"),
            &[400],
        ),
        attack("a blank before a colon", json(&["content-length : 27"], small), &[400]),
        attack("a folded header", json(&["x-one: a\r\n b", "content-length: 27"], small), &[400]),
        attack("two hosts", request("GET /livez HTTP/1.1", &["host: elsewhere"], b""), &[400]),
        attack("no host", b"GET /livez HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        attack("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), &[400]),
        attack(
            "an upgrade to a WebSocket",
            request(
                "GET /v1/subjects HTTP/1.1",
                &[
                    "connection: upgrade",
                    "upgrade: websocket",
                    "sec-websocket-version: 13",
                    "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
                ],
                b"",
            ),
            &[401],
        ),
        attack(
            "an upgrade to HTTP/2",
            request(
                "GET /v1/subjects HTTP/1.1",
                &["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk"],
                b"",
            ),
            &[401],
        ),
        attack("an unknown method", with_token("BREW /v1/subjects HTTP/1.1", &[], b""), &[405]),
        attack("TRACE", with_token("TRACE /v1/subjects HTTP/1.1", &[], b""), &[405]),
        attack("CONNECT", with_token("CONNECT localhost:443 HTTP/1.1", &[], b""), &[400, 404, 405]),
        attack(
            "a method of 100 KB",
            [&[b'A'; 100_000], b" / HTTP/1.1\r\nhost: localhost\r\n\r\n".as_slice()].concat(),
            &[400, 404, 431],
        ),
        attack("a path that climbs", get("/v1/../../etc/passwd"), &[404]),
        attack("a path that climbs in disguise", get("/v1/%2e%2e/%2e%2e%2fetc%2fpasswd"), &[404]),
        attack("a page that climbs", get("/docs/../Cargo.toml"), &[404]),
        attack("a page that climbs in disguise", get("/docs/..%2f..%2fCargo.toml"), &[404]),
        attack("a NUL in a path", get("/v1/subjects/%00"), &[404]),
        attack("a path that is no UTF-8", get("/v1/subjects/%ff%fe"), &[404]),
        attack("a path with bare bytes", b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), &[400, 404]),
        attack("a header with a NUL", request("GET /livez HTTP/1.1", &["x-one: a\0b"], b""), &[400]),
        attack("a header with a bare CR", request("GET /livez HTTP/1.1", &["x-one: a\rb"], b""), &[400]),
        attack("HTTP of another time", b"GET /livez HTTP/9.9\r\nhost: localhost\r\n\r\n".to_vec(), &[400]),
        attack("HTTP without a version", b"GET /livez\r\n\r\n".to_vec(), &[400]),
        attack("noise", vec![0x80; 4_096], &[400]),
    ]
}

/// Somebody who does nothing wrong, until told to stop: how often, and how long the slowest call took.
async fn honest_client(client: Client, subject: String, stop: Arc<AtomicBool>) -> (u32, Duration) {
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        client.get("/v1/subjects?limit=1").await.expect(200);
        client.verify(&subject, photos::collins()).await.expect(201);
        slowest = slowest.max(begin.elapsed());
        served += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (served, slowest)
}

/// A server that is warm, with somebody enrolled.
async fn server(data: &Path, settings: &[(&str, &str)]) -> (Process, Client, String) {
    let process = Process::start_with(data, |command| {
        command.envs(settings.iter().copied());
    });
    let client = process.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::collins()).await.expect(201);
    let verified = stream::iter((0..8).map(|_| client.verify(&subject, photos::collins()))).buffered(2);
    verified.for_each(async |answer| drop(answer.expect(201))).await;
    (process, client, subject)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_no_request_is_refused_soon_and_for_little_memory() {
    const TRIES: usize = 5;
    let data = tempfile::tempdir().unwrap();
    let (process, client, subject) = server(data.path(), &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn(honest_client(client.clone(), subject.clone(), Arc::clone(&stop)));

    let mut wrong = vec![];
    let (before, _) = process.memory_mb();
    process.forget_peak();
    for Attack { name, bytes, statuses } in attacks(client.token.as_deref().unwrap(), &subject) {
        let mut times = vec![];
        let mut seen = vec![];
        for _ in 0..TRIES {
            let mut connection = connect(&process.authority(), process.port);
            let (refusal, time) = tokio::task::block_in_place(|| attack(&mut connection, &bytes));
            times.push(time);
            seen.push(refusal);
        }
        times.sort();
        let median = times[TRIES / 2];
        println!("{name}: {:?} after {:.1} ms", seen[0], median.as_secs_f64() * 1e3);
        let expected = |refusal: &Refusal| match refusal {
            Refusal::Status(status) => statuses.contains(status),
            Refusal::Closed => statuses.contains(&NONE),
        };
        if !seen.iter().all(expected) || median > PATIENCE {
            wrong.push(format!("{name}: {seen:?} after {median:?}, expected one of {statuses:?}"));
        }
    }
    let (_, peak) = process.memory_mb();
    stop.store(true, Ordering::Relaxed);
    let (served, slowest) = honest.await.unwrap();
    println!("memory {before:.0} MB, at most {peak:.0} MB; honest client served {served} times, slowest {slowest:?}");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(peak - before < MEMORY_MB_MAX, "{before} MB became {peak} MB");
    assert!(served > 0);
    // Nothing that was smuggled behind another request arrived.
    let smuggled = client.get("/v1/subjects?external_ref=smuggled").await.expect(200).json();
    assert_eq!(smuggled["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_while_sending_may_ask_again_on_the_same_connection() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path());
    let client = process.client().await;
    let subject = client.subject().await;
    let token = client.token.as_deref().unwrap();
    let body = vec![0; 2_000_000];
    let head = format!(
        "POST /v1/subjects/{subject}/verifications HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: image/jpeg\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let next = request("GET /v1/models HTTP/1.1", &[&format!("authorization: Bearer {token}")], b"");
    tokio::task::block_in_place(|| {
        let mut connection = connect(&process.authority(), process.port);
        send(&mut connection, &[head.as_bytes(), &body[..1_000_000]].concat()).unwrap();
        thread::sleep(Duration::from_millis(100));
        send(&mut connection, &body[1_000_000..]).unwrap();
        let refused = read_answer(&mut connection).unwrap();
        assert_eq!((refused.status, refused.closes), (403, false));
        send(&mut connection, &next).unwrap();
        assert_eq!(read_answer(&mut connection).unwrap().status, 200);

        // Who stops sending is told soon all the same, and for the last time.
        send(&mut connection, head.as_bytes()).unwrap();
        let begin = Instant::now();
        let refused = read_answer(&mut connection).unwrap();
        assert_eq!((refused.status, refused.closes), (403, true));
        assert!(begin.elapsed() < PATIENCE + SLACK, "{:?}", begin.elapsed());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_request_of_two_meanings_is_never_answered() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path());
    let hidden = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for lines in [
        &["content-length: 0", "transfer-encoding: chunked"][..],
        &["transfer-encoding: chunked", "content-length: 41"],
        &["content-length: 0", "content-length: 41"],
        &["transfer-encoding: chunked", "transfer-encoding: identity"],
        &["transfer-encoding: identity, chunked"],
    ] {
        let mut connection = connect(&process.authority(), process.port);
        let body = format!("0\r\n\r\n{hidden}");
        connection.write_all(&request("POST /oauth/token HTTP/1.1", lines, body.as_bytes())).unwrap();
        connection.sock.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answers = vec![];
        let _closed_with_or_without_a_word = connection.read_to_end(&mut answers);
        let answers = String::from_utf8_lossy(&answers);
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{lines:?}: {answers}");
        assert!(answers.starts_with("HTTP/1.1 400"), "{lines:?}: {answers}");
    }
}

/// Sends a byte now and then until the server has had enough; what it said, and after how long.
fn dribble(mut connection: Connection, head: &[u8], drop: &[u8], patience: Duration) -> (Refusal, Duration) {
    let begin = Instant::now();
    let mut alive = connection.write_all(head).is_ok();
    while alive && begin.elapsed() < patience {
        if let Some(answer) = answer_so_far(&mut connection, Some(Duration::from_millis(200))) {
            return (Refusal::of(&answer), begin.elapsed());
        }
        alive = connection.write_all(drop).is_ok();
    }
    (Refusal::Closed, begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_cut_off_and_keep_nobody_waiting() {
    const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
    const JSON_TIMEOUT: Duration = Duration::from_secs(10);
    const IMAGE_TIMEOUT: Duration = Duration::from_secs(20);
    let data = tempfile::tempdir().unwrap();
    let (process, client, subject) = server(data.path(), &[("VELUM_HEAD_TIMEOUT_S", "2")]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn(honest_client(client.clone(), subject.clone(), Arc::clone(&stop)));
    let (before, _) = process.memory_mb();
    process.forget_peak();

    let (tls, port) = (Arc::new(tls::public_client(&process.authority()).unwrap()), process.port);
    let bearer = format!("authorization: Bearer {}", client.token.as_deref().unwrap());
    let json = request(
        "POST /v1/subjects HTTP/1.1",
        &[&bearer, "content-type: application/json", "content-length: 4000"],
        b"{",
    );
    let image = format!("POST /v1/subjects/{subject}/enrolments HTTP/1.1");
    let image = request(&image, &[&bearer, "content-type: image/png", "content-length: 400000"], b"\x89PNG");
    let slow = |head: Vec<u8>, drop: &'static [u8], limit: Duration| {
        let tls = Arc::clone(&tls);
        thread::spawn(move || {
            // So many handshakes at once may take a busy machine longer than a head may take.
            let connection = (0..5).find_map(|_| try_connect(&tls, port).ok()).expect("a connection");
            dribble(connection, &head, drop, limit + 2 * SLACK)
        })
    };
    let heads: Vec<_> =
        (0..200).map(|_| slow(b"GET /livez HTTP/1.1\r\nx-slow: ".to_vec(), b"x", HEAD_TIMEOUT)).collect();
    let bodies: Vec<_> = (0..20).map(|_| slow(json.clone(), b" ", JSON_TIMEOUT)).collect();
    let images: Vec<_> = (0..20).map(|_| slow(image.clone(), b"x", IMAGE_TIMEOUT)).collect();
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();

    tokio::task::block_in_place(|| {
        for (name, senders, limit) in
            [("head", heads, HEAD_TIMEOUT), ("JSON body", bodies, JSON_TIMEOUT), ("image", images, IMAGE_TIMEOUT)]
        {
            let outcomes: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
            let longest = outcomes.iter().map(|(_, time)| *time).max().unwrap();
            println!("{} slow senders of a {name} cut off after {longest:?} at most", outcomes.len());
            for (refusal, time) in outcomes {
                assert!(matches!(refusal, Refusal::Status(408) | Refusal::Closed), "{name}: {refusal:?}");
                assert!(time < limit + SLACK, "{name}: {time:?}");
            }
        }
        // Whoever opens a connection and says nothing at all is not waited for either.
        for mut connection in silent {
            connection.set_read_timeout(Some(SLACK)).unwrap();
            assert_eq!(connection.read(&mut [0; 1]).unwrap_or(0), 0);
        }
    });
    let (_, peak) = process.memory_mb();
    stop.store(true, Ordering::Relaxed);
    let (served, slowest) = honest.await.unwrap();
    println!("memory {before:.0} MB, at most {peak:.0} MB; honest client served {served} times, slowest {slowest:?}");
    assert!(peak - before < MEMORY_MB_MAX, "{before} MB became {peak} MB");
    assert!(served > 10);
}

/// Asks again and again, and reads nothing.
fn ask_and_never_read(authority: &Path, port: u16) -> Connection {
    let requests = request("GET /openapi.json HTTP/1.1", &[], b"").repeat(64);
    let mut connection = connect(authority, port);
    connection.sock.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Until the server takes no more, or a few thousand answers of two hundred kilobytes each were asked for.
    for _ in 0..50 {
        if connection.write_all(&requests).is_err() {
            break;
        }
    }
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_take_little_memory_and_not_for_ever() {
    const CONNECTIONS: usize = 30;
    let data = tempfile::tempdir().unwrap();
    let (process, client, _) = server(data.path(), &[("VELUM_REQUEST_TIMEOUT_S", "3")]).await;
    client.get("/openapi.json").await.expect(200); // made on first use
    let (before, _) = process.memory_mb();
    process.forget_peak();
    let connections: Vec<_> = tokio::task::block_in_place(|| {
        (0..CONNECTIONS).map(|_| ask_and_never_read(&process.authority(), process.port)).collect()
    });
    client.get("/livez").await.expect(200);
    let (_, peak) = process.memory_mb();
    println!("{CONNECTIONS} connections: memory {before:.0} MB, at most {peak:.0} MB");
    assert!(peak - before < MEMORY_MB_MAX, "{before} MB became {peak} MB");

    // They are cut off, so that the places of those who want nothing are free again. The system looks now and then only.
    let begin = Instant::now();
    while process.connections() > 1 {
        assert!(begin.elapsed() < Duration::from_secs(90), "{} connections are still held", process.connections());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("cut off after {:?}", begin.elapsed());
    drop(connections);
}
