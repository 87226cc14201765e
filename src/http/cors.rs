//! Which web pages may call the API from a browser (the CORS protocol of the Fetch standard). Unless set, none.
//!
//! The origins are compared whole, so that neither a longer name nor another port passes for one of them. Only paths below
//! `/v1/` take part. `/oauth/*` does not: a page that bought tokens there would have to hold a client's secret, which
//! everybody who opens the page could read. Cookies play no role here, so credentials are not allowed either.

use std::{collections::HashSet, str::FromStr};

use actix_cors::Cors;
use actix_web::http::{
    Method, Uri,
    header::{self, HeaderName},
};

/// How long a browser remembers an answer, in seconds: a page that is taken off the list keeps its access so long.
const MAX_AGE_S: usize = 600;

const REQUEST_HEADERS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("traceparent"),
];

const RESPONSE_HEADERS: [HeaderName; 6] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    header::RETRY_AFTER,
    HeaderName::from_static("idempotency-replayed"),
    header::LOCATION,
];

/// The origin of a page, in the very form in which browsers send it: scheme, host, and the port unless it is the scheme's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebOrigin(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an origin is https://HOST or https://HOST:PORT, in lower case, without a path")]
pub struct InvalidWebOrigin;

impl WebOrigin {
    /// A page of the developer's own machine, sent without TLS.
    pub fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl FromStr for WebOrigin {
    type Err = InvalidWebOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidWebOrigin> {
        let uri: Uri = text.parse().map_err(|_| InvalidWebOrigin)?;
        let (scheme, host) = uri.scheme_str().zip(uri.host()).ok_or(InvalidWebOrigin)?;
        let port_of_scheme = match scheme {
            "https" => 443,
            "http" if host == "localhost" => 80,
            _ => return Err(InvalidWebOrigin),
        };
        let port = uri.port_u16().filter(|port| *port != port_of_scheme);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        // Put together from its parts it must be what was given: no path, no user, no capital, no port that is left out.
        let is_name = host.split('.').all(|label| !label.is_empty()) && host.bytes().all(is_of_a_host);
        if is_name && format!("{scheme}://{host}{port}") == text {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidWebOrigin)
        }
    }
}

fn is_of_a_host(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')
}

/// The layer that answers browsers.
pub fn layer(origins: &[WebOrigin]) -> Cors {
    let origins: HashSet<String> = origins.iter().map(|origin| origin.0.clone()).collect();
    Cors::default()
        .allowed_origin_fn(move |origin, request| {
            request.uri.path().starts_with("/v1/") && origin.to_str().is_ok_and(|origin| origins.contains(origin))
        })
        .block_on_origin_mismatch(false)
        .allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE])
        .allowed_headers(REQUEST_HEADERS)
        .expose_headers(RESPONSE_HEADERS)
        .max_age(MAX_AGE_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in ["https://app.example", "https://app.example:8443", "http://localhost:5173", "https://192.0.2.7"] {
            assert!(good.parse::<WebOrigin>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://*",
            "https://*.app.example",
            "https://app.example/",
            "https://app.example/page",
            "https://app.example?x",
            "https://app.example#x",
            "https://app.example:443",
            "https://app.example:08443",
            "https://app.example:",
            "https://App.example",
            "HTTPS://app.example",
            "https://user@app.example",
            "https://app..example",
            "https://app.example.",
            "http://app.example",
            "http://localhost:80",
            "http://127.0.0.1:5173",
            "ftp://app.example",
            " https://app.example",
        ] {
            assert_eq!(bad.parse::<WebOrigin>(), Err(InvalidWebOrigin), "{bad:?}");
        }
    }
}
