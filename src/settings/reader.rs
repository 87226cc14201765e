//! Reads variables one by one, remembers what each came to, and collects every problem instead of stopping at the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, fs,
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use zeroize::Zeroizing;

use super::SecretText;

pub const PREFIX: &str = "VELUM_";

/// Left to the project's own tests; never a setting.
const TEST_PREFIX: &str = "VELUM_TEST_";

/// No setting is longer; a path to a device or a disk image by mistake is not read to its end.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What stands in place of a secret wherever settings are shown.
pub const REDACTED: &str = "[redacted]";

/// Something wrong with one variable, as a sentence that says what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub variable: String,
    pub sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.sentence)
    }
}

/// Where the value of a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    Unset,
    Environment,
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Unset => f.write_str("not set"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// One setting as it took effect, safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub variable: String,
    pub shown: String,
    pub origin: Origin,
    pub expected: &'static str,
}

pub struct Reader {
    variables: BTreeMap<String, Zeroizing<String>>,
    known: BTreeSet<String>,
    effective: Vec<Effective>,
    problems: Vec<Problem>,
}

impl Reader {
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut reader =
            Self { variables: BTreeMap::new(), known: BTreeSet::new(), effective: Vec::new(), problems: Vec::new() };
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || name.starts_with(TEST_PREFIX) {
                continue;
            }
            match value.into_string() {
                Ok(value) => _ = reader.variables.insert(name, Zeroizing::new(value)),
                Err(_) => reader.problem_with(name, "its value is not valid UTF-8".to_owned()),
            }
        }
        reader
    }

    /// A setting with a default, both in their text form.
    #[expect(clippy::expect_used, reason = "defaults are written in this room and read by its tests")]
    pub fn value<T: FromStr>(&mut self, name: &str, expected: &'static str, default: &str) -> T {
        let found = self.given(name, expected);
        if found.is_none() {
            self.show(name, default, Origin::Default, expected);
        }
        found.flatten().unwrap_or_else(|| default.parse().ok().expect("a default can be read"))
    }

    /// A whole number within bounds.
    pub fn number(&mut self, name: &str, expected: &'static str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let number = self.value(name, expected, &default.to_string());
        if bounds.contains(&number) {
            return number;
        }
        self.problem(name, format!("expected {expected}, found {number}"));
        default
    }

    pub fn optional<T: FromStr>(&mut self, name: &str, expected: &'static str) -> Option<T> {
        let found = self.given(name, expected);
        if found.is_none() {
            self.show(name, "", Origin::Unset, expected);
        }
        found.flatten()
    }

    /// A secret: read like every other setting, never shown, and its file must be readable by its owner alone.
    pub fn secret(&mut self, name: &str, expected: &'static str) -> Option<SecretText> {
        let Some((text, origin)) = self.text(name, expected) else {
            self.show(name, "", Origin::Unset, expected);
            return None;
        };
        if let Origin::File(path) = &origin
            && let Some(mode) = mode_open_to_others(path)
        {
            let path = path.display();
            self.problem(name, format!("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}"));
        }
        self.show(name, REDACTED, origin, expected);
        Some(SecretText::new(text))
    }

    /// A text of which a part is secret (the password in a database URL): shown by the type's own `Display`.
    #[expect(clippy::expect_used, reason = "defaults are written in this room and read by its tests")]
    pub fn redacted<T: FromStr + fmt::Display>(&mut self, name: &str, expected: &'static str, default: &str) -> T {
        let found = self.text(name, expected);
        let origin = found.as_ref().map_or(Origin::Default, |(_, origin)| origin.clone());
        let value: T = match found.map(|(text, _)| text.parse()) {
            Some(Ok(value)) => value,
            other => {
                if other.is_some() {
                    self.problem(name, format!("expected {expected}"));
                }
                default.parse().ok().expect("a default can be read")
            }
        };
        self.show(name, &value.to_string(), origin, expected);
        value
    }

    /// The same without a default.
    pub fn redacted_optional<T: FromStr + fmt::Display>(&mut self, name: &str, expected: &'static str) -> Option<T> {
        let Some((text, origin)) = self.text(name, expected) else {
            self.show(name, "", Origin::Unset, expected);
            return None;
        };
        let value: Option<T> = text.parse().ok();
        match &value {
            Some(value) => self.show(name, &value.to_string(), origin, expected),
            None => self.problem(name, format!("expected {expected}")),
        }
        value
    }

    /// A file that other code reads by itself, such as a certificate: `NAME_FILE` holds its path.
    pub fn file(&mut self, name: &str, expected: &'static str) -> Option<PathBuf> {
        let (plain, file) = (variable(name), format!("{}_FILE", variable(name)));
        self.known.extend([plain.clone(), file.clone()]);
        if self.variables.contains_key(&plain) {
            self.problem_with(plain, format!("expected a file: set {file} to the path of {expected}"));
        }
        let path = self.variables.get(&file).map(|text| PathBuf::from(text.as_str()));
        let (shown, origin) = match &path {
            Some(path) => (path.display().to_string(), Origin::Environment),
            None => (String::new(), Origin::Unset),
        };
        self.effective.push(Effective { variable: file.clone(), shown, origin, expected });
        if let Some(path) = &path
            && let Err(error) = fs::File::open(path)
        {
            self.problem_with(file, format!("expected {expected}; {} cannot be read: {error}", path.display()));
        }
        path
    }

    /// Whether the operator has said anything about `name`.
    pub fn is_set(&self, name: &str) -> bool {
        let (plain, file) = (variable(name), format!("{}_FILE", variable(name)));
        self.variables.contains_key(&plain) || self.variables.contains_key(&file)
    }

    pub fn problem(&mut self, name: &str, sentence: String) {
        self.problem_with(variable(name), sentence);
    }

    /// Everything that is wrong and everything that took effect. A name that was never asked for is a misspelt setting.
    pub fn finish(mut self) -> (Vec<Effective>, Vec<Problem>) {
        let unknown: Vec<String> = self.variables.keys().filter(|name| !self.known.contains(*name)).cloned().collect();
        for name in unknown {
            let sentence = match self.nearest(&name) {
                Some(near) => format!("there is no such setting; did you mean {near}?"),
                None => "there is no such setting; `velum config show` lists them".to_owned(),
            };
            self.problem_with(name, sentence);
        }
        (self.effective, self.problems)
    }

    /// The text of `NAME`, or of the file that `NAME_FILE` names, without the line end that editors add.
    fn text(&mut self, name: &str, expected: &'static str) -> Option<(Zeroizing<String>, Origin)> {
        let (plain, file) = (variable(name), format!("{}_FILE", variable(name)));
        self.known.extend([plain.clone(), file.clone()]);
        let (text, origin) = match (self.variables.get(&plain), self.variables.get(&file)) {
            (Some(_), Some(_)) => {
                self.problem_with(plain, format!("{file} is set too; keep one of them"));
                return None;
            }
            (Some(text), None) => (text.clone(), Origin::Environment),
            (None, Some(path)) => {
                let path = PathBuf::from(path.as_str());
                match read_setting_file(&path) {
                    Ok(text) => (text, Origin::File(path)),
                    Err(reason) => {
                        self.problem_with(
                            file,
                            format!("expected a file with {expected}; {}: {reason}", path.display()),
                        );
                        return None;
                    }
                }
            }
            (None, None) => return None,
        };
        if text.trim().is_empty() {
            self.problem(name, format!("expected {expected}, found nothing"));
            return None;
        }
        Some((text, origin))
    }

    /// What a variable says: `None` when it says nothing, `Some(None)` when it cannot be understood.
    fn given<T: FromStr>(&mut self, name: &str, expected: &'static str) -> Option<Option<T>> {
        let (text, origin) = self.text(name, expected)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problem(name, format!("expected {expected}, found `{}`", shortened(&text)));
        }
        self.show(name, &text, origin, expected);
        Some(parsed)
    }

    fn show(&mut self, name: &str, shown: &str, origin: Origin, expected: &'static str) {
        self.effective.push(Effective { variable: variable(name), shown: shown.to_owned(), origin, expected });
    }

    fn problem_with(&mut self, variable: String, sentence: String) {
        self.problems.push(Problem { variable, sentence });
    }

    /// The known name that differs from `name` in the fewest characters, if they are few.
    fn nearest(&self, name: &str) -> Option<&str> {
        let candidates = self.known.iter().map(|known| (edits(name, known), known.as_str()));
        candidates.filter(|(distance, _)| *distance <= 3).min().map(|(_, known)| known)
    }
}

fn variable(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn read_setting_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes are more than a setting can have"));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| error.to_string())?);
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

pub(super) fn mode_open_to_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

fn shortened(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Levenshtein distance.
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances_are_counted() {
        assert_eq!(edits("", ""), 0);
        assert_eq!(edits("VELUM_LISTEN", "VELUM_LISTEN"), 0);
        assert_eq!(edits("VELUM_LISEN", "VELUM_LISTEN"), 1);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn long_values_are_shortened_at_a_character() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(100)).chars().count(), 61);
    }
}
