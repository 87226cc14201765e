//! The environment as operators write it: right, wrong, misspelt and unsafe.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use time::OffsetDateTime;
use velum::{
    settings::{KeyholderSettings, Mode, Origin, Problem, Reading, Role, Settings},
    telemetry::LogFormat,
    tls,
};

fn read_as(role: Role, variables: &[(&str, &str)]) -> Reading {
    Settings::read(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), role)
}

fn read(variables: &[(&str, &str)]) -> Reading {
    read_as(Role::Serve, variables)
}

fn problems(reading: Reading) -> Vec<Problem> {
    reading.settings.err().map(|problems| problems.0).unwrap_or_default()
}

/// The variables that are complained about, in order.
fn complaints(reading: Reading) -> Vec<String> {
    problems(reading).into_iter().map(|problem| problem.variable).collect()
}

fn write(folder: &TempDir, name: &str, text: &str, mode: u32) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[test]
fn an_empty_environment_is_the_embedded_default() {
    let settings = read(&[]).settings.unwrap();
    assert_eq!(settings.mode, Mode::Embedded);
    assert_eq!(settings.data_dir, Path::new("data"));
    assert_eq!(settings.server.listen, "127.0.0.1:8443".parse().unwrap());
    assert_eq!(settings.storage.database.expose_text(), "sqlite:data/velum.db");
    assert_eq!(settings.secrets.dir, Path::new("data/secrets"));
    assert_eq!(settings.tokens.lifetime.as_seconds(), 600);
    assert!(matches!(settings.keyholder, KeyholderSettings::Local));
    assert!(matches!(settings.log.format, LogFormat::Pretty));
}

#[test]
fn variables_of_others_and_of_the_tests_are_no_settings() {
    let foreign = [("PATH", "/bin"), ("RUST_LOG", "nonsense=="), ("VELUM_TEST_POSTGRES_URL", "postgres://x")];
    assert!(read(&foreign).settings.is_ok());
}

#[test]
fn everything_in_the_data_folder_moves_with_it() {
    let settings = read(&[("VELUM_DATA_DIR", "/srv/velum")]).settings.unwrap();
    assert_eq!(settings.secrets.fhe_dir, Path::new("/srv/velum/fhe"));
    assert_eq!(settings.storage.keystore.expose_text(), "sqlite:/srv/velum/keystore.db");
    assert_eq!(settings.keyholder_server.journal.expose_text(), "sqlite:/srv/velum/keyholder.db");
}

#[test]
fn a_misspelt_setting_is_refused_with_the_right_name() {
    let found = problems(read(&[("VELUM_LISEN", "0.0.0.0:443")]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].variable, "VELUM_LISEN");
    assert!(found[0].sentence.contains("did you mean VELUM_LISTEN?"), "{}", found[0]);
    assert_eq!(complaints(read(&[("VELUM_SOMETHING_ELSE_ENTIRELY", "1")])), ["VELUM_SOMETHING_ELSE_ENTIRELY"]);
}

#[test]
fn what_is_kept_has_an_end_that_no_setting_puts_off_for_ever() {
    let named = |name: &str, days: &str| complaints(read(&[(&format!("VELUM_RETENTION_{name}_DAYS"), days)]));
    for (name, least, most) in [
        ("UNUSED_TEMPLATES", 1, 1_095),
        ("TEMPLATES_WITHOUT_CONSENT", 0, 1_095),
        ("ENDED_CONSENTS", 365, 3_650),
        ("VERIFICATIONS", 1, 3_650),
        ("USAGE", 31, 3_650),
    ] {
        for days in [least, most] {
            assert_eq!(named(name, &days.to_string()), [""; 0], "{name}");
        }
        for days in [least - 1, most + 1] {
            assert_eq!(named(name, &days.to_string()), [format!("VELUM_RETENTION_{name}_DAYS")], "{days}");
        }
    }
}

