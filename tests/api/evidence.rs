//! `velum evidence` beside a running server: the right figures, nobody's name, and a signature over all of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::{Value, json};

use super::helpers::{Client, Kind, Process, databases::Databases};

const NAME: &str = "canary-Holzapfel-77aa01";
const EVIDENCE: &str = "canary-Schublade-77aa02";
const REASON: &str = "canary-Nachbarin-77aa03";

struct House {
    data: tempfile::TempDir,
    databases: Databases,
    process: Process,
}

impl House {
    fn build(kind: Kind) -> Self {
        let data = tempfile::tempdir().unwrap();
        let databases = Databases::make(kind, data.path());
        let process = Process::start_with(data.path(), |command| {
            databases.are_of(command);
        });
        Self { data, databases, process }
    }

    fn velum(&self, arguments: &[&str]) -> Output {
        let mut command = self.process.command();
        self.databases.are_of(&mut command);
        command.current_dir(self.data.path()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().unwrap()
    }

    /// A pack below this folder.
    fn pack(&self, out: &str, more: &[&str]) -> PathBuf {
        let written = self.velum(&[&["evidence", "--out", out], more].concat());
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        self.data.path().join(String::from_utf8(written.stdout).unwrap().trim())
    }

    fn verify(&self, pack: &Path, jwks: &str) -> Output {
        self.velum(&["evidence", "verify", &pack.display().to_string(), "--jwks", jwks])
    }

    /// A client of this tenant that may do all.
    async fn admin_of(&self, tenant: &str) -> (Client, String) {
        let made = self.velum(&["clients", "create", "--tenant", tenant, "--role", "admin", "--json"]);
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let (id, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap().to_owned());
        let client = Client::stranger(&self.process.authority(), self.process.port);
        (client.with_token(id, &secret, "").await, secret)
    }
}

async fn person(client: &Client, number: usize) -> (String, String) {
    let made = client.post("/v1/subjects", json!({ "external_ref": format!("{NAME}-{number}") })).await.expect(201);
    let consent = json!({ "purpose": "face_verification", "notice_version": "1", "evidence_ref": EVIDENCE });
    let consent = client.post(&format!("/v1/subjects/{}/consents", made.id()), consent).await.expect(201).id();
    (made.id(), consent)
}

fn read(pack: &Path, file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(pack.join(file)).unwrap()).unwrap()
}

