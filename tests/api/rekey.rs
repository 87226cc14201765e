//! Another key of the encryption for templates that are there, while the service works, and with the program killed half-way.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use time::OffsetDateTime;
use velum::{
    audit::{Action, Actor, Event},
    domain::{
        consent::Purpose,
        id::{EnrolmentId, SubjectId, TenantId},
    },
    fhe::params::PARAMETER_ID,
    secrets::{self, Secrets},
    settings::Settings,
    store::{Act, KeyStore, NewSubject, NewTemplate, Store, TemplateKind, Tenant},
};

use super::helpers::{Client, Kind, Process, consent_of, databases::Databases, engine, photos};

/// More than two steps of the command.
const OTHERS: usize = 300;

struct Installation {
    data: tempfile::TempDir,
    databases: Databases,
}

impl Installation {
    /// With keys of its own, which begin as those of all tests.
    fn new(kind: Kind) -> Self {
        engine::make_keys_once();
        let data = tempfile::tempdir().unwrap();
        let fhe = data.path().join("fhe");
        secrets::create_private_folder(&fhe).unwrap();
        for name in ["public.key", "evaluation.key", "secret.key"] {
            fs::copy(engine::fhe_dir().join(name), fhe.join(name)).unwrap();
        }
        let databases = Databases::make(kind, data.path());
        Self { data, databases }
    }

    fn path(&self) -> &Path {
        self.data.path()
    }

    fn prepare(&self, command: &mut Command) {
        self.databases.are_of(command).env("VELUM_FHE_DIR", self.path().join("fhe"));
    }

    fn start(&self) -> Process {
        Process::start_with(self.path(), |command| self.prepare(command))
    }

    fn rotate(&self, arguments: &[&str]) -> Command {
        self.rotate_kind("fhe", arguments)
    }

