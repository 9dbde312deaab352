//! `shoal bench`: how fast images reach every node.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {}

pub(crate) fn run(command: BenchCommand) -> Result<ExitCode> {
    match command {}
}
