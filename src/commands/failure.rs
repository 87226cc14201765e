//! How a command fails: one sentence with its cause, and what to do next.

use std::{error::Error, process::ExitCode};

use crate::settings::Problems;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

pub struct Failure {
    exit_code: u8,
    sentence: String,
    next_step: Option<String>,
}

impl Failure {
    pub fn because(what: &str, error: impl Error) -> Self {
        Self { exit_code: FAILED, sentence: format!("{what}: {}", with_causes(&error)), next_step: None }
    }

    pub fn plain(sentence: impl Into<String>) -> Self {
        Self { exit_code: FAILED, sentence: sentence.into(), next_step: None }
    }

    pub fn settings(problems: Problems) -> Self {
        let lines: Vec<String> = problems.0.iter().map(|problem| format!("  {problem}")).collect();
        let sentence = format!("the settings cannot be used:\n{}", lines.join("\n"));
        Self { exit_code: WRONG_USAGE, sentence, next_step: None }
            .next("correct these variables; `velum config show` lists every setting")
    }

    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next_step = Some(step.into());
        self
    }

    pub fn report(self) -> ExitCode {
        eprintln!("velum: {}", self.sentence);
        if let Some(step) = self.next_step {
            eprintln!("next: {step}");
        }
        ExitCode::from(self.exit_code)
    }
}

/// Commands that measure and show gather their errors with `anyhow`.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::plain(with_causes(error.as_ref()))
    }
}

/// An error and what caused it. Some errors repeat their cause in their own words; it is then not said twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = error.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf};

    use super::*;
    use crate::secrets::SecretsError;

    #[test]
    fn a_cause_is_told_once() {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "permission denied");
        let error = SecretsError::Unreadable { path: PathBuf::from("a.key"), source };
        assert_eq!(Failure::because("no start", error).sentence, "no start: a.key cannot be read: permission denied");

        #[derive(Debug, thiserror::Error)]
        #[error("outer ({0})")]
        struct Repeating(#[source] io::Error);
        let sentence = Failure::because("no start", Repeating(io::Error::other("inner"))).sentence;
        assert_eq!(sentence, "no start: outer (inner)");
    }
}
