//! Who calls, as the server sees it: directly, through real proxies, through forged headers; and what is left of it in logs.
//!
//! Every address of 127.0.0.0/8 is this machine: clients and proxies call from different ones of them. Whom the server takes a
//! caller for is told by an API key that may be used from one address alone.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use tokio::net::TcpSocket;
use velum::{
    audit::Actor,
    auth::{Caller, Identity, Scope, Scopes},
    domain::{
        id::ApiKeyId,
        network::{AddressHash, ClientAddress},
    },
    flows::{
        addresses,
        api_keys::{self, IssuedApiKey, NewApiKey},
        clients,
        once::{self, Call, Keep},
    },
    tls,
};

use super::helpers::{
    Answer, Client, Kind, Process, TestApp, each_database,
    nginx::{Hop, HopKind, Nginx, free_address},
};

const CLIENT: &str = "127.0.0.9";
const PROXY: &str = "127.0.0.2";
const OTHER_PROXY: &str = "127.0.0.3";
const PROXIES: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.2,127.0.0.3");

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Makes an API key that may be used from these networks alone.
async fn key_for(app: &TestApp, networks: &str) -> String {
    let flows = app.running.flows();
    let tenant = clients::create_tenant(flows, "bound").await.unwrap();
    let scopes: Scopes = [Scope::Subjects].into_iter().collect();
    let identity = Identity::ApiKey(ApiKeyId::generate());
    let caller = Caller { tenant, identity, scopes: scopes.clone() };
    let allowed_networks = Some(networks.parse().unwrap());
    let new = NewApiKey { name: "bound".to_owned(), scopes, expires_at: None, allowed_networks };
    let answer = |issued: &IssuedApiKey| {
        let body = issued.key.expose_text().as_bytes().to_vec();
        once::Answer { status: 201, location: None, body, replayed: false }
    };
    let actor = Actor { name: identity.to_string(), request: None };
    let call = Call { tenant, actor, key: None, quota_spent: None, keep: Keep::WithoutBody, answer: Arc::new(answer) };
    String::from_utf8(api_keys::create(flows, &caller, new, call).await.unwrap().body).unwrap()
}

/// A client that calls `server` from an address of its own.
fn client(app: &TestApp, from: &str, server: SocketAddr) -> Client {
    let authority = app.running.authority.as_deref().unwrap();
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::public_client(authority).unwrap())
        .local_address(ip(from))
        .resolve("localhost", server)
        .no_proxy()
        .build()
        .unwrap();
    Client { http, base: format!("https://localhost:{}", server.port()), token: None }
}

async fn ask(client: &Client, key: &str, forwarded: &[&str]) -> Answer {
    let client = Client { token: Some(key.to_owned()), ..client.clone() };
    let request = client.request(reqwest::Method::GET, "/v1/subjects");
    let request = forwarded.iter().fold(request, |request, line| request.header("x-forwarded-for", *line));
    client.send(request).await
}

/// The server takes the caller for `address` and for nobody else.
#[track_caller]
fn assert_seen<'a>(
    app: &'a TestApp,
    client: &'a Client,
    forwarded: &'a [&'a str],
    address: &'a str,
) -> impl Future<Output = ()> + 'a {
    let place = std::panic::Location::caller();
    async move {
        let here = ask(client, &key_for(app, address).await, forwarded).await;
        assert_eq!(here.status, 200, "{address}, {forwarded:?}, {place}: {}", here.text);
        let everywhere_else = elsewhere(ip(address));
        ask(client, &key_for(app, &everywhere_else).await, forwarded).await.expect_problem(403, "network_not_allowed");
    }
}

