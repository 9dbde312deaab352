//! `shoal bench`: how fast images reach every node.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use shoal_bench::cluster::{self, ClusterArguments};
use shoal_bench::report::OutputArguments;
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
    /// Let simulated nodes pull an image: the swarm's own code in virtual time, up to many thousands of nodes
    Sim {
        #[command(flatten)]
        what: SimArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

pub(crate) fn run(command: BenchCommand) -> Result<ExitCode> {
    let (mut report, output) = match command {
        BenchCommand::Cluster { what, output } => {
            let output = output.check()?;
            (cluster::run(&what)?, output)
        }
        BenchCommand::Sim { what, output } => {
            let output = output.check()?;
            (sim::run(&what)?, output)
        }
    };
    report.command =
        std::iter::once("shoal".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ");
    let nothing_worse = output.write(&report)?;
    Ok(if nothing_worse { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