#[test]
fn purposes_may_have_times_of_their_own_within_the_same_bounds() {
    let name = "VELUM_RETENTION_ENDED_CONSENTS_PURPOSES";
    let times = read(&[(name, "newsletter=365, attendance = 3650")]).settings.unwrap().retention.ended_consents_of;
    let told: Vec<_> = times.iter().map(|(purpose, time)| (purpose.as_str(), time.whole_days())).collect();
    assert_eq!(told, [("attendance", 3_650), ("newsletter", 365)]);
    for bad in
        ["newsletter", "newsletter=364", "newsletter=3651", "News=400", "a=400,a=500", "a=400,", "a=-400", "*=400"]
    {
        assert_eq!(complaints(read(&[(name, bad)])), [name], "{bad}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let mut found = complaints(read(&[
        ("VELUM_MODE", "prod"),
        ("VELUM_LISTEN", "localhost"),
        ("VELUM_TOKEN_LIFETIME_S", "3600"),
        ("VELUM_DATABASE_POOL_SIZE", "0"),
        ("VELUM_LOG", "loud=="),
        ("VELUM_FALSE_MATCH_RATE", "0.001"),
        ("VELUM_EMBEDDER", "dlib-resnet29-v1+0a1b2c3d"),
        ("VELUM_KEYHOLDER", "http://keyholder"),
        ("VELUM_DATABASE_URL", "mysql://db/velum"),
        ("VELUM_WORKER", "elsewhere"),
        ("VELUM_NONSENSE", ""),
    ]));
    found.sort();
    assert_eq!(
        found,
        [
            "VELUM_DATABASE_POOL_SIZE",
            "VELUM_DATABASE_URL",
            "VELUM_EMBEDDER",
            "VELUM_FALSE_MATCH_RATE",
            "VELUM_KEYHOLDER",
            "VELUM_LISTEN",
            "VELUM_LOG",
            "VELUM_MODE",
            "VELUM_NONSENSE",
            "VELUM_TOKEN_LIFETIME_S",
            "VELUM_WORKER",
        ]
    );
}

#[test]
fn a_problem_says_what_was_expected_and_what_was_found() {
    let found = problems(read(&[("VELUM_LISTEN", "localhost")]));
    assert_eq!(
        found[0].to_string(),
        "VELUM_LISTEN: expected an address and port such as 127.0.0.1:8443, found `localhost`"
    );
}

#[test]
fn proxies_are_networks_and_the_proxy_protocol_needs_some() {
    let server = |variables: &[(&str, &str)]| read(variables).settings.unwrap().server;
    assert!(server(&[]).trusted_proxies.is_empty() && !server(&[]).proxy_protocol);
    assert_eq!(server(&[]).address_key_period, time::Duration::DAY);
    let listed = ("VELUM_TRUSTED_PROXIES", "10.0.0.7/8, ::1");
    assert_eq!(server(&[listed]).trusted_proxies.to_string(), "10.0.0.0/8,::1/128");
    assert!(server(&[listed, ("VELUM_PROXY_PROTOCOL", "true")]).proxy_protocol);
    assert_eq!(complaints(read(&[("VELUM_PROXY_PROTOCOL", "true")])), ["VELUM_TRUSTED_PROXIES"]);
    for (name, bad) in [
        ("VELUM_TRUSTED_PROXIES", "proxy.internal"),
        ("VELUM_TRUSTED_PROXIES", "10.0.0.0/8,"),
        ("VELUM_PROXY_PROTOCOL", "yes"),
        ("VELUM_ADDRESS_KEY_HOURS", "0"),
        ("VELUM_ADDRESS_KEY_HOURS", "169"),
    ] {
        assert_eq!(complaints(read(&[(name, bad)])), [name], "{bad}");
    }
}

#[test]
fn an_empty_value_is_not_a_value() {
    for name in ["VELUM_MODE", "VELUM_LISTEN", "VELUM_ISSUER", "VELUM_JWT_SIGNING_KEY", "VELUM_DATABASE_URL"] {
        for empty in ["", "  ", "\n"] {
            assert_eq!(complaints(read(&[(name, empty)])), [name], "{empty:?}");
        }
    }
}

