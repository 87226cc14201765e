//! `velum journal`: what the keyholder wrote down, read and checked where its journal lies.

use clap::Subcommand;
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::{Failure, settings};
use crate::{
    settings::Role,
    store::{
        StoreError,
        journal::{AuditLine, Chain, KeyholderJournal},
    },
};

/// Lines of one query.
const LINES_AT_ONCE: u32 = 1_000;

#[derive(Subcommand)]
pub enum Command {
    /// Print the audit lines as JSON lines, oldest first
    Export {
        /// Only lines after this one
        #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
        after: i64,
    },
    /// Walk along the hash chain; compare the printed head with one that was noted elsewhere
    Verify,
}

pub async fn run(command: Command) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let url = &settings.keyholder_server.journal;
    let failed = |error: StoreError| Failure::because("the keyholder's journal", error);
    if let Some(path) = url.sqlite_path().filter(|path| !path.exists()) {
        return Err(Failure::plain(format!("there is no journal at {}", path.display())));
    }
    let journal = KeyholderJournal::connect(url.expose_text(), 1).await.map_err(failed)?;
    match command {
        Command::Export { after } => export(&journal, after).await.map_err(failed),
        Command::Verify => match journal.verify_chain().await.map_err(failed)? {
            Chain::Whole { lines, head } => {
                println!("whole: {lines} lines, head {}", hex::encode(head));
                Ok(())
            }
            Chain::BrokenAt { sequence } => Err(Failure::plain(format!("the chain is broken at line {sequence}"))),
        },
    }
}

async fn export(journal: &KeyholderJournal, mut after: i64) -> Result<(), StoreError> {
    loop {
        let lines = journal.audit_lines(after, LINES_AT_ONCE).await?;
        let Some(last) = lines.last() else { return Ok(()) };
        after = last.sequence;
        lines.iter().for_each(print);
    }
}

fn print(line: &AuditLine) {
    let line = json!({
        "sequence": line.sequence,
        "at": line.at.format(&Rfc3339).unwrap_or_default(),
        "event": line.event,
        "reason": line.reason,
        "caller": line.caller,
        "tenant_id": line.tenant,
        "subject_digest": hex::encode(&line.subject_digest),
        "verification_id": line.verification,
        "hash": hex::encode(&line.hash),
    });
    println!("{line}");
}
