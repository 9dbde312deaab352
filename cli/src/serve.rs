//! `shoal daemon` and `shoal scheduler`: run until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use shoal_daemon::{ConfigFile, Node};
use shoal_scheduler::{Scheduler, SchedulerConfig};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::log::{self, LogFormat};

/// Threads for disk and hashing at most. Each needs some memory, and a disk is not faster with more.
const BLOCKING_THREADS: usize = 16;
pub(crate) const BLOCKING_MAY_LAST: Duration = Duration::from_secs(2);

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

/// The runtime of all that runs until it is told to stop.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the runtime")
}

/// SIGTERM and SIGINT, which end nothing by themselves any more once somebody listens.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(crate) async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The name of the file before what is wrong with it.
fn named(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "defaults".to_owned(), |path| path.display().to_string())
}

fn no_mistakes(name: &str) -> anyhow::Result<ExitCode> {
    crate::output::line(&format!("{name}: no mistakes found"))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn daemon(arguments: DaemonArguments) -> anyhow::Result<ExitCode> {
    let name = named(arguments.config.as_ref());
    if !arguments.check {
        log::start(arguments.log);
    }
    let file = match &arguments.config {
        Some(path) => ConfigFile::read(path)?,
        None => ConfigFile::default(),
    };
    let config = file.resolve().with_context(|| name.clone())?;
    if arguments.check {
        shoal_daemon::check(&config).with_context(|| name.clone())?;
        return no_mistakes(&name);
    }
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let started = Node::start(config).await;
        let mut node = started.map_err(|error| match error.is_configuration() {
            true => anyhow::Error::new(error).context(name),
            false => anyhow::Error::new(error).context("the node does not start"),
        })?;
        let mut stop = Stop::listen()?;
        tokio::select! {
            () = stop.told() => {}
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
    let name = named(arguments.config.as_ref());
    if !arguments.check {
        log::start(arguments.log);
    }
    let config = match &arguments.config {
        Some(path) => SchedulerConfig::read(path)?,
        None => SchedulerConfig::default(),
    };
    if arguments.check {
        config.check().with_context(|| name.clone())?;
        return no_mistakes(&name);
    }
    config.listen().with_context(|| name.clone())?;
    runtime()?.block_on(async {
        let started = Scheduler::start(config).await;
        let scheduler = started.map_err(|error| match error.is_configuration() {
            true => anyhow::Error::new(error).context(name),
            false => anyhow::Error::new(error).context("the scheduler does not start"),
        })?;
        Stop::listen()?.told().await;
        scheduler.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
