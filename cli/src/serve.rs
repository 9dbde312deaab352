//! `shoal daemon` and `shoal scheduler`: run until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use shoal_daemon::{ConfigFile, Node};
use shoal_scheduler::{Scheduler, SchedulerConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::log::{self, LogFormat};

/// Threads for disk and hashing at most. Each needs some memory, and a disk is not faster with more.
const BLOCKING_THREADS: usize = 16;
const BLOCKING_MAY_LAST: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct DaemonArguments {
    /// Configuration file (TOML); without one a lone node with defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SchedulerArguments {
    /// Configuration file (TOML); without one all defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the runtime")
}

/// Waits for SIGTERM or SIGINT.
async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

pub(crate) fn daemon(arguments: DaemonArguments) -> anyhow::Result<ExitCode> {
    let file = match &arguments.config {
        Some(path) => ConfigFile::read(path)?,
        None => ConfigFile::default(),
    };
    let config = file.resolve()?;
    if arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    log::start(arguments.log);
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut node = Node::start(config).await.context("the node does not start")?;
        tokio::select! {
            told = told_to_stop() => told?,
            () = node.failed() => anyhow::bail!("a part of the node ended; starting again may help"),
        }
        node.stop().await;
        Ok(ExitCode::SUCCESS)
    });
    // What still hashes or reads is not worth waiting for.
    runtime.shutdown_timeout(BLOCKING_MAY_LAST);
    done
}

pub(crate) fn scheduler(arguments: SchedulerArguments) -> anyhow::Result<ExitCode> {
    let config = match &arguments.config {
        Some(path) => SchedulerConfig::read(path)?,
        None => SchedulerConfig::default(),
    };
    config.listen()?;
    if arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    log::start(arguments.log);
    runtime()?.block_on(async {
        let scheduler = Scheduler::start(config).await.context("the scheduler does not start")?;
        told_to_stop().await?;
        scheduler.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
