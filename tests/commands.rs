//! The command line as an operator uses it: what it prints, what it refuses, and with which exit code.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A folder of its own, and nothing of this machine's environment.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn run_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_velum"));
        command.current_dir(self.0.path()).env_clear().envs(variables.iter().copied()).args(arguments);
        command.output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(&[], arguments)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = Desk::new().run(&["--help"]);
    assert_eq!(code(&help), 0);
    for word in ["serve", "keyholder", "migrate", "keys", "clients", "models", "demo", "evaluate", "bench", "config"] {
        assert!(out(&help).contains(word), "{word}");
    }
    assert!(out(&help).contains("0 done, 1 failed, 2 wrong usage or settings"));
}

#[test]
fn wrong_usage_and_wrong_settings_end_with_2() {
    let desk = Desk::new();
    assert_eq!(code(&desk.run(&["nonsense"])), 2);
    let variables = [("VELUM_LISEN", "0.0.0.0:443"), ("VELUM_MODE", "prod")];
    for command in [["config", "check"].as_slice(), &["serve"], &["keyholder"], &["migrate"], &["models", "list"]] {
        let refused = desk.run_with(&variables, command);
        assert_eq!(code(&refused), 2, "{command:?}");
        assert!(err(&refused).contains("VELUM_LISEN") && err(&refused).contains("VELUM_MODE"), "{command:?}");
        assert!(err(&refused).contains("next: "), "{command:?}");
    }
    assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0, "a refused start leaves nothing behind");
}

#[test]
fn config_show_redacts_and_says_where_each_setting_came_from() {
    let variables = [("VELUM_DATABASE_URL", "postgres://velum:hunter2@db/velum"), ("VELUM_BLIND_INDEX_KEY", "canary")];
    let shown = Desk::new().run_with(&variables, &["config", "show"]);
    assert_eq!(code(&shown), 0);
    assert!(out(&shown).contains("postgres://velum:[redacted]@db/velum"));
    assert!(out(&shown).contains("environment") && out(&shown).contains("default") && out(&shown).contains("not set"));
    assert!(!out(&shown).contains("hunter2") && !out(&shown).contains("canary"));
}

#[test]
fn generated_keys_are_private_and_never_overwritten() {
    let desk = Desk::new();
    let made = desk.run(&["keys", "generate", "--out", "keys"]);
    assert_eq!(code(&made), 0, "{}", err(&made));
    assert!(out(&made).contains("next: move keys/fhe/secret.key"));
    let names = ["client_secret_pepper.key", "blind_index.key", "fhe/secret.key", "fhe/public.key"];
    let paths = names.map(|name| desk.path().join("keys").join(name));
    let before = paths.each_ref().map(|path| fs::read(path).unwrap());
    for path in &paths {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        let secret = fs::read_to_string(path).unwrap_or_default();
        assert!(secret.is_empty() || !out(&made).contains(secret.trim()), "a key was printed");
    }

    let again = desk.run(&["keys", "generate", "--out", "keys"]);
    assert_eq!(code(&again), 0);
    assert_eq!(out(&again).matches("kept").count(), 6);
    for kind in ["jwt", "evidence"] {
        let signing_keys = || fs::read_dir(desk.path().join("keys").join(kind)).unwrap().count();
        assert_eq!(signing_keys(), 1);
        let rotated = desk.run_with(&[("VELUM_SECRETS_DIR", "keys")], &["keys", "rotate", kind]);
        assert_eq!(code(&rotated), 0, "{}", err(&rotated));
        assert_eq!(signing_keys(), 2);
    }
    assert_eq!(code(&desk.run(&["keys", "rotate", "jwt", "--after", "1"])), 2, "too soon for every process to know");
    assert_eq!(before, paths.each_ref().map(|path| fs::read(path).unwrap()));

    let refused = desk.run(&["keys", "generate", "--kind", "pepper", "--out", "keys"]);
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains("never overwritten"));
    assert_eq!(code(&desk.run(&["keys", "generate", "--kind", "kek", "--out", "keys"])), 0);
    assert_eq!(fs::read_dir(desk.path().join("keys/kek")).unwrap().count(), 2);
}

#[test]
fn databases_go_up_and_one_at_a_time_down() {
    let desk = Desk::new();
    fs::create_dir(desk.path().join("data")).unwrap();
    let status = desk.run(&["migrate", "status"]);
    assert!(out(&status).contains("is not there") && !out(&status).contains("applied"), "{}", err(&status));
    let up = desk.run(&["migrate"]);
    assert_eq!(code(&up), 0, "{}", err(&up));
    for database in ["main: applied", "keystore: applied", "ledger: applied", "journal: applied"] {
        assert!(out(&up).contains(database), "{}", out(&up));
    }
    assert!(out(&desk.run(&["migrate", "up"])).contains("main: nothing to do"));
    let unnamed = desk.run(&["migrate", "down"]);
    assert_eq!(code(&unnamed), 1);
    assert!(err(&unnamed).contains("one database at a time"));
    assert!(out(&desk.run(&["migrate", "down", "--database", "journal"])).contains("journal: took"));
    assert!(out(&desk.run(&["migrate", "status", "--database", "journal"])).contains("missing"));
}

