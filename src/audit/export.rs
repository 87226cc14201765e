//! A log as a file: JSON lines, which anybody can check with the public keys alone.
//!
//! ```text
//! {"format":"velum-audit-1","tenant":"ten_..."}
//! {"entry":{"sequence":1,...},"hash":"..."}        as many as there are, in order
//! {"checkpoint":"..."}                             a JWS over the whole
//! ```
//! Each line has one form, to the byte, and ends with a line feed.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Entry, Hash,
    chain::{Chain, Checkpoint},
};
use crate::domain::id::TenantId;

const FORMAT: &str = "velum-audit-1";
/// Longer than any line of ours.
const LINE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    format: String,
    tenant: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    entry: Entry,
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    checkpoint: String,
}

pub fn first_line(tenant: TenantId) -> Vec<u8> {
    line(&First { format: FORMAT.to_owned(), tenant: tenant.to_string() })
}

pub fn entry_line(entry: Entry, hash: &Hash) -> Vec<u8> {
    line(&Line { entry, hash: hex::encode(hash) })
}

pub fn last_line(checkpoint: String) -> Vec<u8> {
    line(&Last { checkpoint })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Our own shapes always serialise.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// What is wrong with a file, and where it first shows.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("line {line} is not what the format has there")]
    Malformed { line: u64 },
    #[error("line {line}: an entry was changed, removed, inserted or moved here or just before")]
    Broken { line: u64 },
    #[error("the signature of the checkpoint is not good")]
    Signature,
    #[error("the signed checkpoint is of another log: entries are missing, or too many")]
    OtherLog,
    #[error("the file goes on after its last line")]
    Trailing,
    #[error("the file cannot be read")]
    Unreadable(#[from] io::Error),
}

/// Reads a whole file. `open` gives what a checkpoint says whose signature is good.
pub fn verify(mut file: impl BufRead, open: impl FnOnce(&str) -> Option<Checkpoint>) -> Result<Checkpoint, Fault> {
    let (mut reading, mut line, mut number) = (Reading::Nothing, Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        io::Read::take(&mut file, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        match reading {
            Reading::Ended { chain, checkpoint } if line.is_empty() => {
                let checkpoint = open(&checkpoint).ok_or(Fault::Signature)?;
                return if chain.is_at(&checkpoint) { Ok(checkpoint) } else { Err(Fault::OtherLog) };
            }
            _ => reading = reading.on(&line, number)?,
        }
    }
}

/// How far a file was read.
#[derive(Clone)]
enum Reading {
    Nothing,
    Entries(Chain),
    Ended { chain: Chain, checkpoint: String },
}

impl Reading {
    fn on(self, line: &[u8], number: u64) -> Result<Self, Fault> {
        let malformed = Fault::Malformed { line: number };
        match self {
            Self::Nothing => {
                let First { format, tenant } = exactly(line).ok_or(malformed)?;
                let tenant = tenant.parse().ok().filter(|_| format == FORMAT);
                tenant.map(|tenant| Self::Entries(Chain::empty(tenant))).ok_or(Fault::Malformed { line: number })
            }
            Self::Entries(mut chain) => {
                let Some(Line { entry, hash }) = exactly(line) else {
                    let Last { checkpoint } = exactly(line).ok_or(malformed)?;
                    return Ok(Self::Ended { chain, checkpoint });
                };
                let follows = entry.sequence == chain.size() + 1;
                chain.push(&entry);
                let fits = follows && hash == hex::encode(chain.hash());
                if fits { Ok(Self::Entries(chain)) } else { Err(Fault::Broken { line: number }) }
            }
            Self::Ended { .. } => Err(Fault::Trailing),
        }
    }
}

/// What a line says, if it is in the one form that we write: other spaces, escapes or orders say the same and are not ours.
fn exactly<T: Serialize + DeserializeOwned>(text: &[u8]) -> Option<T> {
    serde_json::from_slice(text).ok().filter(|value| line(value) == text)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::audit::{Action, Actor, Event};

    /// A file of `entries`, and its checkpoint in the clear: signatures are tested where they are made.
    fn file(entries: u64) -> Vec<u8> {
        let tenant = TenantId::generate();
        let at = datetime!(2026-11-21 12:00 UTC);
        let (mut chain, mut file) = (Chain::empty(tenant), first_line(tenant));
        for sequence in 1..=entries {
            let entry = Event::of(Actor::operator(), Action::ClientCreated, "cli_1", at).entry(sequence);
            chain.push(&entry);
            file.extend(entry_line(entry, chain.hash()));
        }
        file.extend(last_line(serde_json::to_string(&chain.checkpoint(at)).unwrap()));
        file
    }

    fn check(file: &[u8]) -> Result<Checkpoint, Fault> {
        // Stands for a signature: only what was signed opens.
        let signed = file_checkpoint(file);
        verify(file, |text| signed.filter(|signed| signed == text).and_then(|_| serde_json::from_str(text).ok()))
    }

    fn file_checkpoint(file: &[u8]) -> Option<String> {
        let last = file.strip_suffix(b"\n")?.split(|byte| *byte == b'\n').next_back()?;
        serde_json::from_slice::<Last>(last).ok().map(|last| last.checkpoint)
    }

    #[test]
    fn a_whole_file_is_good_and_an_empty_log_too() {
        assert_eq!(check(&file(9)).unwrap().size, 9);
        assert_eq!(check(&file(0)).unwrap().size, 0);
    }

    #[test]
    fn every_single_bit_of_a_thousand_events_counts() {
        let whole = file(1_000);
        let mut reading = Reading::Nothing;
        let lines: Vec<Vec<u8>> = whole.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        // What the last one says is signed, and not read by us.
        for number in 0..lines.len() - 1 {
            for bit in 0..lines[number].len() * 8 {
                let mut line = lines[number].clone();
                line[bit / 8] ^= 1 << (bit % 8);
                // Another tenant in the first line makes another chain: that shows at the first entry.
                let read = reading.clone().on(&line, 1).and_then(|read| read.on(&lines[number + 1], 2));
                assert!(read.is_err(), "bit {bit} of line {number}: {}", String::from_utf8_lossy(&line));
            }
            let line = &lines[number];
            reading = reading.on(line, 1).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }

    #[test]
    fn an_entry_removed_moved_or_doubled_shows() {
        let whole = file(5);
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let of = |order: &[usize]| order.iter().flat_map(|line| lines[*line].to_vec()).collect::<Vec<u8>>();
        assert!(check(&of(&[0, 1, 2, 3, 4, 5, 6])).is_ok());
        for order in [&[0, 2, 3, 4, 5, 6][..], &[0, 1, 3, 2, 4, 5, 6], &[0, 1, 1, 2, 3, 4, 5, 6]] {
            assert!(matches!(check(&of(order)), Err(Fault::Broken { .. })), "{order:?}");
        }
        assert!(matches!(check(&of(&[0, 1, 2, 3, 4, 6])), Err(Fault::OtherLog)), "the newest is missing");
        assert!(matches!(check(&of(&[0, 1, 2, 3, 4, 5])), Err(Fault::Malformed { line: 7 })), "no checkpoint");
        assert!(matches!(check(&of(&[0, 1, 2, 3, 4, 5, 6, 6])), Err(Fault::Trailing)));
        assert!(matches!(check(&of(&[1, 2, 3, 4, 5, 6])), Err(Fault::Malformed { line: 1 })), "no head");
    }
}
