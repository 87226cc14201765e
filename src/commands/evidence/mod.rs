//! `velum evidence`: what can be shown of a running system, as a dated and signed pack, and which provision it is meant for.

mod gather;
mod junit;
mod mapping;
mod pack;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::format_description::well_known::Rfc3339;

use self::{gather::System, mapping::Mapping, pack::Pack};
use super::{Failure, documents, open_keystore, open_store};
use crate::{
    auth::evidence::EvidenceVerifier,
    domain::clock::{Clock, SystemClock},
    secrets::Secrets,
    settings::{Role, Settings},
    store::StoreError,
};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    pack: PackArguments,
}

#[derive(Subcommand)]
pub enum Command {
    /// Check a pack: whether a file was changed, added or taken away since it was signed
    Verify {
        /// The pack
        folder: PathBuf,
        /// The public keys, as /.well-known/evidence-jwks.json gave them
        #[arg(long, value_name = "FILE")]
        jwks: PathBuf,
    },
    /// Print the table of provisions, as it stands in every pack
    Mapping,
}

#[derive(Args)]
struct PackArguments {
    /// Folder in which the pack becomes a new folder, named by the moment
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    out: PathBuf,
    /// Name or id of the tenant whose figures are wanted; without it, all tenants'
    #[arg(long)]
    tenant: Option<String>,
    /// Results of the tests, as `cargo nextest` writes them (JUnit XML)
    #[arg(long, value_name = "FILE")]
    test_results: Option<PathBuf>,
    /// What `velum evaluate --protection --json` measured
    #[arg(long, value_name = "FILE")]
    protection: Option<PathBuf>,
    /// The record of the last restore drill: a JSON object with `at`, `result` (passed, failed) and perhaps `note` and `figures`
    #[arg(long, value_name = "FILE")]
    restore_drill: Option<PathBuf>,
}

/// What an operator, or a script of theirs, writes down of a restore drill.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drill {
    /// RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    at: time::OffsetDateTime,
    result: DrillResult,
    #[serde(default)]
    note: Option<String>,
    /// Whatever was measured.
    #[serde(default)]
    figures: Option<serde_json::Map<String, Value>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DrillResult {
    Passed,
    Failed,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        None => write(&arguments.pack).await,
        Some(Command::Verify { folder, jwks }) => verify(&folder, &jwks),
        Some(Command::Mapping) => {
            print!("{}", Mapping::read()?.to_markdown());
            Ok(())
        }
    }
}

fn verify(folder: &Path, jwks: &Path) -> Result<(), Failure> {
    let good = pack::verify(folder, &documents::keys(jwks)?);
    let good = good.map_err(|fault| Failure::because("the pack proves nothing", fault))?;
    let whose = good.tenant_id.as_deref().unwrap_or("all tenants");
    println!("whole: {} files of {}, {whose}, signed {}", good.files.len(), good.iss, good.at);
    Ok(())
}

async fn write(arguments: &PackArguments) -> Result<(), Failure> {
    // Whatever the operator gives is read first: nothing is begun that cannot be ended.
    let drill = given(arguments.restore_drill.as_deref())?.map(|file| drill(&file)).transpose()?;
    let tests = given(arguments.test_results.as_deref())?.map(|file| test_results(&file)).transpose()?;
    let protection = given(arguments.protection.as_deref())?.map(|file| protection(&file)).transpose()?;
    let mapping = Mapping::read()?;
    let (system, tenant_id) = open(arguments.tenant.as_deref()).await?;
    let failed = |error: StoreError| Failure::because("the evidence", error);

    let verifier = serde_json::to_string(&system.evidence_keys.jwks()).ok();
    let verifier = verifier.and_then(|jwks| EvidenceVerifier::from_jwks(&jwks).ok());
    let verifier = verifier.ok_or_else(|| Failure::plain("the evidence keys cannot check what they signed"))?;
    let files = [
        ("configuration.json", system.configuration()),
        ("keys.json", system.keys().await.map_err(failed)?),
        ("consents.json", system.consents().await.map_err(failed)?),
        ("erasures.json", system.erasures().await.map_err(failed)?),
        ("access-requests.json", system.access_requests().await.map_err(failed)?),
        ("retention.json", system.retention().await.map_err(failed)?),
        ("audit.json", system.audit(&verifier).await?),
        ("processing.json", system.processing().await.map_err(failed)?),
        ("restore-drill.json", system.restore_drill(drill).await.map_err(failed)?),
        ("tests.json", tests.unwrap_or_else(|| absent("no test results were given (--test-results FILE)"))),
        ("protection.json", protection.unwrap_or_else(|| absent("no measurement was given (--protection FILE)"))),
        ("mapping.json", mapping.to_json()),
    ];

    let unwritten = |error| Failure::because("the pack was not written", error);
    let mut pack = Pack::begin(&arguments.out, system.now).map_err(unwritten)?;
    for (name, content) in &files {
        pack.add_json(name, content).map_err(unwritten)?;
    }
    pack.add("mapping.md", mapping.to_markdown().as_bytes()).map_err(unwritten)?;
    let folder = pack.seal(&system.settings.tokens.issuer, tenant_id, &system.evidence_keys).map_err(unwritten)?;
    println!("{}", folder.display());
    Ok(())
}