#[test]
fn any_setting_may_come_from_a_file() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "issuer", "https://velum.example\n", 0o644);
    let reading = read(&[("VELUM_ISSUER_FILE", &path)]);
    let entry = reading.effective.iter().find(|entry| entry.variable == "VELUM_ISSUER").unwrap();
    assert_eq!(entry.origin, Origin::File(PathBuf::from(&path)));
    assert_eq!(reading.settings.unwrap().tokens.issuer, "https://velum.example");
}

#[test]
fn a_setting_given_twice_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "issuer", "https://velum.example", 0o644);
    assert_eq!(
        complaints(read(&[("VELUM_ISSUER", "https://velum.example"), ("VELUM_ISSUER_FILE", &path)])),
        ["VELUM_ISSUER"]
    );
}

#[test]
fn a_missing_empty_or_huge_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let empty = write(&folder, "empty", "\n", 0o600);
    let huge = write(&folder, "huge", &"x".repeat(70_000), 0o600);
    assert_eq!(complaints(read(&[("VELUM_AUDIENCE_FILE", "/nowhere/at/all")])), ["VELUM_AUDIENCE_FILE"]);
    assert_eq!(complaints(read(&[("VELUM_AUDIENCE_FILE", &empty)])), ["VELUM_AUDIENCE"]);
    assert_eq!(complaints(read(&[("VELUM_AUDIENCE_FILE", &huge)])), ["VELUM_AUDIENCE_FILE"]);
}

#[test]
fn a_secret_file_that_others_can_read_is_refused() {
    let folder = TempDir::new().unwrap();
    for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
        let path = write(&folder, &format!("pepper-{mode:o}"), "c2VjcmV0", mode);
        assert_eq!(read(&[("VELUM_CLIENT_SECRET_PEPPER_FILE", &path)]).settings.is_ok(), accepted, "{mode:o}");
    }
}

#[test]
fn a_certificate_needs_its_key_and_a_key_needs_to_be_private() {
    let folder = TempDir::new().unwrap();
    let certificate = write(&folder, "server.pem", "x", 0o644);
    let (private, public) = (write(&folder, "a.key", "x", 0o600), write(&folder, "b.key", "x", 0o644));
    let with = |key: &str| {
        complaints(read(&[("VELUM_TLS_CERTIFICATE_FILE", certificate.as_str()), ("VELUM_TLS_KEY_FILE", key)]))
    };
    assert!(with(&private).is_empty());
    assert_eq!(with(&public), ["VELUM_TLS_KEY_FILE"]);
    assert_eq!(with("/nowhere"), ["VELUM_TLS_KEY_FILE"]);
    assert_eq!(complaints(read(&[("VELUM_TLS_CERTIFICATE_FILE", &certificate)])), ["VELUM_TLS_KEY_FILE"]);
    assert_eq!(complaints(read(&[("VELUM_TLS_KEY_FILE", &private)])), ["VELUM_TLS_CERTIFICATE_FILE"]);
    assert_eq!(complaints(read(&[("VELUM_TLS_CERTIFICATE", "-----BEGIN")])), ["VELUM_TLS_CERTIFICATE"]);
}

#[test]
fn origins_of_web_pages_are_exact() {
    let origins = |text: &str| read(&[("VELUM_CORS_ORIGINS", text)]);
    assert_eq!(origins("https://app.example, http://localhost:5173").settings.unwrap().server.cors_origins.len(), 2);
    assert!(read(&[]).settings.unwrap().server.cors_origins.is_empty());
    for bad in ["*", "null", "https://*.app.example", "https://app.example/", "http://app.example", "https://a.b,,"] {
        assert_eq!(complaints(origins(bad)), ["VELUM_CORS_ORIGINS"], "{bad}");
    }
}

