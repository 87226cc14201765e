//! What must be nowhere, searched everywhere: a name, an address, credentials, a photo and its embedding go through every route of the API,
//! refusals and panics included, and then the log at its most talkative, the databases, Redis, the metrics and every file that the
//! process left are searched for them, as they are and in base64 and hexadecimal.
//!
//! Left out is what is there to hold secrets, in a file of its own with mode 0600: the folder of keys, and the credential that
//! the embedded set-up writes down for its first client.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use reqwest::Method;
use serde_json::{Value, json};
use velum::{
    domain::face::{MultipleFaces, UploadedImage},
    face::{FacePipeline, Runtime},
    http::openapi,
    settings::Settings,
    telemetry::{self, LogConfig, LogFormat},
};
use zeroize::Zeroizing;

use super::helpers::{
    Answer, Client, Kind, Process, Redis, TestApp, WithForm as _, credential_in, databases::Databases, free_port,
    onnxruntime, photos, scrape,
};

const NAME: &str = "canary-Zwiebelturm-5b1f0c9a";
/// As a trusted proxy says it.
const ADDRESS: &str = "203.0.113.177";
const NOTE: &str = "canary-Kirschkern-e07d42c8";

/// Something that must not be found, in every form in which it might be.
struct Canary {
    what: &'static str,
    forms: Vec<Vec<u8>>,
    /// Decimal numbers: each form followed by the next one, some characters later.
    in_sequence: bool,
}

impl Canary {
    fn new(what: &'static str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 12, "{what}: too short to be found by anything but chance");
        let mut forms = vec![bytes.to_vec(), hex::encode(bytes).into(), hex::encode_upper(bytes).into()];
        // In base64 a text looks different at each of three positions; its first and last characters depend on its neighbours.
        for skipped in 0..3 {
            let inside = &bytes[skipped..];
            let whole = &inside[..inside.len() / 3 * 3];
            forms.push(BASE64_STANDARD.encode(whole).into());
            forms.push(BASE64_URL_SAFE_NO_PAD.encode(whole).into());
        }
        Self { what, forms, in_sequence: false }
    }