/// Of one tenant, or of all.
async fn open(tenant: Option<&str>) -> Result<(System, Option<String>), Failure> {
    let reading = Settings::read(std::env::vars_os(), Role::Tool);
    let (settings, effective) = (reading.settings.map_err(Failure::settings)?, reading.effective);
    let (store, keystore) = (open_store(&settings).await?, open_keystore(&settings).await?);
    let secrets = Secrets::read(&settings.secrets).map_err(|error| Failure::because("the keys", error))?;
    let mut tenants =
        store.tenants().list().await.map_err(|error| Failure::because("the tenants could not be read", error))?;
    let mut only = None;
    if let Some(wanted) = tenant {
        tenants.retain(|tenant| tenant.name == wanted || tenant.id.to_string() == wanted);
        only = tenants.first().map(|tenant| tenant.id.to_string());
        if only.is_none() {
            return Err(Failure::plain(format!("there is no tenant {wanted}")).next("see `velum clients list`"));
        }
    }
    let (token_keys, evidence_keys) = (secrets.signing_keys, secrets.evidence_keys);
    let now = SystemClock.now();
    Ok((System { settings, effective, store, keystore, token_keys, evidence_keys, tenants, now }, only))
}

/// A file that the operator gave, with its hash: what a pack says of it can be traced.
struct Given {
    path: PathBuf,
    text: String,
    sha256: String,
}

fn given(path: Option<&Path>) -> Result<Option<Given>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let text = fs::read_to_string(path).map_err(|error| Failure::because(&path.display().to_string(), error))?;
    let sha256 = hex::encode(Sha256::digest(&text));
    Ok(Some(Given { path: path.to_owned(), text, sha256 }))
}

fn drill(file: &Given) -> Result<Value, Failure> {
    let drill: Drill = serde_json::from_str(&file.text).map_err(|error| file.unusable(&error.to_string()))?;
    Ok(json!({
        "at": drill.at.format(&Rfc3339).unwrap_or_default(),
        "result": drill.result,
        "note": drill.note,
        "figures": drill.figures,
        "file_sha256": file.sha256,
    }))
}

fn test_results(file: &Given) -> Result<Value, Failure> {
    let mut summary = junit::summary(&file.text).ok_or_else(|| file.unusable("no JUnit report"))?;
    summary["given"] = json!(true);
    summary["file_sha256"] = json!(file.sha256);
    Ok(summary)
}

fn protection(file: &Given) -> Result<Value, Failure> {
    let measured: Value = serde_json::from_str(&file.text).map_err(|error| file.unusable(&error.to_string()))?;
    let terms = ["irreversibility", "unlinkability", "renewability"];
    if let Some(missing) = terms.iter().find(|term| measured.get(term).is_none()) {
        return Err(file.unusable(&format!("there is no member `{missing}`")));
    }
    Ok(json!({ "given": true, "file_sha256": file.sha256, "measured": measured }))
}

fn absent(sentence: &str) -> Value {
    json!({ "given": false, "note": format!("{sentence}: this pack shows nothing of them") })
}

impl Given {
    fn unusable(&self, reason: &str) -> Failure {
        Failure::plain(format!("{}: {reason}", self.path.display()))
    }
}
