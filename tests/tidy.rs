//! Keeps the house tidy: who may import whom, where each foreign crate lives, and what must not stand in the repository.
//! A test that fails here names the file and the door that was missed: move the code, or change the table on purpose.
#![expect(clippy::expect_used, clippy::panic, reason = "a check that cannot read the sources has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may name with `crate::`. The first three are packages of their own, whose `Cargo.toml` keeps their
/// doors, and that of foreign crates which no other package names.
const DOORS: &[(&str, &str)] = &[
    ("domain", ""),
    ("face", "domain"),
    ("fhe", "domain"),
    ("telemetry", ""),
    ("measure", ""),
    ("audit", "domain"),
    ("tls", "domain"),
    ("vault", "domain"),
    ("auth", "audit domain"),
    ("cache", "domain"),
    // It calls what it is told to, if that is public: who is told what is decided in flows.
    ("callbacks", "domain"),
    ("store", "vault audit domain"),
    ("keyholder", "fhe store tls measure domain"),
    // vault: only to carry a person's DataKey from the key store to the store, to keep the key that hashes addresses,
    // and to encrypt what leaves the house.
    ("flows", "face fhe vault store auth cache callbacks keyholder measure audit domain"),
    ("http", "flows audit auth cache tls measure domain"),
    ("console", "flows auth domain measure audit http"),
    ("settings", "http flows keyholder store cache auth vault fhe face tls telemetry domain"),
    ("secrets", "settings auth vault fhe domain"),
    // The one room that knows every other.
    (
        "app",
        "settings secrets console http flows keyholder store cache callbacks auth vault fhe face tls telemetry measure domain",
    ),
    ("commands", "app settings secrets telemetry tls http flows keyholder store auth audit face fhe domain"),
];

/// Each foreign crate that has a home, and the files or folders under src/ that may name it.
const HOMES: &[(&str, &str)] = &[
    ("actix_web", "http/ console/ keyholder/server.rs app/"),
    ("actix_cors", "http/cors.rs"),
    ("actix_multipart", "http/"),
    ("actix_tls", "keyholder/server.rs http/listener.rs"),
    ("actix_http", "http/listener.rs http/unread.rs"),
    ("actix_server", "http/listener.rs"),
    ("actix_service", "http/listener.rs"),
    ("ppp", "http/proxy_protocol.rs"),
    ("askama", "console/"),
    ("utoipa", "http/"),
    ("utoipa_swagger_ui", "http/"),
    ("diesel", "store/"),
    ("diesel_migrations", "store/"),
    ("deadpool", "store/"),
    ("deadpool_diesel", "store/"),
    ("aes_gcm", "vault/"),
    ("age", "vault/package.rs"),
    ("jsonwebtoken", "auth/"),
    ("argon2", "auth/password.rs"),
    ("totp_rs", "auth/totp.rs"),
    ("redis", "cache/"),
    ("governor", "cache/"),
    // callbacks.rs: the one way out to addresses that others named.
    ("reqwest", "keyholder/client.rs callbacks.rs commands/"),
    ("rcgen", "tls/"),
    ("x509_parser", "tls/"),
    ("rustls_native_certs", "tls/"),
    ("metrics", "measure.rs"),
    ("metrics_exporter_prometheus", "measure.rs"),
    ("socket2", "app/doors.rs"),
    ("clap", "commands/ main.rs"),
    ("fastrand", "commands/evaluate/"),
    ("roxmltree", "commands/evidence/"),
    ("indicatif", "commands/"),
    ("plotters", "commands/"),
    ("qrcode", "commands/"),
];

/// Words that must stand nowhere in the repository (split, so that this file does not hold them), and why.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tm", "p/"), "a path of one machine: ask for a temporary folder"),
    (concat!("pypi", ".org"), "a registry's host: pip knows where its packages are"),
    (concat!("python", "hosted"), "a registry's host"),
    (concat!("static.", "crates.io"), "a registry's host"),
    (concat!("index.", "crates.io"), "a registry's host"),
    (concat!("deb.", "debian.org"), "a registry's host: apt knows where its packages are"),
];

#[test]
fn rooms_use_only_their_own_doors() {
    let doors: BTreeMap<_, _> = DOORS.iter().copied().collect();
    let mut missed = Vec::new();
    for source in sources() {
        let Some(room) = source.room() else { continue };
        let Some(allowed) = doors.get(room) else {
            missed.push(format!("src/{}: the room `{room}` is not in the table DOORS", source.path));
            continue;
        };
        for named in source.rooms_named() {
            if named != room && !allowed.split(' ').any(|door| door == named) {
                missed.push(format!("src/{}: `{room}` has no door to `{named}`", source.path));
            }
        }
    }
    assert!(missed.is_empty(), "\n{}\n", missed.join("\n"));
}

#[test]
fn foreign_crates_stay_in_their_homes() {
    let mut missed = Vec::new();
    for source in sources() {
        for (foreign, homes) in HOMES {
            if source.names_crate(foreign) && !homes.split(' ').any(|home| source.path.starts_with(home)) {
                missed.push(format!("src/{}: `{foreign}` lives in {homes}", source.path));
            }
        }
    }
    assert!(missed.is_empty(), "\n{}\n", missed.join("\n"));
}

