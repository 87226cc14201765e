//! Which provision is met by what, which file of a pack shows it, and what is left to do. The table is `mapping.toml`;
//! docs/compliance.md holds it as this file prints it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Failure;

const TABLE: &str = include_str!("mapping.toml");

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Said above the table.
    caution: String,
    laws: Vec<Law>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Law {
    name: String,
    provisions: Vec<Provision>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provision {
    provision: String,
    about: String,
    /// What the program does.
    does: String,
    /// Files of a pack.
    shown_by: Vec<String>,
    /// With the controller or the operator.
    stays: String,
    /// What a reader might expect of the program, and does not find.
    #[serde(default)]
    gap: Option<String>,
}

impl Mapping {
    pub fn read() -> Result<Self, Failure> {
        toml::from_str(TABLE).map_err(|error| Failure::because("the table of provisions", error))
    }

    pub fn to_json(&self) -> Value {
        json!(self)
    }

    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}\n", self.caution);
        for Law { name, provisions } in &self.laws {
            text += &format!(
                "\n### {name}\n\n| provision | what the software does | shown by | stays with you, and gaps |\n|---|---|---|---|\n"
            );
            for Provision { provision, about, does, shown_by, stays, gap } in provisions {
                let shown: Vec<String> = shown_by.iter().map(|file| format!("`{file}`")).collect();
                let gap = gap.as_ref().map(|gap| format!(" **Gap:** {gap}")).unwrap_or_default();
                text += &format!("| {provision}: {about} | {does} | {} | {stays}{gap} |\n", shown.join(", "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table has to speak of, law by law.
    const DEMANDED: &[(&str, &[&str])] = &[
        (
            "GDPR",
            &[
                "Art. 5", "Art. 7", "Art. 9", "Art. 15", "Art. 17", "Art. 20", "Art. 25", "Art. 30", "Art. 32",
                "Art. 33", "Art. 35",
            ],
        ),
        (
            "DPDP Act 2023",
            &[
                "Section 5",
                "Section 6",
                "Section 8",
                "Section 9",
                "Section 10",
                "Section 11",
                "Section 12",
                "Section 13",
            ],
        ),
        ("DPDP Rules 2025", &["Rule 3", "Rule 6", "Rule 7", "Rule 8", "Rule 10", "Rule 13", "Rule 14"]),
        ("BIPA", &["Section 15(a)", "Section 15(b)", "Section 15(c)", "Section 15(d)", "Section 15(e)"]),
        ("ISO/IEC 27001", &["A.5.34", "A.8.10", "A.8.13", "A.8.15", "A.8.24"]),
        ("ISO/IEC 24745", &["Irreversibility", "Unlinkability", "Renewability"]),
    ];

    const FILES: &[&str] = &[
        "configuration.json",
        "keys.json",
        "consents.json",
        "erasures.json",
        "access-requests.json",
        "retention.json",
        "audit.json",
        "processing.json",
        "restore-drill.json",
        "tests.json",
        "protection.json",
    ];

    #[test]
    fn every_provision_that_is_asked_for_stands_in_the_table() {
        let mapping = Mapping::read().unwrap_or_else(|failure| panic!("{:?}", failure.report()));
        for (law, provisions) in DEMANDED {
            let found = mapping.laws.iter().find(|found| found.name.contains(law)).unwrap_or_else(|| panic!("{law}"));
            for demanded in *provisions {
                // "Art. 5" and "Art. 5(1)(c)", and not "Art. 55".
                let speaks_of = |row: &Provision| {
                    row.provision.match_indices(demanded).any(|(at, _)| {
                        !row.provision[at + demanded.len()..].starts_with(|next: char| next.is_ascii_digit())
                    })
                };
                assert!(found.provisions.iter().any(speaks_of), "{law}: {demanded}");
            }
        }
    }

    #[test]
    fn every_row_says_something_and_points_at_files_that_a_pack_has() {
        let mapping = Mapping::read().unwrap_or_else(|failure| panic!("{:?}", failure.report()));
        for row in mapping.laws.iter().flat_map(|law| &law.provisions) {
            for text in [&row.about, &row.does, &row.stays] {
                assert!(!text.is_empty() && !text.contains(['|', '\n']), "{}: {text:?}", row.provision);
            }
            for file in &row.shown_by {
                assert!(FILES.contains(&file.as_str()), "{}: {file}", row.provision);
            }
        }
    }

    #[test]
    fn the_table_promises_no_certificate() {
        let text = Mapping::read().unwrap_or_else(|failure| panic!("{:?}", failure.report())).to_markdown();
        assert!(text.contains("designed to support"));
        for word in ["certified", "compliant", "guarantee", "fully compl"] {
            assert!(!text.to_lowercase().contains(word), "{word}");
        }
    }
}