#[test]
fn a_database_has_one_purpose() {
    let one = "postgres://a:0123456789abcdef@db/velum";
    let same_place = "postgresql://b:fedcba9876543210@db/velum?sslmode=require";
    assert_eq!(
        complaints(read(&[("VELUM_DATABASE_URL", one), ("VELUM_KEYSTORE_URL", same_place)])),
        ["VELUM_KEYSTORE_URL"]
    );
    assert_eq!(
        complaints(read(&[("VELUM_KEYHOLDER_JOURNAL_URL", "sqlite:data/velum.db")])),
        ["VELUM_KEYHOLDER_JOURNAL_URL"]
    );
}

#[test]
fn nothing_shown_holds_a_secret() {
    let secrets = ["hunter2hunter2hunter2", "opensesameopensesame", "PEMPEMPEM", "peppercorns", "indexindex"];
    let reading = read(&[
        ("VELUM_DATABASE_URL", "postgres://velum:hunter2hunter2hunter2@db/velum"),
        ("VELUM_KEYSTORE_URL", "postgres:///keystore?password=opensesameopensesame"),
        ("VELUM_JWT_SIGNING_KEY", "PEMPEMPEM"),
        ("VELUM_CLIENT_SECRET_PEPPER", "peppercorns"),
        ("VELUM_BLIND_INDEX_KEY", "indexindex"),
        ("VELUM_MODE", "nonsense"),
    ]);
    let shown = format!("{:?} {:?}", reading.effective, reading.settings.err());
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret}");
    }
    assert_eq!(shown.matches("[redacted]").count(), 5);
}

#[test]
fn a_secret_that_cannot_be_understood_is_not_repeated() {
    let reading = read(&[("VELUM_DATABASE_URL", "host=db password=hunter2")]);
    let problem = problems(reading).remove(0);
    assert!(!problem.to_string().contains("hunter2"));
    assert!(problem.to_string().contains("postgres://USER:PASSWORD@HOST/NAME"));
}

mod production {
    use super::*;

    /// A production set-up with which nothing is wrong.
    struct House {
        folder: TempDir,
        variables: Vec<(String, String)>,
    }

    impl House {
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            for name in ["keys", "fhe"] {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            let path = |name: &str| folder.path().join(name).display().to_string();
            let certificate = write(&folder, "some.pem", "x", 0o644);
            let key = write(&folder, "some.key", "x", 0o600);
            let variables = [
                ("MODE", "production".to_owned()),
                ("ISSUER", "https://velum.example".to_owned()),
                ("SECRETS_DIR", path("keys")),
                ("FHE_DIR", path("fhe")),
                ("TLS_CERTIFICATE_FILE", certificate.clone()),
                ("TLS_KEY_FILE", key.clone()),
                ("DATABASE_URL", "postgres://velum:0123456789abcdef@db/velum".to_owned()),
                ("KEYSTORE_URL", "postgres://keys:fedcba9876543210@db/keystore".to_owned()),
                ("LEDGER_URL", "postgres://ledger:02468ace13579bdf@db/ledger".to_owned()),
                ("KEYHOLDER", "https://keyholder:8444".to_owned()),
                ("KEYHOLDER_CLIENT_CERTIFICATE_FILE", certificate.clone()),
                ("KEYHOLDER_CLIENT_KEY_FILE", key),
                ("KEYHOLDER_CA_FILE", certificate),
            ];
            let variables = variables.into_iter().map(|(name, value)| (format!("VELUM_{name}"), value)).collect();
            Self { folder, variables }
        }

        fn with(mut self, name: &str, value: &str) -> Self {
            self.variables.retain(|(known, _)| known != name);
            self.variables.push((name.to_owned(), value.to_owned()));
            self
        }

        fn without(mut self, name: &str) -> Self {
            self.variables.retain(|(known, _)| known != name);
            self
        }

        fn complaints(&self) -> Vec<String> {
            let variables: Vec<(&str, &str)> =
                self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            complaints(read(&variables))
        }
    }

    #[test]
    fn a_complete_set_up_is_accepted() {
        assert_eq!(House::new().complaints(), [""; 0]);
    }

