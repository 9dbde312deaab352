//! `shoal bench`: how fast images reach every node.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Subcommand;
use shoal_bench::cluster::{self, ClusterArguments};
use shoal_bench::lazy::{self, LazyArguments, LazyReport};
use shoal_bench::report::{Files, OutputArguments};
use shoal_bench::sim::{self, SimArguments};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Let real nodes in network namespaces on this machine pull an image, in several ways (needs root)
    Cluster {
        #[command(flatten)]
        what: ClusterArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Start containers of real images in several ways, lazily among them, and measure when they are useful (needs
    /// root)
    Lazy {
        #[command(flatten)]
        what: LazyArguments,
        #[command(flatten)]
        files: Files,
    },
    /// Let simulated nodes pull an image: the swarm's own code in virtual time, up to many thousands of nodes
    Sim {
        #[command(flatten)]
        what: SimArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

/// Simulating thousands of nodes mostly waits for memory, and takes an eighth less time with pages of 2 MiB. glibc reads its
/// settings when a process starts, so this one begins anew with that set; where that fails it goes on as it is.
fn begin_with_huge_pages() {
    const SETTINGS: &str = "GLIBC_TUNABLES";
    if std::env::var_os(SETTINGS).is_none() {
        let mut anew = Command::new("/proc/self/exe");
        anew.args(std::env::args_os().skip(1)).env(SETTINGS, "glibc.malloc.hugetlb=1");
        let error = anew.exec();
        tracing::debug!(%error, "simulating with ordinary pages");
    }
}

pub(crate) fn run(command: BenchCommand) -> Result<ExitCode> {
    let command_line =
        std::iter::once("shoal".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ");
    let (mut report, output) = match command {
        BenchCommand::Lazy { what, files } => {
            files.check()?;
            let report = LazyReport { command: command_line, ..lazy::run(&what)? };
            report.write(&files)?;
            return Ok(ExitCode::SUCCESS);
        }
        BenchCommand::Cluster { what, output } => {
            let output = output.check()?;
            (cluster::run(&what)?, output)
        }
        BenchCommand::Sim { what, output } => {
            let output = output.check()?;
            begin_with_huge_pages();
            (sim::run(&what)?, output)
        }
    };
    report.command = command_line;
    let all_is_well = output.write(&report)?;
    Ok(if all_is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