/// All addresses but one.
fn elsewhere(address: IpAddr) -> String {
    let (all, bits) = match address {
        IpAddr::V4(_) => ("0.0.0.0/0", 32),
        IpAddr::V6(_) => ("::/0", 128),
    };
    let mut rest = vec![];
    let mut network: ipnet::IpNet = all.parse().unwrap();
    for prefix in 1..=bits {
        for half in network.subnets(prefix).unwrap() {
            if half.contains(&address) {
                network = half;
            } else {
                rest.push(half.to_string());
            }
        }
    }
    rest.join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_the_peer_is_the_client_whatever_it_says() {
    for options in [&[][..], &[PROXIES][..]] {
        let app = TestApp::spawn(Kind::Sqlite, options).await;
        let client = client(&app, CLIENT, app.running.address);
        for forwarded in [&[][..], &["203.0.113.7"], &["127.0.0.2"], &["203.0.113.7, 127.0.0.3", "127.0.0.2"]] {
            assert_seen(&app, &client, forwarded, CLIENT).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_found_behind_one_nginx_and_behind_two() {
    let app = TestApp::spawn(Kind::Sqlite, &[PROXIES]).await;
    let (one, two) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let hops = [
        Hop { listen: one, to: app.running.address.to_string(), from: PROXY, kind: HopKind::Http },
        Hop { listen: two, to: one.to_string(), from: OTHER_PROXY, kind: HopKind::Http },
    ];
    let Some(_nginx) = Nginx::start(&hops, &app.data_dir.path().join("tls")) else { return };
    for server in [one, two] {
        let client = client(&app, CLIENT, server);
        assert_seen(&app, &client, &[], CLIENT).await;
        for forged in [&["203.0.113.7"][..], &["127.0.0.2"], &["203.0.113.7, 127.0.0.3"], &["rubbish", "127.0.0.3"]] {
            assert_seen(&app, &client, forged, CLIENT).await;
        }
    }
    // A proxy that is not listed speaks for itself alone.
    let proxy = client(&app, "127.0.0.4", app.running.address);
    assert_seen(&app, &proxy, &["203.0.113.7"], "127.0.0.4").await;
    // What a listed one says is believed; what it cannot have said is not.
    let proxy = client(&app, PROXY, app.running.address);
    assert_seen(&app, &proxy, &["198.51.100.1", "203.0.113.7, 127.0.0.3"], "203.0.113.7").await;
    assert_seen(&app, &proxy, &["203.0.113.7, unknown"], PROXY).await;
    assert_seen(&app, &proxy, &["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2:3:4:5:6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nginx_on_the_same_host_comes_over_a_socket_to_which_a_rename_leads_it() {
    let folder = tempfile::tempdir().unwrap();
    let [green, active] = ["green.sock", "active.sock"].map(|name| folder.path().join(name));
    // Left by one that was killed.
    drop(UnixListener::bind(&green).unwrap());
    let options = [("LISTEN_SOCKET", green.to_str().unwrap()), ("TRUSTED_PROXIES", "127.0.0.1")];
    let app = TestApp::spawn(Kind::Sqlite, &options).await;
    let rights = fs::metadata(&green).unwrap().permissions().mode();
    assert_eq!(rights & 0o777, 0o660);
    let listen = free_address("127.0.0.1");
    let to = format!("unix:{}", active.display());
    let hop = Hop { listen, to, from: PROXY, kind: HopKind::Http };
    let Some(_nginx) = Nginx::start(&[hop], &app.data_dir.path().join("tls")) else { return };
    let client = client(&app, CLIENT, listen);
    assert_eq!(client.get("/livez").await.status, 502, "it leads nowhere yet");
    let next = folder.path().join("next");
    symlink(&green, &next).unwrap();
    fs::rename(&next, &active).unwrap();
    assert_seen(&app, &client, &[], CLIENT).await;
    assert_seen(&app, &client, &["203.0.113.7"], CLIENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_found_over_ipv6_and_over_ipv4_on_one_socket() {
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("skipped: no IPv6 here");
    }
    let app = TestApp::spawn(Kind::Sqlite, &[("LISTEN", "[::]:0"), ("TRUSTED_PROXIES", "127.0.0.2")]).await;
    let port = app.running.address.port();
    assert_seen(&app, &client(&app, "::1", SocketAddr::new(ip("::1"), port)), &["203.0.113.7"], "::1").await;
    let over_ipv4 = SocketAddr::new(ip("127.0.0.1"), port);
    assert_seen(&app, &client(&app, CLIENT, over_ipv4), &["203.0.113.7"], CLIENT).await;
    assert_seen(&app, &client(&app, PROXY, over_ipv4), &["203.0.113.7"], "203.0.113.7").await;

    let front = free_address("::1");
    let hops = [Hop { listen: front, to: over_ipv4.to_string(), from: PROXY, kind: HopKind::Http }];
    let Some(_nginx) = Nginx::start(&hops, &app.data_dir.path().join("tls")) else { return };
    assert_seen(&app, &client(&app, "::1", front), &["203.0.113.7"], "::1").await;
}

const BEHIND_STREAMS: &[(&str, &str)] = &[PROXIES, ("PROXY_PROTOCOL", "true"), ("HEAD_TIMEOUT_S", "1")];

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_found_behind_an_nginx_that_passes_tls_on() {
    let app = TestApp::spawn(Kind::Sqlite, BEHIND_STREAMS).await;
    let (stream, front) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let hops = [
        Hop { listen: stream, to: app.running.address.to_string(), from: PROXY, kind: HopKind::Stream },
        Hop { listen: front, to: stream.to_string(), from: OTHER_PROXY, kind: HopKind::Http },
    ];
    let Some(_nginx) = Nginx::start(&hops, &app.data_dir.path().join("tls")) else { return };
    assert_seen(&app, &client(&app, CLIENT, stream), &["203.0.113.7"], CLIENT).await;
    // The stream names a proxy, and that one its client.
    assert_seen(&app, &client(&app, CLIENT, front), &["203.0.113.7"], CLIENT).await;
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip(from), 0)).unwrap();
    let stream = socket.connect(to).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The status of an answer to a request behind this header; the first bytes of TLS come together with the header's end.
async fn status_behind(header: &[u8], authority: &Path, server: SocketAddr, key: &str) -> u16 {
    let trust = tls::public_client(authority).unwrap();
    let mut tls = ClientConnection::new(trust.into(), "localhost".try_into().unwrap()).unwrap();
    let mut first = header.to_vec();
    tls.write_tls(&mut first).unwrap();
    let mut stream = connect(PROXY, server).await;
    let request = format!(
        "GET /v1/subjects HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    let answer = tokio::task::spawn_blocking(move || {
        let (beginning, rest) = first.split_at(13);
        stream.set_nodelay(true).unwrap();
        stream.write_all(beginning).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(rest).unwrap();
        let mut stream = StreamOwned::new(tls, stream);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    answer.await.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

fn version_2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let added = [&source[..], &[127, 0, 0, 1], &[0xd6, 0xd9, 0x01, 0xbb]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, 0x11, 0, added.len() as u8][..], &added].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_the_proxy_protocol_names_the_client_and_without_one_nobody_is_let_in() {
    let app = TestApp::spawn(Kind::Sqlite, BEHIND_STREAMS).await;
    let (named, proxy) = (key_for(&app, "203.0.113.7").await, key_for(&app, PROXY).await);
    let authority = app.running.authority.as_deref().unwrap();
    let status = async |header: &[u8], key: &str| status_behind(header, authority, app.running.address, key).await;
    let good = version_2(1, [203, 0, 113, 7]);
    let first_version = b"PROXY TCP4 203.0.113.7 127.0.0.1 55001 443\r\n";
    for header in [&good[..], first_version] {
        assert_eq!(status(header, &named).await, 200);
        assert_eq!(status(header, &proxy).await, 403);
    }
    let itself = version_2(0, [203, 0, 113, 7]);
    for header in [&itself[..], b"PROXY UNKNOWN\r\n"] {
        assert_eq!(status(header, &named).await, 403);
        assert_eq!(status(header, &proxy).await, 200);
    }

    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on, for longer than any signature";
    for bad in [&hello[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"PROXY TCP4 nonsense\r\n", &good[..20], b""]
    {
        assert!(is_closed(connect(PROXY, app.running.address).await, bad).await, "{bad:?}");
    }
    // Not from everywhere, however good the header.
    for from in [CLIENT, "127.0.0.1"] {
        assert!(is_closed(connect(from, app.running.address).await, &good).await, "{from}");
    }
    assert_eq!(status(&good, &named).await, 200);
}

/// Whether the server ends a connection that begins so, without a word.
async fn is_closed(mut stream: TcpStream, bytes: &[u8]) -> bool {
    let bytes = bytes.to_vec();
    let closed = tokio::task::spawn_blocking(move || {
        let _closed_meanwhile = stream.write_all(&bytes);
        let mut answer = [0; 64];
        match stream.read(&mut answer) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    });
    closed.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_address_and_no_header_makes_another_of_it() {
    let app = TestApp::spawn(Kind::Sqlite, &[PROXIES, ("RATE_ADDRESS", "10")]).await;
    let (one, other) = (client(&app, CLIENT, app.running.address), client(&app, "127.0.0.10", app.running.address));
    let ask = async |client: &Client, forwarded: String| {
        let request = client.request(reqwest::Method::GET, "/openapi.json").header("x-forwarded-for", forwarded);
        client.send(request).await
    };
    let mut asked = 0;
    while ask(&one, format!("203.0.113.{}", asked % 256)).await.status == 200 {
        asked += 1;
        assert!(asked <= 10, "nobody counts");
    }
    ask(&one, "127.0.0.2".to_owned()).await.expect_problem(429, "rate_limited");
    ask(&other, CLIENT.to_owned()).await.expect(200);
}

fn hash(app: &TestApp, address: &str) -> AddressHash {
    addresses::hash(app.running.flows(), ClientAddress::new(ip(address)))
}

/// Waits until the server hashes otherwise than before.
async fn turned(app: &TestApp, address: &str, before: AddressHash) -> AddressHash {
    let begin = Instant::now();
    loop {
        let now = hash(app, address);
        if now != before {
            return now;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "the key does not change");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A second server on the same key store.
async fn neighbour(app: &TestApp) -> TestApp {
    let secrets = app.data_dir.path().join("secrets").display().to_string();
    let shared = [("KEYSTORE_URL", app.databases.keystore.as_str()), ("SECRETS_DIR", secrets.as_str())];
    TestApp::spawn(app.databases.kind, &shared).await
}

fn periods(app: &TestApp) -> Vec<String> {
    let query = "SELECT CAST(starts_at AS TEXT) AS text FROM address_keys";
    app.databases.texts(&app.databases.keystore, query)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_hash_alike_and_with_the_next_period_the_old_key_is_gone() {
    each_database(|app| async move {
        let other = neighbour(&app).await;
        let before = hash(&app, "203.0.113.7");
        assert_eq!(hash(&other, "203.0.113.7"), before);
        assert_ne!(hash(&app, "203.0.113.8"), before);
        let old = periods(&app);
        assert_eq!(old.len(), 1);

        app.clock.advance(time::Duration::DAY);
        other.clock.advance(time::Duration::DAY);
        let after = turned(&app, "203.0.113.7", before).await;
        assert_eq!(turned(&other, "203.0.113.7", before).await, after);
        let new = periods(&app);
        assert_eq!(new.len(), 1);
        assert_ne!(new, old);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_store_a_period_ends_all_the_same() {
    each_database(|app| async move {
        let other = neighbour(&app).await;
        let (before, old) = (hash(&app, "203.0.113.7"), periods(&app));
        let rename = |from: &str, to: &str| {
            app.databases.execute(&app.databases.keystore, &format!("ALTER TABLE {from} RENAME TO {to}"));
        };
        rename("address_keys", "hidden");
        app.clock.advance(time::Duration::DAY);
        other.clock.advance(time::Duration::DAY);
        let own = turned(&app, "203.0.113.7", before).await;
        let other_own = turned(&other, "203.0.113.7", before).await;
        assert_ne!(own, other_own);
        let bound = key_for(&app, CLIENT).await;
        ask(&client(&app, CLIENT, app.running.address), &bound, &[]).await.expect(200);

        rename("hidden", "address_keys");
        let shared = turned(&app, "203.0.113.7", own).await;
        assert_eq!(turned(&other, "203.0.113.7", other_own).await, shared);
        assert_ne!(shared, before);
        assert!(periods(&app).len() == 1 && periods(&app) != old);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_know_a_caller_by_its_hash_alone() {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("log");
    let process = Process::start_with(data.path(), |command| {
        // The health check, too, comes through the door of the proxies, from 127.0.0.1.
        command.env("VELUM_TRUSTED_PROXIES", format!("127.0.0.1,{PROXY}")).env("VELUM_PROXY_PROTOCOL", "true");
        command.env("VELUM_LOG", "trace").env("VELUM_LOG_FORMAT", "json").stderr(File::create(&log).unwrap());
    });
    let (authority, server) = (process.authority(), SocketAddr::new(ip("127.0.0.1"), process.port));
    for source in [[203, 0, 113, 7], [203, 0, 113, 8], [203, 0, 113, 7]] {
        assert_eq!(status_behind(&version_2(1, source), &authority, server, "nonsense").await, 401);
    }
    assert!(is_closed(connect(CLIENT, server).await, &version_2(1, [203, 0, 113, 7])).await);

    let answered = || -> (String, Vec<String>) {
        let text = fs::read_to_string(&log).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines = lines.filter(|line| line["event"] == "request" && line["status"] == 401);
        let hashes = lines.map(|line| line["span"]["address"].as_str().unwrap().to_owned()).collect();
        (text, hashes)
    };
    let begin = Instant::now();
    while answered().1.len() < 3 || !answered().0.contains("connection_refused") {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", answered().0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (text, hashes) = answered();
    assert_eq!(hashes[0], hashes[2]);
    assert_ne!(hashes[0], hashes[1]);
    assert!(hashes.iter().all(|hash| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())));
    for readable in ["203.0.113", CLIENT, PROXY] {
        assert!(!text.contains(readable), "{readable} stands in the log");
    }
}
