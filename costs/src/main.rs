//! `shoal-costs`: what Shoal's processes use on this machine (memory, CPU, throughput, latency), beside what could
//! not be avoided, measured in the same run. Everything is on loopback and in a temporary folder.

mod bare_transport;
mod client;
mod cluster;
mod costs;
mod cpu;
mod floors;
mod latency;
mod lazy;
mod memory;
mod origin;
mod report;
mod sample;
mod second_pull;
mod sessions;
mod usage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;

use crate::report::Report;

/// Measures Shoal on this machine; `shoal` is the program beside this one, or what SHOAL_BIN names
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Bytes that are moved: by default 2 GiB where memory is measured and 1 GiB elsewhere
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Folder for temporary data: twelve times the size is needed there
    #[arg(long, value_name = "FOLDER")]
    temp: Option<PathBuf>,
    /// Be the sender of the bare transport
    #[arg(long, hide = true)]
    send_chunks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A daemon's memory, idle and while it pulls
    Memory,
    /// A daemon's memory with 1,000 clients
    Crowd,
    /// A scheduler's memory with 200 nodes
    Scheduler,
    /// CPU per byte, and its floors
    Cpu,
    /// A cached image beside nginx
    SecondPull,
    /// Manifests' HEAD
    Latency,
    /// Lazy layers: the index, spans on demand, mounted files
    Lazy,
}

/// What all parts share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub report: Report,
    /// Bytes that are moved where CPU and throughput are measured.
    pub size: u64,
    /// Bytes that are moved where memory is measured.
    pub memory_size: u64,
    parent: PathBuf,
    folder: TempDir,
}

impl Bench {
    /// Where the present part keeps its data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn run(&mut self, part: Part) -> Result<()> {
        // Each part in a folder of its own, so that no more than one part's data is on the disk.
        self.folder = TempDir::with_prefix_in("shoal-bench-", &self.parent)?;
        match part {
            Part::Memory => memory::pulls(self).await,
            Part::Crowd => memory::crowd(self).await,
            Part::Scheduler => sessions::measure(self).await,
            Part::Cpu => cpu::measure(self).await,
            Part::SecondPull => second_pull::measure(self).await,
            Part::Latency => latency::measure(self).await,
            Part::Lazy => lazy::measure(self).await,
        }
    }
}

pub(crate) fn gib(bytes: u64) -> f64 {
    memory::mib(bytes) / 1024.0
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    mount_for_itself();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if arguments.send_chunks {
        return runtime.block_on(bare_transport::send());
    }
    let parent = arguments.temp.unwrap_or_else(std::env::temp_dir);
    let bytes = |default| arguments.size.unwrap_or(ByteSize::gib(default)).as_u64();
    let mut bench = Bench {
        report: Report::default(),
        size: bytes(1),
        memory_size: bytes(2),
        folder: TempDir::with_prefix_in("shoal-bench-", &parent)?,
        parent,
    };
    let parts = if arguments.only.is_empty() { Part::value_variants().to_vec() } else { arguments.only };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime
        .block_on(async {
            for part in parts {
                // A part that cannot be measured ends the run, but what was measured before is shown.
                if let Err(error) = bench.run(part).await {
                    return Err(error).with_context(|| format!("{part:?}"));
                }
            }
            Ok(())
        })
        .or_else(|error| {
            bench.report.print_table()?;
            Err(error)
        })?;
    if arguments.json { bench.report.print_json() } else { bench.report.print_table() }
}

/// What this process and those that it starts mount goes with them, also if they are killed. Without the right to do so
/// there is none to mount anything either.
#[allow(unsafe_code, reason = "the call leaves descriptors alone, and there are no other threads yet")]
fn mount_for_itself() {
    // SAFETY: as above.
    let own = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    let _ = own.and_then(|()| mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC));
}
