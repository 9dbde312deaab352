//! Where logs go and how they look.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl LogFormat {
    /// As the command line takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

const DEFAULT: &str = "info";
static JSON: AtomicBool = AtomicBool::new(false);

/// Says why the program ends, in the way that logs look.
pub(crate) fn failed(reason: &str) {
    if JSON.load(Ordering::Relaxed) {
        tracing::error!("{reason}");
    } else {
        eprintln!("shoal: {reason}");
    }
}

/// Logs to standard error; `SHOAL_LOG` selects (`debug`, `shoal_swarm=trace,info`), `info` by default.
pub(crate) fn start(format: LogFormat) {
    let asked = std::env::var("SHOAL_LOG").unwrap_or_default();
    let (filter, wrong) = match EnvFilter::try_new(if asked.is_empty() { DEFAULT } else { &asked }) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = wrong {
        tracing::warn!(SHOAL_LOG = asked, %error, "SHOAL_LOG is not understood; logging at {DEFAULT}");
    }
}
