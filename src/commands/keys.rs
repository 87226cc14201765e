//! `velum keys`: the keys of an installation, made where they will lie.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;

use super::{Failure, existing, open_store, record, rotate_fhe, rotate_field, settings};
use crate::{
    audit::Action,
    domain::clock::{Clock, SystemClock},
    secrets::{self, Kind, SecretsError, Signs},
    settings::Role,
};

#[derive(Subcommand)]
pub enum Command {
    /// Make keys; one that is there is never overwritten
    Generate {
        /// Which key; a new `kek` is made beside the old ones and becomes the one that wraps
        #[arg(long, value_enum, default_value = "all")]
        kind: Wanted,
        /// Folder for the keys; those of the encryption go into its folder `fhe`. Without it: VELUM_SECRETS_DIR and VELUM_FHE_DIR
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Bring another key into use and put the old one out of it
    #[command(subcommand)]
    Rotate(Rotated),
}

#[derive(Subcommand)]
pub enum Rotated {
    /// Make the next token key and remove those that no living token was signed with; nothing has to be restarted
    Jwt(NextSigningKey),
    /// Make the next key for receipts, certificates and checkpoints; the old ones stay, and nothing has to be restarted
    Evidence(NextSigningKey),
    /// Wrap every data key by the current key-encryption key; nothing has to be restarted
    Field(rotate_field::Arguments),
    /// Bring every template under another key of the encryption, without new photos
    Fhe(rotate_fhe::Arguments),
}

#[derive(Args)]
pub struct NextSigningKey {
    /// Seconds until the new key signs: by then every process and every reader of the key set must know it
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(60..=86_400))]
    after: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// Signs access tokens (RSA 3072)
    Jwt,
    /// Signs receipts, certificates and checkpoints (RSA 3072)
    Evidence,
    /// Wraps the subjects' data keys
    Kek,
    /// Keyed hash of client secrets
    Pepper,
    /// Keyed hash of external references
    BlindIndex,
    /// Encrypts, compares and opens: three files
    Fhe,
    /// Compares: another evaluation key for the `secret.key` that is there, should the first be lost
    Evaluation,
    /// Every kind that is missing
    All,
}

impl Wanted {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Jwt => Some(Kind::Jwt),
            Self::Evidence => Some(Kind::Evidence),
            Self::Kek => Some(Kind::Kek),
            Self::Pepper => Some(Kind::Pepper),
            Self::BlindIndex => Some(Kind::BlindIndex),
            Self::Fhe => Some(Kind::Fhe),
            Self::Evaluation | Self::All => None,
        }
    }
}

pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Generate { kind, out } => {
            let now = SystemClock.now();
            if kind == Wanted::Kek && out.is_none() {
                announce_kek(now).await?;
            }
            generate(kind, out, now)
        }
        Command::Rotate(Rotated::Jwt(next)) => rotate(Signs::Tokens, next.after).await,
        Command::Rotate(Rotated::Evidence(next)) => rotate(Signs::Evidence, next.after).await,
        Command::Rotate(Rotated::Field(arguments)) => rotate_field::run(arguments).await,
        Command::Rotate(Rotated::Fhe(arguments)) => rotate_fhe::run(arguments).await,
    }
}

async fn rotate(signs: Signs, after: u32) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    if signs == Signs::Tokens && settings.secrets.jwt_signing_key.is_some() {
        return Err(Failure::plain("VELUM_JWT_SIGNING_KEY names one key, and one key cannot rotate")
            .next("put keys into the folder jwt of VELUM_SECRETS_DIR instead"));
    }
    let (now, after) = (SystemClock.now(), time::Duration::seconds(after.into()));
    // Where there is no database yet there is nobody to tell.
    if existing(&settings.storage.database).is_ok() {
        let action = match signs {
            Signs::Tokens => Action::TokenKeyAdded,
            Signs::Evidence => Action::EvidenceKeyAdded,
        };
        record(&open_store(&settings).await?, action, secrets::signing_key_name(now + after)).await?;
    }
    let rotation = secrets::rotate_signing_keys(signs, &settings.secrets.dir, now, after);
    let rotation = rotation.map_err(|error| Failure::because("the keys were not rotated", error))?;
    println!("made    {}, signs from {}", rotation.made.display(), rotation.signs_from);
    for path in rotation.removed {
        println!("removed {}", path.display());
    }
    println!("Every host with a copy of this folder needs the same files before then.");
    Ok(())
}

/// The first one is made before there is anybody to tell; another one wraps from then on.
async fn announce_kek(now: time::OffsetDateTime) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let dir = &settings.secrets.dir;
    let is_first = secrets::existing(Kind::Kek, dir, &settings.secrets.fhe_dir).is_none();
    if is_first || existing(&settings.storage.database).is_err() {
        return Ok(());
    }
    let name = secrets::fresh_kek_name(dir, now);
    record(&open_store(&settings).await?, Action::FieldKeyAdded, name).await
}

fn generate(kind: Wanted, out: Option<PathBuf>, now: time::OffsetDateTime) -> Result<(), Failure> {
    let (secrets_dir, fhe_dir) = match out {
        Some(out) => (out.clone(), out.join("fhe")),
        None => {
            let secrets = settings(Role::Tool)?.secrets;
            (secrets.dir, secrets.fhe_dir)
        }
    };
    let failed = |error| Failure::because("the key was not made", error);
    match kind.kind() {
        None if kind == Wanted::Evaluation => {
            let path = secrets::make_evaluation_key(&fhe_dir).map_err(failed)?;
            println!("{:<12} made {}", "evaluation", path.display());
        }
        Some(kind) => report(make(kind, &secrets_dir, &fhe_dir, now).map_err(failed)?),
        None => {
            for kind in Kind::ALL {
                // Another key-encryption key would change which one wraps: `all` completes a set, it rotates nothing.
                match secrets::existing(kind, &secrets_dir, &fhe_dir) {
                    Some(path) => println!("{kind:<12} kept {}", path.display()),
                    None => report(make(kind, &secrets_dir, &fhe_dir, now).map_err(failed)?),
                }
            }
        }
    }
    if matches!(kind, Wanted::Fhe | Wanted::All) {
        println!("next: move {} to the keyholder's machine", fhe_dir.join("secret.key").display());
    }
    Ok(())
}

fn make(
    kind: Kind,
    secrets_dir: &Path,
    fhe_dir: &Path,
    now: time::OffsetDateTime,
) -> Result<secrets::Made, SecretsError> {
    let progress = ProgressBar::new_spinner().with_message(format!("making the {kind} key"));
    progress.enable_steady_tick(Duration::from_millis(100));
    let made = secrets::make(kind, secrets_dir, fhe_dir, now);
    progress.finish_and_clear();
    made
}

fn report(made: secrets::Made) {
    println!("{:<12} made {}", made.kind, made.path.display());
}
