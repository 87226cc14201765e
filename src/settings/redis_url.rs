//! Where Redis is. The text may hold a password, so only a redacted form can be shown.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

use super::reader::REDACTED;

/// `redis://`, `rediss://` (TLS) or `redis+unix://`.
#[derive(Clone)]
pub struct RedisUrl(Zeroizing<String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", RedisUrl::EXPECTED)]
pub struct InvalidRedisUrl;

impl RedisUrl {
    pub const EXPECTED: &str = "rediss://USER:PASSWORD@HOST:PORT, or redis:// or redis+unix:// on one host";

    pub fn expose_text(&self) -> &str {
        &self.0
    }

    /// Whether nobody on the way can read along: TLS, or not leaving the host.
    pub fn is_private(&self) -> bool {
        !self.0.starts_with("redis://") || !self.is_remote()
    }

    /// Whether it may be on another host.
    pub fn is_remote(&self) -> bool {
        let Some((scheme, rest)) = self.0.split_once("://") else { return false };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let name = host.strip_prefix('[').map_or_else(|| host.split(':').next(), |rest| rest.split(']').next());
        scheme != "redis+unix" && !matches!(name, Some("localhost" | "127.0.0.1" | "::1"))
    }

    /// The password in the URL, if there is one.
    pub fn expose_password(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let in_query = query.split('&').find_map(|pair| pair.strip_prefix("pass="));
        let user_information = before_query.rsplit_once('@').map(|(user_information, _)| user_information);
        user_information.and_then(|text| text.split_once(':')).map(|(_, password)| password).or(in_query)
    }
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        let known = ["redis://", "rediss://", "redis+unix://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        match known {
            Some(rest) if !rest.trim().is_empty() => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => Err(InvalidRedisUrl),
        }
    }
}

/// With the password replaced.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expose_password() {
            Some(password) if !password.is_empty() => f.write_str(&self.0.replacen(password, REDACTED, 1)),
            _ => f.write_str(&self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RedisUrl {
        text.parse().unwrap()
    }

    #[test]
    fn no_form_of_a_password_is_shown() {
        for (text, shown) in [
            ("rediss://velum:hunter2@redis:6380/0", "rediss://velum:[redacted]@redis:6380/0"),
            ("redis://:hunter2@localhost", "redis://:[redacted]@localhost"),
            ("redis+unix:///run/redis.sock?db=1&pass=hunter2", "redis+unix:///run/redis.sock?db=1&pass=[redacted]"),
            ("redis://localhost:6379", "redis://localhost:6379"),
        ] {
            assert_eq!(url(text).to_string(), shown);
        }
    }

    #[test]
    fn only_tls_and_the_own_host_are_private() {
        for private in [
            "rediss://redis:6380",
            "redis+unix:///run/redis.sock",
            "redis://localhost:6379/1",
            "redis://a:b@127.0.0.1",
            "redis://[::1]:6379",
        ] {
            assert!(url(private).is_private(), "{private}");
        }
        for open in
            ["redis://redis:6379", "redis://a:b@10.0.0.7/0", "redis://localhost.example", "redis://127.0.0.1@example"]
        {
            assert!(!url(open).is_private(), "{open}");
        }
    }

    #[test]
    fn a_socket_and_the_own_host_are_not_remote() {
        for (text, remote) in [
            ("rediss://redis:6380", true),
            ("redis://a:b@10.0.0.7/0", true),
            ("rediss://a:b@127.0.0.1@example", true),
            ("rediss://a:b@localhost:6380/0", false),
            ("redis://[::1]", false),
            ("redis+unix:///run/redis.sock", false),
        ] {
            assert_eq!(url(text).is_remote(), remote, "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_redis() {
        for text in ["", "redis", "http://redis", "redis://", "postgres://a"] {
            assert!(text.parse::<RedisUrl>().is_err(), "{text:?}");
        }
    }
}