    fn rotate_kind(&self, kind: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
        command.env_clear().env("VELUM_DATA_DIR", self.path());
        self.prepare(&mut command);
        // Whoever exchanges data keys waits for requests to end.
        command.env("VELUM_REQUEST_TIMEOUT_S", "1");
        command.args(["keys", "rotate", kind]).args(arguments).stderr(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// What the command printed, and whether it succeeded.
    fn rotated(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.rotate(arguments).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    }

    fn left(&self) -> u64 {
        let (ok, text) = self.rotated(&["--status", "--json"]);
        assert!(ok, "{text}");
        let report: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        report["left"].as_u64().unwrap()
    }

    /// People of another tenant, whose templates are only to be brought under the new key.
    async fn add_others(&self) {
        let settings = Settings::embedded(self.path()).unwrap();
        let held = Secrets::read(&settings.secrets).unwrap();
        let store = Store::connect(&self.databases.main, 4, held.blind_index).await.unwrap();
        let keystore = KeyStore::connect(&self.databases.keystore, 4, held.key_encryption_keys).await.unwrap();
        let public_key = secrets::read_public_key(&self.path().join("fhe")).unwrap();
        let now = OffsetDateTime::now_utc();
        let tenant = Tenant { id: TenantId::generate(), name: "others".to_owned(), created_at: now };
        store.tenants().create(&tenant, Actor::operator()).await.unwrap();
        let template = secrets_of_nobody(&public_key);
        for number in 0..OTHERS {
            let subject = SubjectId::generate();
            let key = keystore.create(tenant.id, subject, now).await.unwrap();
            let new = NewSubject { id: subject, external_ref: &format!("other-{number}"), created_at: now };
            store.subjects().insert(tenant.id, new, &key, act()).await.unwrap();
            let purpose = Purpose::face_verification();
            let consent = consent_of(subject, now);
            store.consents().insert(tenant.id, &consent, &key, act()).await.unwrap();
            let kind = TemplateKind {
                model: "test-cosine".parse().unwrap(),
                parameter_id: PARAMETER_ID.to_owned(),
                fhe_key_id: public_key.key_id().to_string(),
            };
            let id = EnrolmentId::generate();
            let new = NewTemplate {
                id,
                subject,
                purpose: &purpose,
                kind,
                older_key: None,
                template: &template,
                created_at: now,
            };
            store.templates().insert(tenant.id, new, &key, act()).await.unwrap();
        }
    }
}

fn act() -> Act {
    Event::of(Actor::operator(), Action::SubjectCreated, "other", OffsetDateTime::now_utc()).into()
}

fn secrets_of_nobody(public_key: &velum::fhe::keys::PublicKey) -> Vec<u8> {
    use velum::{
        domain::{
            decision::FalseMatchRate,
            face::Embedding,
            matching::{MatchSpec, Metric, Threshold},
        },
        fhe::encode::QuantizedTemplate,
    };
    let spec = MatchSpec {
        model: "test-cosine".parse().unwrap(),
        metric: Metric::Cosine,
        dimension: 128,
        mean: None,
        scale: 147.0,
        component_max: 63,
        norm_bound: 1.02,
        thresholds: [(FalseMatchRate::E3, Threshold(0.336))].into(),
    };
    let components = (0..128).map(|index| ((index * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let embedding = Embedding::normalised(spec.model.clone(), zeroize::Zeroizing::new(components)).unwrap();
    public_key.encrypt_template(QuantizedTemplate::encode(&spec, &embedding).unwrap()).to_bytes()
}

/// Two persons, and what verifications of them come to.
struct People {
    collins: String,
    hopper: String,
}

impl People {
    async fn enrolled(client: &Client) -> Self {
        let (collins, hopper) = (client.consenting_subject().await, client.consenting_subject().await);
        client.enrol(&collins, photos::collins()).await.expect(201);
        client.enrol(&hopper, photos::hopper()).await.expect(201);
        Self { collins, hopper }
    }

    async fn decisions(&self, client: &Client) -> Vec<String> {
        let mut decisions = Vec::new();
        for (subject, photo) in [
            (&self.collins, photos::collins_changed()),
            (&self.collins, photos::hopper()),
            (&self.hopper, photos::hopper()),
            (&self.hopper, photos::collins()),
        ] {
            let answer = client.verify(subject, photo).await.expect(201).json();
            decisions.push(answer["decision"].as_str().unwrap().to_owned());
        }
        decisions
    }
}

const AS_EVER: [&str; 4] = ["match", "no_match", "match", "no_match"];

async fn restarted(installation: &Installation, mut process: Process) -> (Process, Client) {
    process.signal("-TERM");
    assert!(process.ended().await.success());
    let process = installation.start();
    let client = process.client().await;
    (process, client)
}

async fn templates_are_brought_under_another_key(kind: Kind) {
    let installation = Installation::new(kind);
    let process = installation.start();
    let client = process.client().await;
    let people = People::enrolled(&client).await;
    installation.add_others().await;
    assert_eq!(people.decisions(&client).await, AS_EVER);
    let fhe = installation.path().join("fhe");
    let old_key = secrets::read_public_key(&fhe).unwrap().key_id().to_string();
    let old_rows = |column: &str| format!("SELECT {column} AS text FROM enrolments ORDER BY id");
    let main = &installation.databases.main;

    let (ok, begun) = installation.rotated(&["--begin"]);
    assert!(ok && begun.contains(&format!("old key {old_key}")), "{begun}");
    assert!(!installation.rotated(&["--begin"]).0, "one rotation at a time");
    let new_key = secrets::read_public_key(&fhe).unwrap().key_id().to_string();
    let (process, client) = restarted(&installation, process).await;

    // Nothing was re-keyed yet: older templates are compared all the same, and new ones come under the new key.
    assert_eq!(installation.left(), OTHERS as u64 + 2);
    assert_eq!(people.decisions(&client).await, AS_EVER);
    client.enrol(&people.collins, photos::collins()).await.expect(201);
    assert_eq!(installation.left(), OTHERS as u64 + 2);

    let mut running = installation.rotate(&["--json"]).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    running.kill().unwrap(); // SIGKILL
    running.wait().unwrap();
    let left = installation.left();
    eprintln!("killed with {left} of {} left", OTHERS + 2);
    assert!(left > 0 && left < OTHERS as u64 + 2, "{left}");
    assert_eq!(people.decisions(&client).await, AS_EVER);
    let (ok, refused) = installation.rotated(&["--finish"]);
    assert!(!ok && refused.contains(&format!("{left} templates lie under the old key still")), "{refused}");
    assert!(fhe.join("retiring.key").exists() && fhe.join("rekey.key").exists());

    // The rest of them, while people are verified.
    let done = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (client, done) = (client.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                assert_eq!(people.decisions(&client).await, AS_EVER);
                rounds += 1;
            }
            people
        })
    };
    let (ok, told) = installation.rotated(&[]);
    done.store(true, Ordering::Relaxed);
    let people = traffic.await.unwrap();
    assert!(ok && told.contains("0 templates are left"), "{told}");

    let (ok, told) = installation.rotated(&["--finish"]);
    assert!(ok && told.contains("retiring.key") && told.contains("rekey.key"), "{told}");
    assert!(!fhe.join("retiring.key").exists() && !fhe.join("rekey.key").exists());
    let recorded = "SELECT action || ' ' || object AS text FROM audit_events WHERE action LIKE 'keys.%' ORDER BY tenant_id, sequence";
    let recorded = installation.databases.texts(main, recorded);
    assert_eq!(recorded.last(), Some(&format!("keys.fhe_retired {old_key}")));
    assert!(recorded.iter().any(|entry| entry == &format!("keys.fhe_took_over {new_key}")), "{recorded:?}");
    let (process, client) = restarted(&installation, process).await;
    assert_eq!(people.decisions(&client).await, AS_EVER);
    assert!(!installation.databases.texts(main, &old_rows("fhe_key_id")).contains(&old_key));

    // Whatever still bears the old key is of no use any more.
    let hopper = &people.hopper;
    let back = format!("UPDATE enrolments SET fhe_key_id = '{old_key}' WHERE subject_id = '{hopper}'");
    installation.databases.execute(main, &back);
    client.verify(hopper, photos::hopper()).await.expect_problem(409, "enrolments_stale");
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_brought_under_another_key_while_people_are_verified_on_sqlite() {
    templates_are_brought_under_another_key(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_brought_under_another_key_while_people_are_verified_on_postgres() {
    if !Kind::Postgres.is_here() {
        return eprintln!("skipped: VELUM_TEST_POSTGRES_URL is not set");
    }
    templates_are_brought_under_another_key(Kind::Postgres).await;
}

async fn data_keys_are_exchanged(kind: Kind) {
    let installation = Installation::new(kind);
    let process = installation.start();
    let client = process.client().await;
    let people = People::enrolled(&client).await;
    let keystore = &installation.databases.keystore;
    let created = "SELECT CAST(created_at AS TEXT) AS text FROM data_keys ORDER BY subject_id";
    let before = installation.databases.texts(keystore, created);
    assert_eq!(people.decisions(&client).await, AS_EVER);

    // Killed when everything was sealed anew and both keys are still there.
    let arguments = ["--data-keys", "--older-than", "0", "--json"];
    let mut running = installation.rotate_kind("field", &arguments).spawn().unwrap();
    let lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.contains("resealed")));
    running.kill().unwrap(); // SIGKILL
    running.wait().unwrap();
    assert_eq!(installation.databases.count(keystore, "data_keys", "next_wrapped IS NOT NULL"), 2);
    assert_eq!(people.decisions(&client).await, AS_EVER);

    let output = installation.rotate_kind("field", &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(installation.databases.count(keystore, "data_keys", "next_wrapped IS NOT NULL"), 0);
    let after = installation.databases.texts(keystore, created);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    assert_eq!(people.decisions(&client).await, AS_EVER);
    let listed = client.get(&format!("/v1/subjects/{}/verifications", people.collins)).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 6, "also what was decided before");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_are_exchanged_while_the_service_works_on_sqlite() {
    data_keys_are_exchanged(Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_are_exchanged_while_the_service_works_on_postgres() {
    if !Kind::Postgres.is_here() {
        return eprintln!("skipped: VELUM_TEST_POSTGRES_URL is not set");
    }
    data_keys_are_exchanged(Kind::Postgres).await;
}