    /// Five digits of each number, wherever its point stands.
    fn decimals(what: &'static str, numbers: &[f32]) -> Self {
        let digits = |number: &f32| {
            let digits = format!("{:.12}", number.abs()).replace('.', "");
            digits.trim_start_matches('0').as_bytes()[..5].to_vec()
        };
        Self { what, forms: numbers.iter().map(digits).collect(), in_sequence: true }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        if !self.in_sequence {
            return self.forms.iter().any(|form| position(text, form).is_some());
        }
        let mut from = 0;
        while let Some(at) = position(&text[from..], &self.forms[0]) {
            from += at + 1;
            let follows = |at: Option<usize>, form: &Vec<u8>| {
                let near = &text[at?..text.len().min(at? + 60)];
                position(near, form).map(|further| at.unwrap() + further + 1)
            };
            if self.forms[1..].iter().fold(Some(from), follows).is_some() {
                return true;
            }
        }
        false
    }
}

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let (first, rest) = wanted.split_first().expect("something to look for");
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| byte == first) {
        let at = from + at;
        if text[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[test]
fn a_canary_is_found_in_every_form() {
    let secret = b"canary-Zwiebelturm";
    let canary = Canary::new("a secret", secret);
    for before in ["", "x", "xy", "xyz"] {
        let text = [before.as_bytes(), secret, b"and more"].concat();
        for form in [text.clone(), hex::encode(&text).into(), BASE64_STANDARD.encode(&text).into()] {
            assert!(canary.is_in(&form), "{}", String::from_utf8_lossy(&form));
        }
    }
    assert!(!canary.is_in(b"canary-Zwiebelkuchen"));
    let numbers = Canary::decimals("a vector", &[-0.012_345_678, 0.087_654_32, 0.5]);
    for text in [
        "[-0.012345678, 0.08765432, 0.50000]",
        "12345678e-9 then 87654e-6 then 50000e-5",
        "-0.0123457,0.0876543,0.50000",
    ] {
        assert!(numbers.is_in(text.as_bytes()), "{text}");
    }
    assert!(!numbers.is_in(b"[0.012345678, 0.5]"));
}

/// A photo of somebody with a note in its EXIF.
fn photo() -> Vec<u8> {
    let jpeg = photos::hopper();
    let mut tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x0e\0\x02".to_vec();
    tiff.extend((NOTE.len() as u32 + 1).to_be_bytes());
    tiff.extend(26_u32.to_be_bytes());
    tiff.extend(0_u32.to_be_bytes());
    tiff.extend(NOTE.as_bytes());
    tiff.push(0);
    let note = [b"Exif\0\0".as_slice(), &tiff].concat();
    let length = (note.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], b"\xff\xe1", &length, &note, &jpeg[2..]].concat()
}

/// The embedding that the server makes of it.
fn embedding(photo: &[u8]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let face = Settings::embedded(folder.path()).unwrap().face;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let runtime = Runtime::open(Path::new(&onnxruntime(root))).unwrap();
    let pipeline = FacePipeline::load(&runtime, &root.join("models"), face.embedder.as_ref(), 1).unwrap();
    let image = UploadedImage::new(Zeroizing::new(photo.to_vec())).unwrap();
    pipeline.embed(image, MultipleFaces::Refuse).unwrap().embedding.expose_components().to_vec()
}

/// A photo and an embedding anywhere, and the two names.
fn canaries_of(photo: &[u8]) -> Vec<Canary> {
    let embedding = embedding(photo);
    let bytes: Vec<u8> = embedding.iter().flat_map(|component| component.to_le_bytes()).collect();
    let middle = photo.len() / 2;
    let mut canaries = vec![
        Canary::new("the name", NAME.as_bytes()),
        Canary::new("the address", ADDRESS.as_bytes()),
        Canary::new("the photo's note", NOTE.as_bytes()),
        Canary::new("the photo", &photo[middle..middle + 24]),
        Canary::new("the end of the photo", &photo[photo.len() - 1_000..photo.len() - 976]),
    ];
    for at in [0, 40, 100] {
        canaries.push(Canary::new("the embedding", &bytes[4 * at..4 * at + 16]));
        canaries.push(Canary::decimals("the embedding in decimals", &embedding[at..at + 3]));
    }
    canaries
}

/// Every operation of the OpenAPI document.
fn operations() -> Vec<(Method, String)> {
    let document: Value = serde_json::from_str(openapi::document_json()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        methods.filter_map(|method| Some((method.to_uppercase().parse().ok()?, path.clone())))
    });
    operations.collect()
}

/// A path whose parameters are real ids, as far as there are any, or a name in their place.
fn filled(path: &str, ids: &[(&str, &str)]) -> String {
    let parts = path.split('/').map(|part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(parameter) => ids.iter().find(|(name, _)| *name == parameter).map_or(NAME, |(_, id)| id),
        None => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

struct Canaries<'a> {
    client: &'a Client,
    photo: &'a [u8],
    secret: &'a str,
}

impl Canaries<'_> {
    /// What an operation gets to see: everything, wherever it can be put. Most of it is refused.
    async fn fly_through(&self, method: &Method, path: &str) -> Vec<Answer> {
        let token = self.client.token.as_deref().unwrap();
        let bodies: [(&str, Vec<u8>); 7] = [
            ("application/json", json!({ "external_ref": NAME, "purpose": NAME, NAME: token, "name": NAME }).to_string().into()),
            ("application/json", json!({ "purpose": "face_verification", "notice_version": NAME, "scopes": [NAME] }).to_string().into()),
            ("application/json", format!("{{\"external_ref\": {NAME}, {}", self.secret).into()),
            ("application/x-www-form-urlencoded", format!("grant_type={NAME}&client_id={NAME}&client_secret={}&token={token}&scope={NAME}", self.secret).into()),
            ("image/jpeg", self.photo.to_vec()),
            // Cut off, so that it cannot be decoded; and a form that ends in the middle of it.
            ("image/jpeg", self.photo[..self.photo.len() / 2 + 100].to_vec()),
            ("multipart/form-data; boundary=b", [format!("--b\r\ncontent-disposition: form-data; name=\"{NAME}\"\r\n\r\n{NAME}\r\n--b\r\ncontent-disposition: form-data; name=\"image\"\r\n\r\n").as_bytes(), self.photo].concat()),
        ];
        let query = format!("{path}?external_ref={NAME}&cursor={NAME}&{NAME}={token}&on_multiple_faces={NAME}");
        let mut answers = vec![];
        for (kind, body) in bodies {
            let request = |path: &str, token: &str| {
                let request = self.client.http.request(method.clone(), format!("{}{path}", self.client.base));
                let request =
                    request.header("content-type", kind).header("user-agent", NAME).header("traceparent", NAME);
                let request =
                    request.header("x-forwarded-for", ADDRESS).header("idempotency-key", NAME).header("referer", token);
                request.header("cookie", self.secret).bearer_auth(token).body(body.clone())
            };
            let broken = format!("{token}x");
            for request in
                [request(path, token), request(&query, token), request(path, &broken), request(path, self.secret)]
            {
                answers.push(self.client.send(request).await);
            }
        }
        answers
    }
}

