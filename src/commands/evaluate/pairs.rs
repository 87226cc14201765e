//! The list of pairs: a CSV file with a header, of which `file_a`, `file_b` and `same` are needed and `set` is usual.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Photos, each once, and the pairs among them.
pub struct PairList {
    /// In the order of their first appearance.
    pub images: Vec<PathBuf>,
    pub pairs: Vec<Pair>,
}

pub struct Pair {
    /// Indices into [`PairList::images`].
    pub a: usize,
    pub b: usize,
    pub genuine: bool,
    /// Value of the column that results are grouped by.
    pub group: Option<String>,
}

impl PairList {
    /// Paths in the file are relative to the file itself.
    pub fn read(csv: &Path, group_column: Option<&str>) -> Result<Self> {
        let mut reader = csv::Reader::from_path(csv).with_context(|| format!("cannot read {}", csv.display()))?;
        let header = reader.headers().context("the file has no header line")?.clone();
        let column = |name: &str| {
            let found = header.iter().position(|column| column.trim() == name);
            found.with_context(|| format!("{} has no column {name:?}; it has {:?}", csv.display(), header))
        };
        let (file_a, file_b, same) = (column("file_a")?, column("file_b")?, column("same")?);
        let group = group_column.map(column).transpose()?;
        let folder = csv.parent().unwrap_or(Path::new(""));

        let mut list = Self { images: vec![], pairs: vec![] };
        let mut known = HashMap::new();
        let mut image = |images: &mut Vec<PathBuf>, name: &str| {
            *known.entry(name.to_owned()).or_insert_with(|| {
                images.push(folder.join(name));
                images.len() - 1
            })
        };
        for (number, row) in reader.records().enumerate() {
            let line = number + 2;
            let row = row.with_context(|| format!("line {line} of {}", csv.display()))?;
            let field = |column: usize| row.get(column).unwrap_or_default().trim();
            let genuine = match field(same) {
                "1" | "true" => true,
                "0" | "false" => false,
                other => bail!("line {line} of {}: `same` is {other:?}, expected 0 or 1", csv.display()),
            };
            list.pairs.push(Pair {
                a: image(&mut list.images, field(file_a)),
                b: image(&mut list.images, field(file_b)),
                genuine,
                group: group.map(|column| field(column).to_owned()),
            });
        }
        if list.pairs.is_empty() {
            bail!("{} lists no pairs", csv.display());
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, group: Option<&str>) -> Result<PairList> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.csv");
        std::fs::write(&path, text).unwrap();
        PairList::read(&path, group)
    }

    #[test]
    fn every_photo_is_listed_once() {
        let list = read("set,file_a,file_b,same\ntest,a.jpg,b.jpg,1\ntest,a.jpg,c.jpg,0\n", Some("set")).unwrap();
        assert_eq!(list.images.len(), 3);
        assert_eq!((list.pairs[1].a, list.pairs[1].b, list.pairs[1].genuine), (0, 2, false));
        assert_eq!(list.pairs[1].group.as_deref(), Some("test"));
        assert!(list.images[0].is_absolute() && list.images[0].ends_with("a.jpg"));
    }

    #[test]
    fn the_set_column_may_be_missing_and_others_may_not() {
        assert!(read("file_a,file_b,same\na,b,1\n", None).is_ok());
        for bad in ["file_a,same\na,1\n", "file_a,file_b,same\n", "file_a,file_b,same\na,b,maybe\n", ""] {
            assert!(read(bad, None).is_err(), "{bad:?}");
        }
        assert!(read("file_a,file_b,same\na,b,1\n", Some("age")).is_err());
    }
}
