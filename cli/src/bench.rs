//! `shoal bench`: how fast images reach every node.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use shoal_bench::cluster::{self, ClusterArguments};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Let real nodes in network namespaces on this machine pull an image, in several ways (needs root)
    Cluster(ClusterArguments),
}

pub(crate) fn run(command: BenchCommand) -> Result<ExitCode> {
    let report = match command {
        BenchCommand::Cluster(arguments) => cluster::run(&arguments)?,
    };
    print!("{report}");
    Ok(ExitCode::SUCCESS)
}
