//! The documents say what the program does: each setting stands in the table of docs/operations.md and no other does, each
//! error code of the API in docs/api.md, and every link inside the repository leads somewhere.
#![expect(clippy::expect_used, clippy::panic, reason = "a check that cannot read the documents has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use velum::auth::{self, Scope};
use velum::http::openapi;
use velum::settings::{Role, Settings};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "docs/api.md",
    "docs/compliance.md",
    "docs/conformance.md",
    "docs/operations.md",
    "docs/releasing.md",
    "docs/runbook.md",
    "docs/testing.md",
    "docs/threat-model.md",
    "models/LICENSES.md",
    "samples/README.md",
    "secrets/README.md",
];

#[test]
fn the_table_of_settings_holds_every_setting_and_no_other() {
    let read = Settings::read([], Role::Serve).effective.into_iter().map(|setting| setting.variable);
    let settings: BTreeSet<String> = read.collect();
    let operations = document("docs/operations.md");
    let rows = operations.lines().filter(|line| line.starts_with("| `VELUM_"));
    let names = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(','));
    let documented: BTreeSet<String> = names.map(|name| name.trim().trim_matches('`').to_owned()).collect();
    assert_eq!(settings.difference(&documented).collect::<Vec<_>>(), [""; 0], "not in docs/operations.md");
    assert_eq!(documented.difference(&settings).collect::<Vec<_>>(), [""; 0], "no longer a setting");
}

#[test]
fn the_table_of_metrics_holds_every_metric_and_no_other() {
    let operations = document("docs/operations.md");
    let rows = operations.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next());
    let metric = |name: &&str| name.starts_with("velum_") || name.starts_with("process_");
    // Those of backups are told by deploy.sh.
    let rows = rows.filter(|name| !name.starts_with("velum_backup_"));
    let documented: BTreeSet<String> = rows.filter(metric).map(str::to_owned).collect();
    assert_eq!(documented, velum::measure::names().map(str::to_owned).collect());
}

#[test]
fn every_error_code_of_the_api_is_explained() {
    let described: Value = serde_json::from_str(openapi::document_json()).expect("the OpenAPI document is JSON");
    let api = document("docs/api.md");
    let missing: Vec<_> = codes_of(&described).into_iter().filter(|code| !api.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/api.md does not explain {missing:?}");
}

#[test]
fn every_error_code_that_is_explained_is_one_of_the_api() {
    let described: Value = serde_json::from_str(openapi::document_json()).expect("the OpenAPI document is JSON");
    let (api, known) = (document("docs/api.md"), codes_of(&described));
    let cells = api.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let is_status = |cell: &&str| cell.split(", ").all(|status| status.len() == 3 && status.parse::<u16>().is_ok());
    let rows = cells.filter(|cells| cells.get(1).is_some_and(is_status));
    let codes: Vec<String> =
        rows.flat_map(|cells| cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(codes.len() > 60, "found {} codes", codes.len());
    let unknown: Vec<_> = codes.into_iter().filter(|code| !known.contains(code)).collect();
    assert!(unknown.is_empty(), "the OpenAPI document does not name {unknown:?}");
}

#[test]
fn the_table_of_roles_says_what_each_may_do() {
    let api = document("docs/api.md");
    for scope in Scope::ALL {
        let row = api.lines().find(|line| line.starts_with(&format!("| `{scope}` |")));
        let cells: Vec<&str> = row.expect("a row for each scope").split('|').map(str::trim).collect();
        let told: Vec<bool> = cells[3..=6].iter().map(|cell| *cell == "yes").collect();
        let meant: Vec<bool> = auth::Role::ALL.iter().map(|role| role.scopes().contains(scope)).collect();
        assert_eq!(told, meant, "docs/api.md: {scope}");
    }
}

#[test]
fn every_link_inside_the_repository_leads_somewhere() {
    for name in DOCUMENTS {
        for link in links(&document(name)) {
            let file = link.split('#').next().expect("a link has a first part");
            let target = root().join(name).parent().expect("a document lies in a folder").join(file);
            assert!(file.is_empty() || target.exists(), "{name}: {link} leads nowhere");
        }
    }
}

#[test]
fn the_table_of_provisions_is_the_one_that_stands_in_evidence_packs() {
    let printed = Command::new(env!("CARGO_BIN_EXE_velum")).args(["evidence", "mapping"]).output();
    let printed = String::from_utf8(printed.expect("velum runs").stdout).expect("a text");
    assert!(printed.contains("| Art. 17, 12(3): erasure |"), "{printed}");
    assert!(document("docs/compliance.md").contains(&printed), "put the output of `velum evidence mapping` there");
}

/// `api/tokens::name` is a test function of tests/api/tokens.rs, `src/auth/api_key::name` one of that source.
#[test]
fn every_demand_of_the_rfcs_names_tests_that_exist_or_says_why_none_does() {
    let conformance = document("docs/conformance.md");
    let rows = conformance.lines().filter(|line| line.starts_with("| ")).map(|row| row.trim_matches(['|', ' ']));
    let demands: Vec<&str> = rows.filter(|row| !row.starts_with("section")).collect();
    let mut wrong = vec![];
    for demand in &demands {
        let kept_by = demand.rsplit(" | ").next().expect("a row has a last cell");
        let tests: Vec<&str> = kept_by.split('`').filter(|word| word.contains("::")).collect();
        let excused = kept_by.starts_with("does not apply: ") || kept_by.starts_with("not kept: ");
        if tests.is_empty() != excused || tests.iter().any(|test| !is_a_test(test)) {
            wrong.push(*demand);
        }
    }
    assert!(wrong.is_empty(), "no such test, or no reason:\n{}", wrong.join("\n"));
    assert!(demands.len() > 60, "found {} demands", demands.len());
}

fn is_a_test(reference: &str) -> bool {
    let (file, name) = reference.split_once("::").expect("a file and a name");
    let name = name.rsplit("::").next().expect("a name");
    let path = if file.starts_with("src/") { format!("{file}.rs") } else { format!("tests/{file}.rs") };
    let source = fs::read_to_string(root().join(path)).unwrap_or_default();
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let function = format!("fn {name}()");
    lines
        .windows(2)
        .any(|pair| (pair[0] == "#[test]" || pair[0].starts_with("#[tokio::test")) && pair[1].contains(&function))
}

/// Every code named in the description of a refusal under /v1.
fn codes_of(described: &Value) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    let paths = described["paths"].as_object().expect("an object of paths");
    // RFC 6749 says what an error looks like there.
    for (_, operations) in paths.iter().filter(|(path, _)| !path.starts_with("/oauth/")) {
        for operation in operations.as_object().expect("an object of operations").values() {
            let responses = operation["responses"].as_object().into_iter().flatten();
            for (_, response) in responses.filter(|(status, _)| status.as_str() >= "400") {
                let description = response["description"].as_str().unwrap_or_default();
                let listed = description.split_once("Codes:").map(|(_, codes)| codes).unwrap_or_default();
                let words = listed.split(|character: char| !character.is_ascii_lowercase() && character != '_');
                codes.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
            }
        }
    }
    assert!(codes.contains("consent_required"), "found no codes: {codes:?}");
    codes
}

/// The targets of `[text](target)` that are no addresses of other sites.
fn links(text: &str) -> Vec<&str> {
    let after = text.split("](").skip(1);
    after.filter_map(|rest| rest.split(')').next()).filter(|target| !target.contains("://")).collect()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