    #[test]
    fn nothing_is_taken_for_granted() {
        let names =
            ["TLS_CERTIFICATE_FILE", "ISSUER", "SECRETS_DIR", "FHE_DIR", "DATABASE_URL", "KEYSTORE_URL", "LEDGER_URL"];
        for name in names.into_iter().chain(["KEYHOLDER", "KEYHOLDER_CA_FILE", "KEYHOLDER_CLIENT_KEY_FILE"]) {
            let name = format!("VELUM_{name}");
            let found = House::new().without(&name).complaints();
            assert!(found.contains(&name), "{name}: {found:?}");
        }
    }

    #[test]
    fn an_empty_production_lists_all_that_is_missing() {
        let found = complaints(read(&[("VELUM_MODE", "production")]));
        for name in ["TLS_KEY_FILE", "ISSUER", "SECRETS_DIR", "FHE_DIR", "DATABASE_URL", "KEYSTORE_URL", "KEYHOLDER"] {
            assert!(found.contains(&format!("VELUM_{name}")), "{name}");
        }
    }

    #[test]
    fn sqlite_and_a_local_keyholder_need_a_word_of_their_own() {
        let sqlite = || House::new().with("VELUM_DATABASE_URL", "sqlite:/srv/velum.db");
        assert_eq!(sqlite().complaints(), ["VELUM_DATABASE_URL"]);
        assert_eq!(sqlite().with("VELUM_ALLOW_SQLITE", "true").complaints(), [""; 0]);
        let local = || House::new().with("VELUM_KEYHOLDER", "local");
        assert_eq!(local().complaints(), ["VELUM_KEYHOLDER"]);
        assert_eq!(local().with("VELUM_ALLOW_LOCAL_KEYHOLDER", "true").complaints(), [""; 0]);
        assert!(!local().with("VELUM_ALLOW_LOCAL_KEYHOLDER", "yes").complaints().is_empty());
    }

    #[test]
    fn callbacks_into_our_own_network_need_a_word_of_their_own() {
        let inside = || House::new().with("VELUM_CALLBACK_NETWORKS", "10.1.0.0/16, 192.168.7.7");
        assert_eq!(inside().complaints(), ["VELUM_CALLBACK_NETWORKS"]);
        assert_eq!(inside().with("VELUM_ALLOW_PRIVATE_CALLBACKS", "true").complaints(), [""; 0]);
        assert_eq!(
            House::new().with("VELUM_CALLBACK_NETWORKS", "inside").complaints(),
            ["VELUM_CALLBACK_NETWORKS"],
            "what is no network is none"
        );
    }

    #[test]
    fn keys_that_made_themselves_are_refused_wherever_they_lie() {
        for (name, folder) in [("VELUM_SECRETS_DIR", "keys"), ("VELUM_FHE_DIR", "fhe")] {
            let house = House::new();
            fs::write(house.folder.path().join(folder).join("MADE_FOR_DEVELOPMENT"), "").unwrap();
            assert_eq!(house.complaints(), [name]);
        }
        let house = House::new();
        let data = house.folder.path().display().to_string();
        assert_eq!(house.with("VELUM_DATA_DIR", &data).complaints(), ["VELUM_SECRETS_DIR", "VELUM_FHE_DIR"]);
    }

    #[test]
    fn a_certificate_that_made_itself_is_refused_wherever_it_lies() {
        let folder = TempDir::new().unwrap();
        let made = tls::development::ensure(folder.path(), &[], OffsetDateTime::now_utc()).unwrap();
        for (name, identity) in [("TLS", &made.server), ("KEYHOLDER_CLIENT", &made.edge)] {
            let house = House::new()
                .with(&format!("VELUM_{name}_CERTIFICATE_FILE"), &identity.certificate.display().to_string())
                .with(&format!("VELUM_{name}_KEY_FILE"), &identity.key.display().to_string());
            assert_eq!(house.complaints(), [format!("VELUM_{name}_CERTIFICATE_FILE")]);
        }
    }

