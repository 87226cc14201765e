//! A log as a file: JSON lines, which anybody can check with the public keys alone.
//!
//! ```text
//! {"format":"velum-audit-1","tenant":"ten_..."}
//! {"entry":{"sequence":1,...},"hash":"..."}        as many as there are, in order
//! {"checkpoint":"..."}                             a JWS over the whole
//! ```
//! Where the oldest entries went by retention, the first line says after which signed checkpoint the others follow:
//! `"after":{"size":4711,"hash":"...","peaks":"...","checkpoint":"..."}`.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<After>,
}

/// The state of the log where the file begins, and the JWS over it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    size: u64,
    hash: String,
    peaks: String,
    checkpoint: String,
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

/// `after`: what went, and the checkpoint that stands for it.
pub fn first_line(tenant: TenantId, after: Option<&(Chain, String)>) -> Vec<u8> {
    let after = after.map(|(chain, checkpoint)| After {
        size: chain.size(),
        hash: hex::encode(chain.hash()),
        peaks: hex::encode(chain.peaks_to_bytes()),
        checkpoint: checkpoint.clone(),
    });
    line(&First { format: FORMAT.to_owned(), tenant: tenant.to_string(), after })
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

/// What a good file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub checkpoint: Checkpoint,
    /// Entries that went before those of the file, under a checkpoint that is good.
    pub gone: u64,
}

/// Reads a whole file. `open` gives what a checkpoint says whose signature is good.
pub fn verify(mut file: impl BufRead, open: impl Fn(&str) -> Option<Checkpoint>) -> Result<Whole, Fault> {
    let (mut reading, mut line, mut number) = (Reading::Nothing, Vec::new(), 0);
    let signed = |chain: &Chain, checkpoint: &str| {
        let checkpoint = open(checkpoint).ok_or(Fault::Signature)?;
        if chain.is_at(&checkpoint) { Ok(checkpoint) } else { Err(Fault::OtherLog) }
    };
    loop {
        line.clear();
        number += 1;
        io::Read::take(&mut file, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        match reading {
            Reading::Ended { after, chain, checkpoint } if line.is_empty() => {
                let gone = after.map(|(chain, checkpoint)| signed(&chain, &checkpoint)).transpose()?;
                let gone = gone.map_or(0, |checkpoint| checkpoint.size);
                return Ok(Whole { checkpoint: signed(&chain, &checkpoint)?, gone });
            }
            _ => reading = reading.on(&line, number)?,
        }
    }
}

/// Where a file begins, if not with the log: the state there, and what was signed of it.
type Beginning = Option<(Chain, String)>;

/// How far a file was read.
#[derive(Clone)]
enum Reading {
    Nothing,
    Entries { after: Beginning, chain: Chain },
    Ended { after: Beginning, chain: Chain, checkpoint: String },
}

impl Reading {
    fn on(self, line: &[u8], number: u64) -> Result<Self, Fault> {
        let malformed = Fault::Malformed { line: number };
        match self {
            Self::Nothing => Self::begin(line).ok_or(malformed),
            Self::Entries { after, mut chain } => {
                let Some(Line { entry, hash }) = exactly(line) else {
                    let Last { checkpoint } = exactly(line).ok_or(malformed)?;
                    return Ok(Self::Ended { after, chain, checkpoint });
                };
                let follows = entry.sequence == chain.size() + 1;
                chain.push(&entry);
                let fits = follows && hash == hex::encode(chain.hash());
                if fits { Ok(Self::Entries { after, chain }) } else { Err(Fault::Broken { line: number }) }
            }
            Self::Ended { .. } => Err(Fault::Trailing),
        }
    }

    fn begin(line: &[u8]) -> Option<Self> {
        let First { format, tenant, after } = exactly(line)?;
        let tenant = tenant.parse().ok().filter(|_| format == FORMAT)?;
        let Some(After { size, hash, peaks, checkpoint }) = after else {
            return Some(Self::Entries { after: None, chain: Chain::empty(tenant) });
        };
        // In the one form that we write, as everything else.
        let bytes = |text: &str| hex::decode(text).ok().filter(|bytes| hex::encode(bytes) == text);
        let chain = Chain::resume(tenant, size, &bytes(&hash)?, &bytes(&peaks)?).ok().filter(|_| size > 0)?;
        Some(Self::Entries { after: Some((chain.clone(), checkpoint)), chain })
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
        let (mut chain, mut file) = (Chain::empty(tenant), first_line(tenant, None));
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
        let open =
            |text: &str| signed.as_ref().filter(|signed| *signed == text).and_then(|_| serde_json::from_str(text).ok());
        verify(file, open).map(|whole| whole.checkpoint)
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

    #[test]
    fn a_file_may_begin_after_a_signed_checkpoint_and_after_nothing_else() {
        let whole = file(12);
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let First { tenant, .. } = exactly(lines[0]).unwrap();
        let tenant = tenant.parse().unwrap();
        let gone = (1..=7).fold(Chain::empty(tenant), |mut chain, line| {
            chain.push(&exactly::<Line>(lines[line]).unwrap().entry);
            chain
        });
        let signed = |chain: &Chain| serde_json::to_string(&chain.checkpoint(datetime!(2026-11-21 13:00 UTC))).unwrap();
        let good = (gone.clone(), signed(&gone));
        let open = |text: &str| serde_json::from_str(text).ok();
        let after = |beginning: &(Chain, String), first: usize| {
            let file = [&first_line(tenant, Some(beginning))[..], &lines[first..].concat()].concat();
            verify(file.as_slice(), open)
        };
        assert_eq!(after(&good, 8).unwrap().gone, 7);
        assert_eq!(after(&good, 8).unwrap().checkpoint.size, 12);
        assert!(matches!(after(&good, 9), Err(Fault::Broken { line: 2 })), "one more went");
        assert!(matches!(after(&good, 7), Err(Fault::Broken { line: 2 })), "one is there that went");
        // The state of a shorter log with the checkpoint of the longer one, and a checkpoint that nobody signed.
        let shorter = Chain::empty(tenant);
        assert!(matches!(after(&(shorter, good.1.clone()), 1), Err(Fault::Malformed { line: 1 })));
        let other = Chain::resume(tenant, 7, &[7; 32], &gone.peaks_to_bytes()).unwrap();
        assert!(after(&(other, good.1.clone()), 8).is_err());
        assert!(matches!(after(&(gone, "unsigned".to_owned()), 8), Err(Fault::Signature)));
    }
}