/// Everything below a folder but what is there to hold secrets.
fn files_below(folder: &Path, data: &Path) -> Vec<PathBuf> {
    let excluded = [data.join("secrets"), data.join("tls"), data.join("dev_client.json")];
    let mut found = vec![];
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            _ if excluded.contains(&path) => {}
            true => found.extend(files_below(&path, data)),
            false => found.push(path),
        }
    }
    found
}

/// All rows of all tables, as text; bytes come out in hexadecimal.
fn dump(databases: &Databases) -> Vec<(String, Vec<u8>)> {
    let tables = "SELECT table_name::text AS text FROM information_schema.tables WHERE table_schema = 'public'";
    let mut dumps = vec![];
    for url in [&databases.main, &databases.keystore, &databases.ledger, &databases.journal] {
        for table in databases.texts(url, tables) {
            let rows = databases.texts(url, &format!("SELECT t::text AS text FROM \"{table}\" t"));
            dumps.push((format!("table {table}"), rows.join("\n").into_bytes()));
        }
    }
    dumps
}

async fn search_everything(kind: Kind) {
    let house = tempfile::tempdir().unwrap();
    let (data, temporary, log) = (house.path().join("data"), house.path().join("temporary"), house.path().join("log"));
    fs::create_dir(&temporary).unwrap();
    let databases = Databases::make(kind, &data);
    let (metrics, redis) = (free_port(), Redis::start());
    let mut process = Process::start_with(&data, |command| {
        databases
            .are_of(command)
            .env("TMPDIR", &temporary)
            .env("RUST_BACKTRACE", "1")
            .env("VELUM_LOG", "trace")
            .env("VELUM_LOG_FORMAT", "json")
            .env("VELUM_METRICS_LISTEN", format!("127.0.0.1:{metrics}"))
            .env("VELUM_CORS_ORIGINS", "https://app.example")
            .env("VELUM_TRUSTED_PROXIES", "127.0.0.1")
            .env("VELUM_REDIS_URL", redis.url())
            .env("VELUM_RATE_CLIENT", "1000000")
            .env("VELUM_RATE_ADDRESS", "1000000")
            .stderr(File::create(&log).unwrap());
    });
    let (id, secret) = credential_in(&data);
    let client = process.client().await;
    let photo = photo();
    let mut canaries = canaries_of(&photo);

    // The way things should go.
    let subject = client.post("/v1/subjects", json!({ "external_ref": NAME })).await.expect(201).id();
    client.get(&format!("/v1/subjects?external_ref={NAME}")).await.expect(200);
    let consent = client.consent(&subject).await;
    let enrolment = client.enrol(&subject, photo.clone()).await.expect(201).id();
    client.verify(&subject, photo.clone()).await.expect(201);
    client.verify(&subject, photos::nobody()).await.expect(422);
    client.verify(&subject, photos::two_faces()).await.expect(422);
    let form = [("grant_type", "client_credentials"), ("client_id", id.as_str()), ("client_secret", secret.as_str())];
    let other_token = client.post_token(&form).await.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    let about = [("token", other_token.as_str()), form[1], form[2]];
    client.post_oauth("/oauth/introspect", &about).await.expect(200);
    client.post_oauth("/oauth/revoke", &about).await.expect(200);
    let api_key = key_of(&process, &databases).await;
    let keyed = Client { token: Some(api_key.clone()), ..client.clone() };
    keyed.get("/v1/subjects").await.expect(200);

    let officer = process.client_with_scopes(&databases, "dsr").await;
    let body = json!({ "subject_id": subject, "verified": true });
    let access = officer.post("/v1/access-requests", body).await.expect(201).json();
    let (link, passphrase) = (access["link"].as_str().unwrap(), access["passphrase"].as_str().unwrap());
    let path = &link[link.find("/v1/packages/").unwrap()..];
    client.get(path).await.expect(200);
    client.get(&format!("{path}?{NAME}=1")).await.expect(200);
    client.get(&format!("{path}0")).await.expect(404);

    let hidden = |text: &str| text.as_bytes()[text.len() - 40..].to_vec();
    let token = client.token.as_deref().unwrap();
    canaries.push(Canary::new("the token", token.split('.').nth(2).unwrap().as_bytes()));
    canaries.push(Canary::new("the token's claims", token.split('.').nth(1).unwrap().as_bytes()));
    canaries.push(Canary::new("the revoked token", &hidden(&other_token)));
    canaries.push(Canary::new("the client's secret", &hidden(&secret)));
    canaries.push(Canary::new("the API key", &hidden(&api_key)));
    canaries.push(Canary::new("the link to a package", &hidden(link)));
    canaries.push(Canary::new("the passphrase of a package", passphrase.as_bytes()));

    // And every other way: with real ids, with none, and with no right to it.
    let ids = [("subject", subject.as_str()), ("consent", &consent), ("enrolment", &enrolment), ("key", NAME)];
    let others = process.client_with_scopes(&databases, "dsr audit:read admin").await;
    let signature = others.token.as_deref().unwrap().split('.').nth(2).unwrap();
    canaries.push(Canary::new("the token of others", signature.as_bytes()));
    for (method, path) in operations() {
        // What ends the person comes last.
        let ends = method == Method::DELETE || path.ends_with("/withdraw");
        for (client, ids) in [(&client, &ids[..]), (&client, &[]), (&others, &[])] {
            if ends && !ids.is_empty() {
                continue;
            }
            let canaries = Canaries { client, photo: &photo, secret: &secret };
            let answers = canaries.fly_through(&method, &filled(&path, ids)).await;
            for answer in &answers {
                assert_ne!(answer.status.as_u16(), 500, "{method} {path}: {}", answer.text);
            }
        }
    }
    for path in ["", "/sign-in", "/erasures", "/erasures/{erasure}", "/persons", "/audit", "/nowhere"] {
        let canaries = Canaries { client: &client, photo: &photo, secret: &secret };
        for method in [Method::GET, Method::POST] {
            for answer in canaries.fly_through(&method, &filled(&format!("/console{path}"), &[])).await {
                assert_ne!(answer.status.as_u16(), 500, "{method} /console{path}: {}", answer.text);
            }
        }
    }
    let preflight = client.request(Method::OPTIONS, &format!("/v1/subjects/{NAME}")).header("origin", NAME);
    client.send(preflight.header("access-control-request-method", "POST")).await.expect(400);
    client.withdraw(&subject, &consent).await.expect(200);
    client.verify(&subject, photo.clone()).await.expect(403);
    let erased = client.subject().await;
    client.delete(&format!("/v1/subjects/{erased}")).await;

    let scraped = scrape(([127, 0, 0, 1], metrics).into(), "/metrics");
    let running: Vec<_> =
        files_below(&data, &data).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    process.signal("-TERM");
    assert!(process.ended().await.success());

    let mut places = vec![("the metrics".to_owned(), scraped.into_bytes()), ("Redis".to_owned(), redis.log())];
    let named = |(path, bytes): (PathBuf, Vec<u8>)| (path.display().to_string(), bytes);
    places.extend(running.into_iter().map(named));
    for folder in [&data, &temporary] {
        places
            .extend(files_below(folder, &data).into_iter().map(|path| named((path.clone(), fs::read(path).unwrap()))));
    }
    places.push(("the log".to_owned(), fs::read(&log).unwrap()));
    if kind == Kind::Postgres {
        places.extend(dump(&databases));
    }
    // Whoever looks finds what may be there.
    let database = if kind == Kind::Postgres { "table" } else { "velum.db" };
    let (route, counter) = ("/v1/subjects/{subject}/verifications", "velum:rate:address:");
    for (somewhere, wanted) in [("the log", route), (database, subject.as_str()), ("Redis", counter)] {
        let is_there = |(name, bytes): &(String, Vec<u8>)| {
            name.contains(somewhere) && position(bytes, wanted.as_bytes()).is_some()
        };
        assert!(places.iter().any(is_there), "{wanted} is not even in {somewhere}");
    }
    let hits: Vec<_> = places
        .iter()
        .flat_map(|(place, bytes)| {
            canaries.iter().filter(|canary| canary.is_in(bytes)).map(move |canary| (canary.what, place))
        })
        .map(|(what, place)| format!("{what} is in {place}"))
        .collect();
    let bytes: usize = places.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("{} places, {bytes} bytes, {} canaries: {} hits", places.len(), canaries.len(), hits.len());
    assert!(hits.is_empty(), "\n{}\n", hits.join("\n"));
    assert_eq!(files_below(&temporary, &data), [] as [PathBuf; 0], "nothing is left among temporary files");
}

