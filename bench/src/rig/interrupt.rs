//! Work that may be interrupted.

use std::future::Future;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Does the work until SIGINT, SIGTERM or SIGHUP; what it made goes with its future.
pub(crate) fn until_told<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let told = futures_util::future::select_all(signals.iter_mut().flatten().map(|s| Box::pin(s.recv())));
        tokio::select! {
            done = work => done,
            _ = told => bail!("interrupted"),
        }
    })
}
