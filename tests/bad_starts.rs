//! Ways to start badly: keys and settings with which nothing may begin to serve. Each is one thing wrong with a house in which
//! nothing else is; `velum serve` itself must refuse it by name, and not repeat the secret, and neither may `velum config`.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use time::OffsetDateTime;
use velum::tls;

/// 32 bytes from nowhere else.
const PEPPER: &str = "Zs0Gk8cBqX2nJt4WvYh6LmRpA1dEoUf9iNbQwSxTzCk=";
const BLIND_INDEX: &str = "p9LrXe3VbTq7MfZc1KyHg5UjWn0SdAo4ItBmCvEx2hQ=";
const KEK: &str = "Vd8RkTy2NwLq6ZbXj0HsMf4PgCa9UoEi7YtWv1BnSrA=";
const EVIDENCE_FILE: &str = "evidence/20261120T120000Z.pem";
const DATABASE_PASSWORD: &str = "b81f6a03c9d74e25";
const KEYSTORE_PASSWORD: &str = "4d0e97c2ba6f8135";
const LEDGER_PASSWORD: &str = "91c5e7a03d4f2b68";

/// A production set-up with which nothing is wrong, as far as a start looks before it loads models.
struct House {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl House {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut house = Self { folder, variables: vec![] };
        house.file("keys/client_secret_pepper.key", PEPPER, 0o600);
        house.file("keys/blind_index.key", BLIND_INDEX, 0o600);
        house.file("keys/kek/2026-11-20.key", KEK, 0o600);
        house.file("keys/jwt/20261120T120000Z.pem", &fixture("test_only_rsa_2048_one.pem"), 0o600);
        house.file(&format!("keys/{EVIDENCE_FILE}"), &fixture("test_only_rsa_3072_one.pem"), 0o600);
        // Counts as a set that is there; the start ends at it, before it costs anything.
        house.file("fhe/public.key", "no key of the encryption", 0o600);
        let certificate = house.file("some.pem", "x", 0o644);
        let key = house.file("some.key", "x", 0o600);
        for (name, value) in [
            ("MODE", "production".to_owned()),
            ("ISSUER", "https://velum.example".to_owned()),
            ("SECRETS_DIR", house.path("keys")),
            ("FHE_DIR", house.path("fhe")),
            ("TLS_CERTIFICATE_FILE", certificate.clone()),
            ("TLS_KEY_FILE", key.clone()),
            ("DATABASE_URL", format!("postgres://velum:{DATABASE_PASSWORD}@db/velum")),
            ("KEYSTORE_URL", format!("postgres://keys:{KEYSTORE_PASSWORD}@db/keystore")),
            ("LEDGER_URL", format!("postgres://ledger:{LEDGER_PASSWORD}@db/ledger")),
            ("KEYHOLDER", "https://keyholder:8444".to_owned()),
            ("KEYHOLDER_CLIENT_CERTIFICATE_FILE", certificate.clone()),
            ("KEYHOLDER_CLIENT_KEY_FILE", key),
            ("KEYHOLDER_CA_FILE", certificate),
            ("ONNXRUNTIME", "/nowhere/libonnxruntime.so".to_owned()),
        ] {
            house.set(name, &value);
        }
        house
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    fn set(&mut self, name: &str, value: &str) {
        let name = format!("VELUM_{name}");
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
    }

    fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| *known != format!("VELUM_{name}"));
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        command.current_dir(self.folder.path()).env_clear().envs(variables).args(arguments);
        command.output().unwrap()
    }
}

fn fixture(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys").join(name)).unwrap()
}

fn self_made_certificate(house: &House) -> PathBuf {
    let folder = house.folder.path().join("self-made");
    tls::development::ensure(&folder, &[], OffsetDateTime::now_utc()).unwrap().server.certificate
}

/// What is wrong, what the refusal must name, and what it must not repeat.
struct Case {
    wrong: &'static str,
    named: &'static str,
    secret: String,
    house: House,
}

/// A key that comes as the text of a variable.
fn bad_text(wrong: &'static str, name: &'static str, text: &str) -> Case {
    let mut house = House::new();
    house.set(name.trim_start_matches("VELUM_"), text);
    Case { wrong, named: name, secret: text.trim().to_owned(), house }
}

