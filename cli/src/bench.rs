//! `shoal bench`: how fast images reach every node.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use shoal_bench::cluster::{self, ClusterArguments};
use shoal_bench::report::OutputArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Let real nodes in network namespaces on this machine pull an image, in several ways (needs root)
    Cluster {
        #[command(flatten)]
        what: ClusterArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

pub(crate) fn run(command: BenchCommand) -> Result<ExitCode> {
    let BenchCommand::Cluster { what, output } = command;
    let output = output.check()?;
    let mut report = cluster::run(&what)?;
    report.command =
        std::iter::once("shoal".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ");
    let nothing_worse = output.write(&report)?;
    Ok(if nothing_worse { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