    #[test]
    fn an_authority_that_made_itself_is_refused_for_the_link_to_the_keyholder() {
        let folder = TempDir::new().unwrap();
        let made = tls::development::ensure(folder.path(), &[], OffsetDateTime::now_utc()).unwrap();
        let authority = made.authority.display().to_string();
        assert_eq!(House::new().with("VELUM_KEYHOLDER_CA_FILE", &authority).complaints(), ["VELUM_KEYHOLDER_CA_FILE"]);
        let variables = [("VELUM_MODE", "production"), ("VELUM_KEYHOLDER_EDGE_CA_FILE", authority.as_str())];
        let refused = complaints(read_as(Role::Keyholder, &variables));
        assert!(refused.contains(&"VELUM_KEYHOLDER_EDGE_CA_FILE".to_owned()), "{refused:?}");
    }

    #[test]
    fn an_edge_that_holds_the_secret_key_is_refused() {
        let house = House::new();
        write(&house.folder, "fhe/secret.key", "x", 0o600);
        assert_eq!(house.complaints(), ["VELUM_FHE_DIR"]);
    }

    #[test]
    fn short_and_shared_database_passwords_are_refused() {
        for password in ["postgres", "velum", "changeme", "password", "123456", ""] {
            let url = format!("postgres://velum:{password}@db/velum");
            assert_eq!(House::new().with("VELUM_DATABASE_URL", &url).complaints(), ["VELUM_DATABASE_URL"], "{url}");
        }
        let shared = House::new().with("VELUM_KEYSTORE_URL", "postgres://keys:0123456789abcdef@db/keystore");
        assert_eq!(shared.complaints(), ["VELUM_KEYSTORE_URL"]);
        let without_password = House::new().with("VELUM_DATABASE_URL", "postgres://velum@db/velum");
        assert_eq!(without_password.complaints(), [""; 0]);
    }

    #[test]
    fn a_page_without_tls_is_for_developing() {
        let plain = House::new().with("VELUM_CORS_ORIGINS", "https://app.example,http://localhost:5173");
        assert_eq!(plain.complaints(), ["VELUM_CORS_ORIGINS"]);
        assert_eq!(House::new().with("VELUM_CORS_ORIGINS", "https://app.example").complaints(), [""; 0]);
    }

    #[test]
    fn a_local_or_plain_issuer_is_refused() {
        for issuer in ["https://localhost", "https://localhost:8443", "https://127.0.0.1:8443", "https://"] {
            assert!(!House::new().with("VELUM_ISSUER", issuer).complaints().is_empty(), "{issuer}");
        }
        for issuer in ["http://velum.example", "velum.example", "https://velum.example/", "https://velum.example?x"] {
            assert!(House::new().with("VELUM_ISSUER", issuer).complaints().contains(&"VELUM_ISSUER".to_owned()));
        }
    }

    #[test]
    fn a_worker_needs_what_a_server_needs_behind_its_door() {
        let bare = complaints(read_as(Role::Worker, &[("VELUM_MODE", "production")]));
        for name in ["ISSUER", "SECRETS_DIR", "FHE_DIR", "DATABASE_URL", "KEYSTORE_URL", "KEYHOLDER"] {
            assert!(bare.contains(&format!("VELUM_{name}")), "{name}: {bare:?}");
        }
        assert!(!bare.iter().any(|name| name.starts_with("VELUM_TLS_")), "{bare:?}");
    }

    #[test]
    fn the_keyholder_needs_less_but_all_of_it() {
        let bare = complaints(read_as(Role::Keyholder, &[("VELUM_MODE", "production")]));
        for name in ["CERTIFICATE_FILE", "KEY_FILE", "EDGE_CA_FILE", "JOURNAL_URL"] {
            assert!(bare.contains(&format!("VELUM_KEYHOLDER_{name}")), "{name}");
        }
        assert!(bare.contains(&"VELUM_FHE_DIR".to_owned()));
        assert!(!bare.contains(&"VELUM_TLS_KEY_FILE".to_owned()));
        assert!(!bare.contains(&"VELUM_DATABASE_URL".to_owned()));
    }
}
