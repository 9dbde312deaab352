//! `shoal`: one binary for every part.

mod bench;
mod cluster;
mod demo;
mod fs;
mod index;
mod log;
mod mount;
mod output;
mod pull;
mod serve;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Container images onto many machines: each byte leaves the registry once.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node: a mirror for container clients, and a peer of the other nodes
    Daemon(serve::DaemonArguments),
    /// Run the scheduler, which tells nodes of each other
    Scheduler(serve::SchedulerArguments),
    /// Start a cluster on this machine and watch it pull an image
    Demo(demo::DemoArguments),
    /// Pull an image through a node, with progress, into an OCI layout folder or nowhere
    Pull(pull::PullArguments),
    /// Mount an image as a folder; its files are read from its layers as somebody reads them
    Mount(mount::MountArguments),
    /// Serve containers: a snapshotter for containerd that shows images before they are fetched
    Fs(fs::service::FsArguments),
    /// Serve the files of a mount (started by `shoal fs`)
    #[command(hide = true)]
    FsSnapshots(fs::snapshots::SnapshotsArguments),
    /// Serve the files of a mount (started by `shoal mount`)
    #[command(hide = true)]
    FsImage(fs::image::ImageArguments),
    /// Mount a layer's files (started by both of them)
    #[command(hide = true)]
    FsErofs(fs::erofs::ErofsArguments),
    /// Show what a node holds, whom it talks to, and where its bytes came from
    Status(status::StatusArguments),
    /// Show what the index of a layer holds, or would hold
    Index(index::IndexArguments),
    /// Measure how fast images reach every node: on this machine, or simulated
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Set up a cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
}

/// Configuration and command line are wrong; clap uses the same code.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Where a library asks for the process's provider rather than being given one. Nobody installed one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match arguments.command {
        Command::Daemon(arguments) => serve::daemon(arguments),
        Command::Scheduler(arguments) => serve::scheduler(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Pull(arguments) => pull::run(arguments),
        Command::Fs(arguments) => fs::service::run(arguments),
        Command::FsSnapshots(arguments) => fs::snapshots::run(arguments),
        Command::FsImage(arguments) => fs::image::run(arguments),
        Command::FsErofs(arguments) => fs::erofs::run(arguments),
        Command::Mount(arguments) => mount::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Index(arguments) => index::run(arguments),
        Command::Bench(command) => bench::run(command),
        Command::Cluster(command) => cluster::run(command),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            log::failed(&output::reasons(&error));
            let usage = error.chain().any(is_usage);
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

/// Whether what is wrong is the command line, the configuration, or a file that they name.
fn is_usage(error: &(dyn std::error::Error + 'static)) -> bool {
    use shoal_daemon::{ConfigError, StartError};
    error.is::<ConfigError>()
        || error.is::<shoal_bench::UsageError>()
        || error.is::<shoal_scheduler::ConfigError>()
        || error.downcast_ref().is_some_and(StartError::is_configuration)
        || error.downcast_ref().is_some_and(shoal_scheduler::StartError::is_configuration)
}