#[test]
fn a_migration_before_the_first_start_makes_the_keys_that_the_start_wants() {
    let desk = Desk::new();
    assert_eq!(code(&desk.run(&["migrate", "status"])), 0);
    assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0, "looking leaves nothing behind");
    assert_eq!(code(&desk.run(&["migrate"])), 0);
    // Opens the databases with the keys.
    let made = desk.run(&["clients", "create", "--tenant", "clinic"]);
    assert_eq!(code(&made), 0, "{}", err(&made));
}

#[test]
fn an_evaluation_key_is_made_anew_beside_its_secret_key_and_over_none() {
    let desk = Desk::new();
    assert_eq!(code(&desk.run(&["keys", "generate", "--kind", "fhe", "--out", "keys"])), 0);
    let evaluation = desk.path().join("keys/fhe/evaluation.key");
    let refused = desk.run(&["keys", "generate", "--kind", "evaluation", "--out", "keys"]);
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains("never overwritten"));
    fs::remove_file(&evaluation).unwrap();
    assert_eq!(code(&desk.run(&["keys", "generate", "--kind", "evaluation", "--out", "keys"])), 0);
    assert!(fs::metadata(&evaluation).unwrap().len() > 10_000_000);

    // What is left of a set is never replaced by another.
    fs::remove_file(desk.path().join("keys/fhe/public.key")).unwrap();
    let refused = desk.run(&["keys", "generate", "--kind", "fhe", "--out", "keys"]);
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains("is there already"), "{}", err(&refused));
}

#[test]
fn the_keyholders_journal_is_exported_and_checked() {
    let desk = Desk::new();
    let missing = desk.run(&["journal", "verify"]);
    assert_eq!(code(&missing), 1);
    assert!(err(&missing).contains("there is no journal"));
    assert_eq!(code(&desk.run(&["migrate"])), 0);
    assert!(out(&desk.run(&["journal", "verify"])).starts_with("whole: 0 lines"));
    assert_eq!(out(&desk.run(&["journal", "export"])), "");
}