#[test]
fn migrations_of_both_databases_carry_the_same_names_and_can_go_back() {
    let mut pairs = 0;
    for postgres in entries_below(&root().join("migrations")).filter(|entry| entry.ends_with("postgres")) {
        let sqlite = postgres.with_file_name("sqlite");
        let names = names_in(&postgres);
        assert_eq!(names, names_in(&sqlite), "{} and {} differ", postgres.display(), sqlite.display());
        assert!(!names.is_empty(), "{} holds no migration", postgres.display());
        for step in names.iter().flat_map(|name| [postgres.join(name), sqlite.join(name)]) {
            for file in ["up.sql", "down.sql"] {
                assert!(step.join(file).is_file(), "{} has no {file}", step.display());
            }
        }
        pairs += 1;
    }
    assert!(pairs > 0, "no folder named postgres below migrations/");
}

#[test]
fn every_model_file_is_in_the_manifest() {
    let manifest = fs::read_to_string(root().join("models/manifest.toml")).expect("models/manifest.toml");
    let unlisted: Vec<_> = names_in(&root().join("models"))
        .into_iter()
        .filter(|name| name.ends_with(".onnx") && !manifest.contains(&format!("\"{name}\"")))
        .collect();
    assert!(unlisted.is_empty(), "models/manifest.toml does not list {unlisted:?}");
}

#[test]
fn nothing_names_a_path_of_one_machine_or_the_host_of_a_registry() {
    let mut found = Vec::new();
    for file in repository_files() {
        let Ok(text) = fs::read_to_string(&file) else { continue }; // images and weights
        for (word, why) in NOWHERE {
            if let Some(line) = text.lines().position(|line| line.contains(word)) {
                found.push(format!("{}:{}: `{word}` ({why})", file.display(), line + 1));
            }
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// By which a line is found, whatever its sentence becomes.
#[test]
fn every_line_of_the_log_names_its_event() {
    let mut nameless = vec![];
    for Source { path, code } in sources() {
        // Tests of the log itself write what they like.
        let code = code.split("#[cfg(test)]").next().expect("a first part");
        for level in ["info", "warn", "error"] {
            for call in code.split(&format!("tracing::{level}!(")).skip(1).map(str::trim_start) {
                if !call.starts_with("event = ") {
                    nameless.push(format!("{path}: {}", call.lines().next().unwrap_or_default()));
                }
            }
        }
    }
    assert!(nameless.is_empty(), "{}", nameless.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_through_groups() {
    let source = Source {
        path: "flows/enrol.rs".into(),
        code: "use crate::{\n    face::{self, Face},\n    domain,\n};\nfn f(key: velum_fhe::Key) { crate::store::x(); ort::init(); }"
            .into(),
    };
    assert_eq!(source.rooms_named().into_iter().collect::<Vec<_>>(), ["domain", "face", "fhe", "store"]);
    assert!(source.names_crate("ort") && !source.names_crate("tfhe"));
    assert_eq!(source.room(), Some("flows"));
}

/// One file under src/, its comments taken out.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// `fhe/score.rs` and `fhe.rs` belong to `fhe`; `lib.rs` and `main.rs` belong to no room.
    fn room(&self) -> Option<&str> {
        let room = self.path.split(['/', '.']).next()?;
        (!["lib", "main"].contains(&room)).then_some(room)
    }

    /// The rooms behind `crate::room`, `use crate::{room, room::word}` and the package `velum_room`.
    fn rooms_named(&self) -> BTreeSet<String> {
        let package = |(start, prefix): (usize, &str)| first_word(&self.code[start + prefix.len()..]);
        let mut words: BTreeSet<_> = self.code.match_indices("velum_").map(package).collect();
        for (start, door) in self.code.match_indices("crate::") {
            let rest = &self.code[start + door.len()..];
            match rest.strip_prefix('{') {
                Some(group) => words.extend(heads_of_group(group)),
                None => words.extend([first_word(rest)]),
            }
        }
        words.retain(|word| DOORS.iter().any(|(room, _)| room == word));
        words
    }

    /// `foreign::`, `use foreign;` or `use foreign as`, but no module of ours that has the same name.
    fn names_crate(&self, foreign: &str) -> bool {
        self.code.match_indices(foreign).any(|(start, _)| {
            let (before, after) = (&self.code[..start], &self.code[start + foreign.len()..]);
            let whole_word = !before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
            let ours = before.ends_with("::") && !before.ends_with(" ::");
            let imported = before.ends_with("use ") && (after.starts_with(';') || after.starts_with(" as "));
            whole_word && !ours && (after.starts_with("::") || imported)
        })
    }
}

/// The first word of each entry of `a, b::{c, d}, e}`.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = vec![first_word(group)];
    let mut depth = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(first_word(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut found: Vec<_> = entries_below(&src)
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .map(|file| Source {
            path: file.strip_prefix(&src).expect("a file below src").to_string_lossy().into_owned(),
            code: without_comments(&fs::read_to_string(&file).expect("a readable source")),
        })
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!found.is_empty(), "no sources below {}", src.display());
    found
}

fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    code.collect::<Vec<_>>().join("\n")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a clone, without what building and running leave beside them.
fn repository_files() -> Vec<PathBuf> {
    const LEFT_BEHIND: &[&str] = &[".git", "target", "data", "runtime", ".cache"];
    let mut files = Vec::new();
    for name in names_in(root()).iter().filter(|name| !LEFT_BEHIND.contains(&name.as_str())) {
        let path = root().join(name);
        match path.is_dir() {
            true => files.extend(entries_below(&path).filter(|entry| entry.is_file())),
            false => files.push(path),
        }
    }
    files
}

fn entries_below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in names_in(&folder).iter().map(|name| folder.join(name)) {
            if entry.is_dir() {
                waiting.push(entry.clone());
            }
            found.push(entry);
        }
    }
    found.into_iter()
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned()).collect()
}
