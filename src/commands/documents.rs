//! `velum certificate` and `velum audit`: checks documents of ours, offline, with the public keys alone.

use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::Failure;
use crate::{
    audit::export,
    auth::evidence::{Document, EvidenceVerifier},
    flows::certificate,
};

#[derive(Args)]
pub struct Checked {
    /// The document
    file: PathBuf,
    /// The public keys, as /.well-known/evidence-jwks.json gave them
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
}

#[derive(Subcommand)]
pub enum CertificateCommand {
    /// Check a certificate of erasure, and print what it says
    Verify(Checked),
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// Check an exported audit log: whether an event was changed, removed, inserted or moved
    Verify(Checked),
}

pub fn run_certificate(CertificateCommand::Verify(checked): CertificateCommand) -> Result<(), Failure> {
    let text = fs::read_to_string(&checked.file).map_err(|error| unreadable(&checked.file, error))?;
    let good = certificate::verify(text.trim(), &keys(&checked.jwks)?);
    let good = good.map_err(|error| Failure::because("the certificate proves nothing", error))?;
    // Our own shapes always serialise.
    println!("{}", serde_json::to_string_pretty(&good).unwrap_or_default());
    Ok(())
}

pub fn run_audit(AuditCommand::Verify(checked): AuditCommand) -> Result<(), Failure> {
    let keys = keys(&checked.jwks)?;
    let file = fs::File::open(&checked.file).map_err(|error| unreadable(&checked.file, error))?;
    let open = |jws: &str| keys.verify(Document::AuditCheckpoint, jws).ok();
    let found = export::verify(BufReader::with_capacity(1 << 20, file), open);
    let found = found.map_err(|fault| Failure::because("the audit log is not whole", fault))?;
    let export::Whole { checkpoint, gone } = found;
    println!("whole: {} events of {}, signed {}", checkpoint.size, checkpoint.tenant, checkpoint.at);
    if gone > 0 {
        println!("the first {gone} of them went by retention; a signed checkpoint stands for them");
    }
    Ok(())
}

/// The public evidence keys out of a file.
pub fn keys(path: &Path) -> Result<EvidenceVerifier, Failure> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    EvidenceVerifier::from_jwks(&text).map_err(|error| Failure::because(&path.display().to_string(), error))
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::because(&path.display().to_string(), error)
}