/// Three persons of the clinic: one is erased, one withdraws, of one an erasure is overdue and on hold. One of another tenant.
async fn live_through_something(client: &Client, elsewhere: &Client) {
    let notice = json!({
        "purpose": "face_verification", "version": "1", "language": "en", "text": "We compare photos.",
        "controller": { "name": "Example Clinic", "contact": "privacy@clinic.example" },
        "retention": "P3Y", "data_categories": ["face template"], "recipients": ["Example Hosting GmbH"],
        "material_change": false,
    });
    client.post("/v1/notices", notice).await.expect(201);
    let mut persons = vec![];
    for number in 0..3 {
        persons.push(person(client, number).await);
    }
    person(elsewhere, 9).await;
    client.delete(&format!("/v1/subjects/{}", persons[0].0)).await.expect(204);
    client.withdraw(&persons[1].0, &persons[1].1).await.expect(200);
    let asked = json!({ "subject_id": persons[2].0, "regulation": "gdpr", "received_at": "2026-01-01T00:00:00Z" });
    client.post("/v1/access-requests", asked.clone()).await.expect(201);
    let request = client.post("/v1/erasure-requests", asked).await.expect(201).id();
    client.post(&format!("/v1/erasure-requests/{request}/hold"), json!({ "reason": REASON })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_shows_what_happened_names_nobody_and_can_be_checked_by_anybody() {
    for kind in Kind::here() {
        let house = House::build(kind);
        let ((client, secret), (elsewhere, _)) = (house.admin_of("clinic").await, house.admin_of("elsewhere").await);
        live_through_something(&client, &elsewhere).await;

        let pack = house.pack("packs", &["--tenant", "clinic"]);
        let consents = &read(&pack, "consents.json")["tenants"];
        assert_eq!(consents.as_array().unwrap().len(), 1);
        assert_eq!(consents[0]["by_state"], json!({ "granted": 1, "withdrawn": 1 }));
        assert_eq!(consents[0]["granted_ever"]["acts"], 3, "the erased person's is counted by the audit log");
        let erasures = &read(&pack, "erasures.json")["tenants"][0];
        assert_eq!((&erasures["requests"], &erasures["open"]), (&json!(2), &json!(1)));
        assert_eq!((&erasures["by_state"]["completed"], &erasures["by_state"]["on_hold"]), (&json!(1), &json!(1)));
        assert_eq!((&erasures["overdue"], &erasures["answered_late"]), (&json!(1), &json!(0)));
        assert!(erasures["hours_from_receipt_to_completion"]["longest"].as_f64().unwrap() < 1.0);
        let access = &read(&pack, "access-requests.json")["tenants"][0];
        assert_eq!((&access["requests"], &access["overdue"]), (&json!(1), &json!(1)));
        let keys = read(&pack, "keys.json");
        assert_eq!((&keys["data_keys"]["persons_with_a_key"], &keys["data_keys"]["destroyed"]), (&json!(3), &json!(1)));
        assert_eq!(keys["evidence_keys"][0]["state"], "signs");
        assert_eq!(keys["key_encryption_keys"][0]["state"], "wraps");
        assert_eq!(keys["encryption"]["keyholder_in_the_same_process"], true);
        let log = &read(&pack, "audit.json")["logs"][0];
        assert_eq!((&log["found"]["whole"], &log["found"]["broken_at"]), (&json!(true), &Value::Null));
        let processing = &read(&pack, "processing.json")["tenants"][0];
        assert_eq!(processing["activities"][0]["controller"]["name"], "Example Clinic");
        assert_eq!((&processing["persons"], &processing["templates"]), (&json!(2), &json!(0)));
        let schedule = read(&pack, "retention.json");
        assert_eq!(schedule["records"][0]["record"], "unused_templates");
        let purpose = |record: &str| {
            let rows = schedule["records"].as_array().unwrap();
            rows.iter().find(|row| row["record"] == record).unwrap_or_else(|| panic!("{record}"))["purpose"].clone()
        };
        assert_eq!((purpose("ended_consents"), purpose("verifications")), ("*".into(), "face_verification".into()));
        assert_eq!((purpose("access_packages"), purpose("callback_addresses")), (Value::Null, Value::Null));
        for (file, word) in [("tests.json", "--test-results"), ("protection.json", "--protection")] {
            assert_eq!(read(&pack, file)["given"], false);
            assert!(read(&pack, file)["note"].as_str().unwrap().contains(word));
        }
        assert_eq!(read(&pack, "restore-drill.json")["recorded"], Value::Null);

        let all = house.pack("packs-of-all", &[]);
        let states = |tenant: &Value| tenant["by_state"].clone();
        let of_all: Vec<_> = read(&all, "consents.json")["tenants"].as_array().unwrap().iter().map(states).collect();
        assert!(of_all.contains(&json!({ "granted": 1 })) && of_all.contains(&json!({ "granted": 1, "withdrawn": 1 })));

        let jwks = house.data.path().join("jwks.json");
        fs::write(&jwks, client.get("/.well-known/evidence-jwks.json").await.expect(200).text).unwrap();
        nobody_is_named(&house, &[&pack, &all], &secret);
        every_change_is_found(&house, &pack, &jwks.display().to_string());
        a_log_that_was_changed_is_said_to_be(&house);
    }
}

fn nobody_is_named(house: &House, packs: &[&Path], client_secret: &str) {
    let mut canaries = vec![NAME.to_owned(), EVIDENCE.to_owned(), REASON.to_owned(), client_secret.to_owned()];
    let mut folders = vec![house.data.path().join("secrets")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => canaries
                    .extend(fs::read_to_string(&path).unwrap_or_default().lines().filter(is_key).map(String::from)),
            }
        }
    }
    assert!(canaries.len() > 20, "the keys were found");
    canaries.extend(house.databases.main.split_once("://").and_then(|(_, rest)| {
        let (user, _) = rest.split_once('@')?;
        user.split_once(':').map(|(_, password)| format!(":{password}@"))
    }));
    for file in packs.iter().flat_map(|pack| fs::read_dir(pack).unwrap()).map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(canaries.iter().find(|canary| text.contains(*canary)), None, "{}", file.display());
    }
}