/// An API key of the first tenant, made by a client that the operator gave the right to.
async fn key_of(process: &Process, databases: &Databases) -> String {
    let admin = process.client_with_scopes(databases, "admin subjects").await;
    let body = json!({ "name": "back office", "scopes": ["subjects"] });
    admin.post("/v1/api-keys", body).await.expect(201).json()["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_identifies_anybody_is_left_behind() {
    for kind in Kind::here() {
        search_everything(kind).await;
    }
}

/// A panic's message, and what the computation held, on a server as `velum serve` starts it; but here in this very program, for
/// the server itself has nothing that could be made to panic.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_tells_nothing_either() {
    const CHILD: &str = "VELUM_TEST_PANICS";
    if std::env::var_os(CHILD).is_some() {
        return panic_on_purpose().await;
    }
    let photo = photo();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "canary::a_panic_tells_nothing_either", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let told = [child.stdout, child.stderr].concat();
    let text = String::from_utf8_lossy(&told);
    assert!(child.status.success() && text.matches("a thread panicked").count() >= 3, "{text}");
    let hits: Vec<_> =
        canaries_of(&photo).iter().filter(|canary| canary.is_in(&told)).map(|canary| canary.what).collect();
    assert_eq!(hits, [""; 0]);
}

async fn panic_on_purpose() {
    telemetry::start(&LogConfig { format: LogFormat::Pretty, filter: "trace".to_owned() });
    let app = TestApp::start().await;
    let (photo, compute) = (photo(), app.running.flows().compute());
    let embedding = embedding(&photo);
    let held = photo.clone();
    compute.reserve().unwrap().run(move || panic!("{NAME} {held:?}")).await.unwrap_err();
    compute.reserve().unwrap().run(move || panic!("{embedding:?}")).await.unwrap_err();
    let in_a_task = tokio::spawn(async move { std::panic::panic_any(format!("{NOTE} {photo:?}")) });
    assert!(in_a_task.await.unwrap_err().is_panic());
    // The server goes on.
    let client = app.client().await;
    let form = client.request(Method::POST, "/oauth/token").with_form(&[("client_secret", NAME)]);
    client.send(form).await.expect(400);
}