/// A key that lies in a file of the folder.
fn bad_file(wrong: &'static str, name: &'static str, text: &str, mode: u32) -> Case {
    let house = House::new();
    house.file(&format!("keys/{name}"), text, mode);
    Case { wrong, named: name, secret: text.trim().to_owned(), house }
}

/// Anything else.
fn bad(wrong: &'static str, named: &'static str, secret: &str, change: impl FnOnce(&mut House)) -> Case {
    let mut house = House::new();
    change(&mut house);
    Case { wrong, named, secret: secret.to_owned(), house }
}

fn cases() -> Vec<Case> {
    const PEPPER_NAME: &str = "VELUM_CLIENT_SECRET_PEPPER";
    const BLIND_NAME: &str = "VELUM_BLIND_INDEX_KEY";
    const JWT_NAME: &str = "VELUM_JWT_SIGNING_KEY";
    const JWT_FILE: &str = "jwt/20261120T120000Z.pem";
    let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let url = |password: &str| format!("postgres://velum:{password}@db/velum");
    let database = |wrong, password: &str| {
        bad(wrong, "VELUM_DATABASE_URL", &format!(":{password}@"), |house| house.set("DATABASE_URL", &url(password)))
    };
    let sequence: Vec<u8> = (0..32).collect();
    let halves = [&BASE64_STANDARD.decode(PEPPER).unwrap()[..16]; 2].concat();
    let example = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    let hash_of_changeme = "057ba03d6c44104863dc7361fe4578965d1887360f90a0895882e58a6248fc86";
    let (short_rsa, curve) = (fixture("bad_rsa_1024.pem"), fixture("bad_ec_p256.pem"));
    let public_half = fixture("test_only_rsa_2048_one.public.pem");
    let good_rsa = fixture("test_only_rsa_2048_one.pem");
    let long_rsa = fixture("test_only_rsa_3072_one.pem");
    let encrypted = good_rsa.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    vec![
        bad_text("an empty key", PEPPER_NAME, ""),
        bad_text("nothing but blanks", BLIND_NAME, "  \n"),
        bad_text("a default", PEPPER_NAME, "changeme"),
        bad_text("a word of the right length", PEPPER_NAME, "passwordpasswordpasswordpassword"),
        bad_text("16 bytes", PEPPER_NAME, &base64(&halves[..16])),
        bad_text("64 bytes", PEPPER_NAME, &base64(&[halves.as_slice(), &sequence].concat())),
        bad_text("zeros", PEPPER_NAME, &"00".repeat(32)),
        bad_text("one byte again and again", BLIND_NAME, &"ab".repeat(32)),
        bad_text("a sequence", PEPPER_NAME, &hex::encode(&sequence)),
        bad_text("one half twice", PEPPER_NAME, &base64(&halves)),
        bad_text("a pass phrase in base64", PEPPER_NAME, &base64(b"correct horse battery staple 123")),
        bad_text(
            "a pass phrase of another language",
            PEPPER_NAME,
            &base64("richtiges Pferd, schöne Häfen!".as_bytes()),
        ),
        bad_text("hexadecimal digits in base64", PEPPER_NAME, &base64(&hex::encode(&halves[..16]).as_bytes()[..32])),
        bad_text("a published example", PEPPER_NAME, example),
        bad_text("the hash of a word", BLIND_NAME, hash_of_changeme),
        bad_text("a key of two purposes", BLIND_NAME, PEPPER),
        bad_file("a copied key-encryption key", "kek/2026-11-20.key", BLIND_INDEX, 0o600),
        bad_file("a weak key-encryption key", "kek/2026-11-21.key", &"7f".repeat(32), 0o600),
        bad_file("a key that the group reads", "client_secret_pepper.key", PEPPER, 0o640),
        bad_file("a key that everybody reads", "kek/2026-11-20.key", KEK, 0o644),
        bad_file("a token key that everybody reads", JWT_FILE, &good_rsa, 0o604),
        bad_file("random bytes where a PEM is needed", JWT_FILE, PEPPER, 0o600),
        bad_file("an RSA key of 1,024 bits", JWT_FILE, &short_rsa, 0o600),
        bad_file("a key on a curve", JWT_FILE, &curve, 0o600),
        bad_file("the public half", JWT_FILE, &public_half, 0o600),
        bad_file("an encrypted PEM", JWT_FILE, &encrypted, 0o600),
        bad_file("an evidence key that the group reads", EVIDENCE_FILE, &long_rsa, 0o640),
        bad_file("an evidence key of 2,048 bits", EVIDENCE_FILE, &good_rsa, 0o600),
        bad("no evidence key", "--kind evidence", PEPPER, |house| {
            fs::remove_file(house.path(&format!("keys/{EVIDENCE_FILE}"))).unwrap();
        }),
        bad("one key for tokens and for evidence", "evidence", &long_rsa, |house| {
            house.file(&format!("keys/{JWT_FILE}"), &long_rsa, 0o600);
        }),
        bad_text("hex where a PEM is needed", JWT_NAME, &hex::encode(&halves)),
        bad_text("a short RSA key in a variable", JWT_NAME, &short_rsa),
        bad("a secret file that everybody reads", PEPPER_NAME, PEPPER, |house| {
            let path = house.file("pepper", PEPPER, 0o644);
            house.set("CLIENT_SECRET_PEPPER_FILE", &path);
        }),
        bad("a secret given twice", PEPPER_NAME, PEPPER, |house| {
            let path = house.file("pepper", PEPPER, 0o600);
            house.set("CLIENT_SECRET_PEPPER_FILE", &path);
            house.set("CLIENT_SECRET_PEPPER", PEPPER);
        }),
        bad("a misspelt secret", "VELUM_CLIENT_SECRET_PEPER", PEPPER, |house| house.set("CLIENT_SECRET_PEPER", PEPPER)),
        bad("a TLS key that everybody reads", "VELUM_TLS_KEY_FILE", "x-secret", |house| {
            let path = house.file("some.key", "x-secret", 0o644);
            house.set("TLS_KEY_FILE", &path);
        }),
        database("an empty password", ""),
        database("a default password", "postgres"),
        database("a short password", "f3a9c17e"),
        database("a common word twice", "changemechangeme"),
        database("a common word and a year", "Password-2026-Password"),
        database("one letter again and again", "aaaaaaaaaaaaaaaaaaaa"),
        bad("one password for two databases", "VELUM_KEYSTORE_URL", DATABASE_PASSWORD, |house| {
            house.set("KEYSTORE_URL", &format!("postgres://keys:{DATABASE_PASSWORD}@db/keystore"));
        }),
        bad("a Redis in the clear", "VELUM_REDIS_URL", DATABASE_PASSWORD, |house| {
            house.set("REDIS_URL", "redis://velum:70c2f8d1be459a36@redis:6379");
        }),
        bad("a Redis without a password", "VELUM_REDIS_URL", PEPPER, |house| {
            house.set("REDIS_URL", "rediss://redis:6380");
        }),
        bad("a Redis with a short password", "VELUM_REDIS_URL", "hunter2", |house| {
            house.set("REDIS_URL", "rediss://velum:hunter2@redis:6380");
        }),
        bad("one password for a database and Redis", "VELUM_REDIS_URL", DATABASE_PASSWORD, |house| {
            house.set("REDIS_URL", &format!("rediss://velum:{DATABASE_PASSWORD}@redis:6380"));
        }),
        bad("a password that is a key", "VELUM_DATABASE_URL", PEPPER, |house| {
            house.set("CLIENT_SECRET_PEPPER", PEPPER);
            house.set("DATABASE_URL", &url(PEPPER));
        }),
        bad("a short password beside the address", "VELUM_KEYSTORE_URL", "hunter2", |house| {
            house.set("KEYSTORE_URL", "postgres:///keystore?user=keys&password=hunter2");
        }),
        bad("a database that is none", "VELUM_DATABASE_URL", "hunter2", |house| {
            house.set("DATABASE_URL", "mysql://velum:hunter2@db/velum");
        }),
        bad("keys made for development", "VELUM_SECRETS_DIR", PEPPER, |house| {
            house.file("keys/MADE_FOR_DEVELOPMENT", "", 0o600);
        }),
        bad("an encryption made for development", "VELUM_FHE_DIR", PEPPER, |house| {
            house.file("fhe/MADE_FOR_DEVELOPMENT", "", 0o600);
        }),
        bad("keys in the backups of the data", "VELUM_SECRETS_DIR", PEPPER, |house| {
            house.set("DATA_DIR", &house.path(""));
        }),
        bad("the secret key of the encryption on the edge", "VELUM_FHE_DIR", "precious-bytes", |house| {
            house.file("fhe/secret.key", "precious-bytes", 0o600);
        }),
        bad("a certificate that made itself", "VELUM_TLS_CERTIFICATE_FILE", PEPPER, |house| {
            house.set("TLS_CERTIFICATE_FILE", &self_made_certificate(house).display().to_string());
        }),
        bad("no key-encryption key", "kek", PEPPER, |house| {
            fs::remove_file(house.path("keys/kek/2026-11-20.key")).unwrap();
        }),
        bad("no folder of keys", "VELUM_SECRETS_DIR", PEPPER, |house| house.unset("SECRETS_DIR")),
        bad("an issuer of this machine", "VELUM_ISSUER", PEPPER, |house| house.set("ISSUER", "https://localhost:8443")),
    ]
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn nothing_starts_with_a_bad_secret_and_no_refusal_repeats_it() {
    let cases = cases();
    assert!(cases.len() >= 30);
    let mut wrong = vec![];
    for Case { wrong: what, named, secret, house } in cases {
        let start = house.run(&["serve"]);
        let check = house.run(&["config", "check"]);
        // What a worker reaches is the same.
        let worker = named.ends_with("_URL").then(|| house.run(&["worker"]));
        let runs = [("serve", &start), ("config check", &check)];
        for (command, output) in runs.into_iter().chain(worker.iter().map(|output| ("worker", output))) {
            if output.status.success() || !text(output).contains(named) {
                wrong.push(format!("{what}: `velum {command}` does not refuse by {named}: {}", text(output)));
            }
        }
        // The one thing that this house lacks comes last.
        if text(&start).contains("public.key") {
            wrong.push(format!("{what}: the start went on to load: {}", text(&start)));
        }
        let shown = house.run(&["config", "show"]);
        for (command, output) in [("serve", start), ("config check", check), ("config show", shown)] {
            // Of a PEM, its first line is no secret.
            let lines = secret.lines().filter(|line| !line.starts_with("-----"));
            if lines.filter(|line| line.len() > 6).any(|line| text(&output).contains(line)) {
                wrong.push(format!("{what}: `velum {command}` repeats the secret"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Otherwise the list above would prove nothing.
#[test]
fn the_house_around_each_bad_secret_is_a_good_one() {
    let mut house = House::new();
    let start = house.run(&["serve"]);
    assert!(text(&start).contains("ONNX Runtime") || text(&start).contains("libonnxruntime"), "{}", text(&start));
    house.set("CLIENT_SECRET_PEPPER", PEPPER);
    fs::remove_file(house.path("keys/client_secret_pepper.key")).unwrap();
    assert_eq!(text(&house.run(&["serve"])), text(&start), "a key may come in a variable as well");
}

#[test]
fn a_keyholder_does_not_start_with_a_secret_key_that_others_can_read() {
    let mut house = House::new();
    let secret = house.file("fhe/secret.key", "precious-bytes", 0o640);
    let (certificate, key) = (house.path("some.pem"), house.path("some.key"));
    house.set("KEYHOLDER_CERTIFICATE_FILE", &certificate);
    house.set("KEYHOLDER_KEY_FILE", &key);
    house.set("KEYHOLDER_EDGE_CA_FILE", &certificate);
    house.set("KEYHOLDER_JOURNAL_URL", "postgres://journal:9e3b57d1c04f28a6@db/journal");
    for command in [["keyholder"].as_slice(), &["config", "check", "--for", "keyholder"]] {
        let refused = house.run(command);
        assert!(!refused.status.success());
        assert!(text(&refused).contains(&secret) && text(&refused).contains("chmod 600"), "{}", text(&refused));
        assert!(!text(&refused).contains("precious-bytes"));
    }
}
