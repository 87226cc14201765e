//! Logs: sentences with fields, one line each, on standard error.
//!
//! What never gets there, and why:
//! - Secrets, tokens, images, embeddings and keys are types without `Debug` and `Display`: they cannot be put in a field.
//! - Other people's crates write what they see (headers, queries, frames) at the levels `debug` and `trace`. Those of them
//!   that see requests, queries or key material are held to `info`, whatever the filter says.
//! - A panic's message may hold the value that caused it: the hook logs where it happened and nothing else.
//! - Names, external references and addresses are not logged by anybody; ids are, and of a client's address the keyed hash
//!   (`address` in the lines of a request). Of the crates below none logs a peer's address at `info` or above.

use std::{
    fmt, io,
    panic::{self, PanicHookInfo},
    str::FromStr,
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, Targets, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Pretty,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a log format is `json` or `pretty`")]
pub struct InvalidLogFormat;

impl FromStr for LogFormat {
    type Err = InvalidLogFormat;

    fn from_str(text: &str) -> Result<Self, InvalidLogFormat> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err(InvalidLogFormat),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Pretty => "pretty",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A level, or `target=level` directives joined by commas.
    pub filter: String,
}

/// Crates that see requests, queries, frames or key material.
const NEVER_BELOW_INFO: &[&str] = &[
    "actix_http",
    "actix_server",
    "actix_web",
    "aws_lc_rs",
    "deadpool",
    "diesel",
    "h2",
    "hyper",
    "hyper_util",
    "ort",
    "reqwest",
    "rustls",
    "tokio_postgres",
];

/// Whether a filter says something that can be understood.
pub fn is_filter(text: &str) -> bool {
    text.parse::<Targets>().is_ok()
}

/// Starts logging for this process. A second call changes nothing: tests start many servers in one process.
pub fn start(config: &LogConfig) {
    if tracing::subscriber::set_global_default(subscriber(config, io::stderr)).is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
}

fn subscriber<W>(config: &LogConfig, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let chosen: Targets = config.filter.parse().unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let filter = chosen.and(filter_fn(may_be_written));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match config.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            Box::new(Registry::default().with(lines.with_filter(filter)))
        }
        LogFormat::Pretty => {
            let lines = lines.with_ansi(false).with_target(false).compact();
            Box::new(Registry::default().with(lines.with_filter(filter)))
        }
    }
}

fn may_be_written(metadata: &Metadata<'_>) -> bool {
    let origin = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::INFO || !NEVER_BELOW_INFO.contains(&origin)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(|location| format!("{}:{}", location.file(), location.line()));
    tracing::error!(event = "panic", place = place.as_deref().unwrap_or("unknown"), "a thread panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: LogFormat, filter: &str, work: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = LogConfig { format, filter: filter.to_owned() };
        tracing::subscriber::with_default(subscriber(&config, move || writer.clone()), work);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_one_json_object_with_the_fields_of_its_request() {
        let text = lines(LogFormat::Json, "info", || {
            let span = tracing::info_span!("request", request_id = "req_1");
            let _inside = span.enter();
            tracing::info!(status = 200, "a request was answered");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "a request was answered");
        assert_eq!(line["status"], 200);
        assert_eq!(line["span"]["request_id"], "req_1");
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn the_filter_decides_except_for_crates_that_see_requests() {
        let text = lines(LogFormat::Pretty, "trace", || {
            tracing::debug!("ours");
            tracing::debug!(target: "hyper::proto::h1", "authorization: Bearer canary");
            tracing::trace!(target: "rustls::client", "canary");
            tracing::info!(target: "h2::server", "theirs");
        });
        assert!(text.contains("ours") && text.contains("theirs"));
        assert!(!text.contains("canary"));
    }

    #[test]
    fn a_panic_tells_its_place_and_not_its_message() {
        let text = lines(LogFormat::Json, "info", || {
            let before = panic::take_hook();
            panic::set_hook(Box::new(log_panic));
            let outcome = panic::catch_unwind(|| panic!("canary"));
            panic::set_hook(before);
            assert!(outcome.is_err());
        });
        assert!(text.contains("a thread panicked") && text.contains("telemetry.rs"));
        assert!(!text.contains("canary"));
    }

    #[test]
    fn a_filter_is_a_level_or_directives() {
        for good in ["info", "warn,velum=debug", "velum::http=trace"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["loud==", "velum=loud"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