/// A line of a key file that is long enough to be found by nothing but itself.
fn is_key(line: &&str) -> bool {
    line.len() >= 40 && !line.contains([' ', '-'])
}

fn every_change_is_found(house: &House, pack: &Path, jwks: &str) {
    let good = house.verify(pack, jwks);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(String::from_utf8_lossy(&good.stdout).starts_with("whole: 13 files"));
    let changed = pack.join("erasures.json");
    let whole = fs::read_to_string(&changed).unwrap();
    fs::write(&changed, whole.replacen("\"overdue\": 1", "\"overdue\": 0", 1)).unwrap();
    let bad = house.verify(pack, jwks);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("erasures.json was changed"));
    fs::write(&changed, whole).unwrap();
    // Another pack is another folder, and the first one is as it was.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let second = house.pack("packs", &["--tenant", "clinic"]);
    assert_ne!(second, pack);
    assert!(house.verify(pack, jwks).status.success() && house.verify(&second, jwks).status.success());
}

fn a_log_that_was_changed_is_said_to_be(house: &House) {
    let trigger = match house.databases.kind {
        Kind::Postgres => "DROP TRIGGER audit_events_append_only ON audit_events",
        Kind::Sqlite => "DROP TRIGGER audit_events_no_update",
    };
    house.databases.execute(&house.databases.main, trigger);
    let change = "UPDATE audit_events SET actor = 'somebody else' WHERE action = 'consent.withdrawn'";
    house.databases.execute(&house.databases.main, change);
    let found = read(&house.pack("packs-of-a-broken-log", &["--tenant", "clinic"]), "audit.json")["logs"][0].clone();
    assert_eq!(found["found"]["whole"], false);
    assert!(found["found"]["broken_at"].as_u64().is_some(), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_gives_stands_in_the_pack_and_what_cannot_be_read_stops_it() {
    let house = House::build(Kind::Sqlite);
    let file = |name: &str, text: &str| {
        let path = house.data.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let tests = file("junit.xml", "<testsuites><testsuite><testcase name='a' classname='b'/></testsuite></testsuites>");
    let drill = json!({ "at": "2026-11-20T08:00:00Z", "result": "passed", "figures": { "minutes": 7 } });
    let drill = file("drill.json", &drill.to_string());
    let measured = json!({ "irreversibility": [], "unlinkability": {}, "renewability": {} }).to_string();
    let measured = file("protection-measured.json", &measured);
    let given = ["--test-results", &tests, "--restore-drill", &drill, "--protection", &measured];
    let pack = house.pack("packs", &given);
    assert_eq!((&read(&pack, "tests.json")["tests"], &read(&pack, "tests.json")["failed"]), (&json!(1), &json!(0)));
    let recorded = &read(&pack, "restore-drill.json")["recorded"];
    assert_eq!((&recorded["result"], &recorded["figures"]["minutes"]), (&json!("passed"), &json!(7)));
    assert_eq!(read(&pack, "protection.json")["measured"]["irreversibility"], json!([]));

    let broken = file("broken", "{}");
    let refused = [
        ["--test-results", broken.as_str()],
        ["--restore-drill", &broken],
        ["--protection", &broken],
        ["--tenant", "nobody"],
        ["--test-results", "nowhere.xml"],
    ];
    for more in refused {
        let written = house.velum(&[&["evidence", "--out", "refused"][..], &more].concat());
        assert_eq!(written.status.code(), Some(1), "{more:?}");
        assert!(String::from_utf8_lossy(&written.stderr).contains(more[1].rsplit('/').next().unwrap()), "{more:?}");
    }
    assert!(!house.data.path().join("refused").exists(), "nothing is begun that cannot be ended");
}
