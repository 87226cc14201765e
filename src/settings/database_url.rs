//! Where a database is. The text may hold a password, so only a redacted form can be shown.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use zeroize::Zeroizing;

use super::reader::REDACTED;

/// `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`.
#[derive(Clone)]
pub struct DatabaseUrl(Zeroizing<String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a database is sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME")]
pub struct InvalidDatabaseUrl;

impl DatabaseUrl {
    pub(super) fn sqlite(path: &Path) -> String {
        format!("sqlite:{}", path.display())
    }

    pub fn expose_text(&self) -> &str {
        &self.0
    }

    pub fn is_sqlite(&self) -> bool {
        self.0.starts_with("sqlite:")
    }

    pub fn sqlite_path(&self) -> Option<PathBuf> {
        self.0.strip_prefix("sqlite:").map(PathBuf::from)
    }

    /// The password written into the URL, if there is one.
    pub fn expose_password(&self) -> Option<&str> {
        let user_information = self.authority().and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
        let from_authority = user_information.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        from_authority.or_else(|| self.parameters().find(|(key, _)| is_secret(key)).map(|(_, value)| value))
    }

    /// Server and database name, without who logs in and how: two URLs of one database have one location.
    pub(super) fn location(&self) -> &str {
        let whole = self.0.split('?').next().unwrap_or_default();
        match self.authority().and_then(|authority| authority.rsplit_once('@')) {
            Some((user_information, _)) => whole.split_once(user_information).map_or(whole, |(_, rest)| rest),
            None => whole.split_once(':').map_or(whole, |(_, rest)| rest.trim_start_matches('/')),
        }
        .trim_start_matches('@')
    }

    fn authority(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        rest.split(['/', '?']).next()
    }

    fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let query = self.0.split_once('?').map_or("", |(_, query)| query);
        query.split('&').filter_map(|pair| pair.split_once('='))
    }
}

fn is_secret(parameter: &str) -> bool {
    matches!(parameter, "password" | "sslpassword" | "passfile")
}

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        let known = ["postgres://", "postgresql://", "sqlite:"].iter().find_map(|scheme| text.strip_prefix(scheme));
        match known {
            Some(rest) if !rest.trim().is_empty() => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => Err(InvalidDatabaseUrl),
        }
    }
}

/// With every password replaced.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sqlite() {
            return f.write_str(&self.0);
        }
        let (before, query) =
            self.0.split_once('?').map_or((self.0.as_str(), None), |(before, query)| (before, Some(query)));
        let user_information = self.authority().and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
        match user_information.and_then(|user| user.split_once(':')) {
            Some((user, password)) => {
                f.write_str(&before.replacen(&format!("{user}:{password}@"), &format!("{user}:{REDACTED}@"), 1))?;
            }
            None => f.write_str(before)?,
        }
        let Some(query) = query else { return Ok(()) };
        let shown: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((key, _)) if is_secret(key) => format!("{key}={REDACTED}"),
                _ => pair.to_owned(),
            })
            .collect();
        write!(f, "?{}", shown.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        text.parse().unwrap()
    }

    #[test]
    fn no_form_of_a_password_is_shown() {
        let cases = [
            ("postgres://velum:hunter2@db/velum", "postgres://velum:[redacted]@db/velum"),
            (
                "postgres://velum:p@ss:w@db:5432/velum?sslmode=require",
                "postgres://velum:[redacted]@db:5432/velum?sslmode=require",
            ),
            (
                "postgresql:///velum?host=/run&password=hunter2&user=a",
                "postgresql:///velum?host=/run&password=[redacted]&user=a",
            ),
            ("postgres://velum@db/velum", "postgres://velum@db/velum"),
            ("sqlite:data/velum.db", "sqlite:data/velum.db"),
        ];
        for (text, shown) in cases {
            assert_eq!(url(text).to_string(), shown);
        }
    }

    #[test]
    fn the_password_is_found_wherever_it_is_written() {
        assert_eq!(url("postgres://velum:hunter2@db/velum").expose_password(), Some("hunter2"));
        assert_eq!(url("postgres://velum@db/velum?password=hunter2").expose_password(), Some("hunter2"));
        assert_eq!(url("postgres:///velum?user=velum&password=hunter2").expose_password(), Some("hunter2"));
        assert_eq!(url("postgres://velum@db/velum").expose_password(), None);
        assert_eq!(url("sqlite:a.db").expose_password(), None);
    }

    #[test]
    fn one_database_has_one_location() {
        let plain = url("postgres://db:5432/velum");
        assert_eq!(url("postgresql://someone:secret@db:5432/velum?sslmode=require").location(), plain.location());
        assert_ne!(url("postgres://db:5432/keystore").location(), plain.location());
        assert_eq!(url("sqlite:data/velum.db").location(), "data/velum.db");
    }

    #[test]
    fn other_texts_are_no_databases() {
        for text in ["", "mysql://db/velum", "host=db password=x", "sqlite:", "postgres://", "data/velum.db"] {
            assert!(text.parse::<DatabaseUrl>().is_err(), "{text:?}");
        }
    }
}