/// What this repository's own shell has: models and, for the trials, the runtime library. And what a trial must not touch.
fn run_trial(desk: &Desk, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = |name: &str| root.join(name).display().to_string();
    let runtime = std::env::var("VELUM_ONNXRUNTIME").unwrap_or_else(|_| path("runtime/libonnxruntime.so.1.31.1"));
    let precious = format!("sqlite:{}", desk.path().join("precious.db").display());
    let variables = [
        ("VELUM_MODELS_DIR", path("models")),
        ("VELUM_ONNXRUNTIME", runtime),
        ("VELUM_DATABASE_URL", precious),
        ("VELUM_KEYHOLDER_LISTEN", "127.0.0.1:1".to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let output = desk.run_with(&variables, arguments);
    assert_eq!(code(&output), 0, "{}{}", out(&output), err(&output));
    assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0, "a trial works in a folder of its own");
    output
}

#[test]
fn bench_measures_what_it_promises_and_touches_nobodys_database() {
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/eileen_collins.png").display().to_string();
    // A little of everything.
    let amounts = ["--runs", "1", "--verifications", "4", "--tokens", "100", "--templates", "4", "--erasures", "4"];
    let output = run_trial(&Desk::new(), &[&["bench", "--json", "--photo", &photo], &amounts[..]].concat());
    let figures: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    for name in [
        "decision_cpu_ms",
        "probe_encrypt_ms",
        "verification_p50_ms",
        "verification_p95_ms",
        "verifications_per_second",
        "template_bytes",
        "evaluation_key_bytes",
        "rss_bytes",
        "rss_bytes_doubled",
        "access_p50_ms",
        "tokens_per_second",
        "erasure_p50_ms",
        "verifications_meanwhile",
        "audit_events_per_second",
    ] {
        assert!(figures[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {figures}");
    }
    assert!(figures["template_bytes"].as_u64().unwrap() <= 20_000);
}

#[test]
fn the_demo_tells_two_people_apart() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").display().to_string();
    let told = out(&run_trial(&Desk::new(), &["demo", "--samples", &samples]));
    assert_eq!(told.matches("  match ").count(), 6, "{told}");
    assert_eq!(told.matches("no_match").count(), 1);
    for word in ["refused, consent_required (403)", "refused: consent_required (403)", "not_found (404)"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn a_client_is_made_listed_and_disabled() {
    let desk = Desk::new();
    let made = desk.run(&["clients", "create", "--tenant", "clinic", "--name", "front desk", "--json"]);
    assert_eq!(code(&made), 0, "{}", err(&made));
    let made: serde_json::Value = serde_json::from_str(&out(&made)).unwrap();
    let (client, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap());
    assert!(client.starts_with("cli_") && secret.starts_with("velum_secret_"));
    assert_eq!(made["scope"], "subjects consents faces:enrol faces:verify");

    let listed = out(&desk.run(&["clients", "list"]));
    assert!(listed.contains(client) && listed.contains("active") && !listed.contains(secret));
    assert_eq!(code(&desk.run(&["clients", "disable", "--tenant", "clinic", client])), 0);
    assert!(out(&desk.run(&["clients", "list", "--tenant", "clinic"])).contains("disabled"));

    let stranger = desk.run(&["clients", "disable", "--tenant", "elsewhere", client]);
    assert_eq!(code(&stranger), 1);
    assert!(err(&stranger).contains("there is no tenant elsewhere"));
    assert_eq!(code(&desk.run(&["clients", "create", "--tenant", "clinic", "--scopes", "everything"])), 2);
}

#[test]
fn a_client_is_made_for_a_role_or_with_scopes_of_its_own() {
    let desk = Desk::new();
    let create = |more: &[&str]| desk.run(&[&["clients", "create", "--tenant", "clinic", "--json"], more].concat());
    for (choice, scope) in [
        (["--role", "client-app"], "subjects consents faces:enrol faces:verify"),
        (["--role", "compliance-officer"], "subjects consents dsr audit:read"),
        (["--role", "operator"], ""),
        (["--role", "admin"], "subjects consents faces:enrol faces:verify faces:identify dsr audit:read admin"),
        (["--scopes", "faces:verify"], "faces:verify"),
    ] {
        let made: serde_json::Value = serde_json::from_str(&out(&create(&choice))).unwrap();
        assert_eq!(made["scope"], scope, "{choice:?}");
    }
    assert_eq!(code(&create(&["--role", "root"])), 2);
    assert_eq!(code(&create(&["--role", "operator", "--scopes", "admin"])), 2, "one or the other");
    assert_eq!(code(&create(&["--scopes", ""])), 1, "none by mistake");
}

#[test]
fn a_client_with_a_public_key_is_made_without_a_secret() {
    let desk = Desk::new();
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys");
    let create = |key: &str| {
        let path = keys.join(key).display().to_string();
        desk.run(&["clients", "create", "--tenant", "clinic", "--public-key", &path, "--json"])
    };
    let made = create("test_only_rsa_2048_one.public.pem");
    assert_eq!(code(&made), 0, "{}", err(&made));
    let made: serde_json::Value = serde_json::from_str(&out(&made)).unwrap();
    assert!(made["client_id"].as_str().unwrap().starts_with("cli_") && made.get("client_secret").is_none());
    for bad in ["bad_rsa_1024.public.pem", "bad_ec_p256.public.pem", "test_only_rsa_2048_one.pem", "nowhere.pem"] {
        let refused = create(bad);
        assert_eq!(code(&refused), 1);
        assert!(err(&refused).contains(bad), "{}", err(&refused));
    }
    assert_eq!(out(&desk.run(&["clients", "list"])).lines().count(), 1);
}

#[test]
fn a_server_that_is_not_there_is_not_healthy() {
    let desk = Desk::new();
    let unknown = desk.run(&["healthcheck"]);
    assert_eq!(code(&unknown), 1);
    assert!(err(&unknown).contains("data/tls/ca.pem"), "{}", err(&unknown));
}

#[test]
fn the_openapi_document_is_printed() {
    let printed = Desk::new().run(&["openapi"]);
    let document: serde_json::Value = serde_json::from_str(&out(&printed)).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[test]
fn models_are_listed_and_checked_and_an_altered_file_is_named() {
    let desk = Desk::new();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let copy = desk.path().join("models");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&models).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    assert!(out(&desk.run(&["models", "list"])).contains("licence"));
    assert_eq!(code(&desk.run(&["models", "verify"])), 0);

    let mut names = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path());
    let model = names.find(|path| path.extension().is_some_and(|extension| extension == "onnx")).unwrap();
    let mut bytes = fs::read(&model).unwrap();
    bytes[100] ^= 1;
    fs::write(&model, bytes).unwrap();
    let refused = desk.run(&["models", "verify"]);
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains(model.file_name().unwrap().to_str().unwrap()), "{}", err(&refused));
}
