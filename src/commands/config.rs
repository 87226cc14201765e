//! `velum config`: the settings as they took effect, and everything that is wrong with them and with what they point to.

use std::error::Error;

use clap::{Subcommand, ValueEnum};

use super::{Failure, failure};
use crate::{
    face::manifest::Manifest,
    secrets::{self, Secrets},
    settings::{KeyholderSettings, Mode, Origin, Problem, Problems, Role, Settings},
    tls,
};

#[derive(Subcommand)]
pub enum Command {
    /// Say everything that is wrong: variables, keys, certificates, models. Connects to nothing
    Check {
        /// The program that will run with these settings
        #[arg(long = "for", value_enum, default_value = "serve")]
        program: Program,
    },
    /// List every setting, its value (secrets redacted), where it came from and what is expected
    Show,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Program {
    Serve,
    Worker,
    Keyholder,
}

impl Program {
    fn role(self) -> Role {
        match self {
            Self::Serve => Role::Serve,
            Self::Worker => Role::Worker,
            Self::Keyholder => Role::Keyholder,
        }
    }
}

pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { program } => check(program),
        Command::Show => show(),
    }
}

fn check(program: Program) -> Result<(), Failure> {
    let settings = Settings::from_environment(program.role()).map_err(Failure::settings)?;
    let mut problems = Vec::new();
    match program {
        Program::Serve | Program::Worker => check_serve(&settings, &mut problems),
        Program::Keyholder => check_keyholder(&settings, &mut problems),
    }
    if !problems.is_empty() {
        return Err(Failure::settings(Problems(problems)));
    }
    println!("the settings can be used");
    Ok(())
}

fn check_serve(settings: &Settings, problems: &mut Vec<Problem>) {
    // What the embedded mode will make on its first start cannot be missing.
    let made_later = settings.mode == Mode::Embedded;
    let secrets = &settings.secrets;
    if !made_later || secrets.dir.exists() {
        note(problems, "VELUM_SECRETS_DIR", Secrets::read(secrets));
    }
    if !made_later || secrets.fhe_dir.exists() {
        note(problems, "VELUM_FHE_DIR", secrets::read_public_key(&secrets.fhe_dir));
        note(problems, "VELUM_FHE_DIR", secrets::read_evaluation_key(&secrets.fhe_dir));
        note(problems, "VELUM_FHE_DIR", secrets::read_rekey(&secrets.fhe_dir));
    }
    if let Some(identity) = &settings.server.tls {
        note(problems, "VELUM_TLS_CERTIFICATE_FILE", tls::public_server(identity));
    }
    if let KeyholderSettings::Remote { identity: Some(identity), authority: Some(authority), .. } = &settings.keyholder
    {
        note(problems, "VELUM_KEYHOLDER_CLIENT_CERTIFICATE_FILE", tls::keyholder_client(identity, authority));
    }
    let face = &settings.face;
    let models = Manifest::read(&face.models_dir).and_then(|manifest| {
        manifest.embedder(face.embedder.as_ref())?;
        manifest.files().try_for_each(|(_, file)| file.read_verified(&face.models_dir).map(drop))
    });
    note(problems, "VELUM_MODELS_DIR", models);
    if !cfg!(feature = "tract") && !face.onnxruntime.is_file() {
        let sentence = format!("{} is not there; scripts/fetch-runtime.sh brings it", face.onnxruntime.display());
        problems.push(Problem { variable: "VELUM_ONNXRUNTIME".to_owned(), sentence });
    }
}

fn check_keyholder(settings: &Settings, problems: &mut Vec<Problem>) {
    let (server, fhe_dir) = (&settings.keyholder_server, &settings.secrets.fhe_dir);
    if settings.mode == Mode::Production || fhe_dir.exists() {
        note(problems, "VELUM_FHE_DIR", secrets::read_secret_keys(fhe_dir));
        note(problems, "VELUM_FHE_DIR", secrets::read_retiring_secret(fhe_dir));
    }
    if let (Some(identity), Some(authority)) = (&server.identity, &server.edge_authority) {
        note(problems, "VELUM_KEYHOLDER_CERTIFICATE_FILE", tls::keyholder_server(identity, authority));
    }
}

fn note<T, E: Error>(problems: &mut Vec<Problem>, variable: &str, outcome: Result<T, E>) {
    if let Err(error) = outcome {
        problems.push(Problem { variable: variable.to_owned(), sentence: failure::with_causes(&error) });
    }
}

fn show() -> Result<(), Failure> {
    let reading = Settings::read(std::env::vars_os(), Role::Tool);
    let width = reading.effective.iter().map(|entry| entry.variable.len()).max().unwrap_or(0);
    for entry in &reading.effective {
        let value = if entry.origin == Origin::Unset { "-" } else { &entry.shown };
        println!("{:<width$}  {value}\n{:<width$}  {}: {}", entry.variable, "", entry.origin, entry.expected);
    }
    reading.settings.map(drop).map_err(Failure::settings)
}
