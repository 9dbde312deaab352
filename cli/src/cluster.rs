//! `shoal cluster`: set up a cluster.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster's secret; copy the file to every node and scheduler
    Init {
        /// Where to write it; an existing file is never overwritten
        #[arg(long, value_name = "FILE", default_value = "/etc/shoal/cluster.secret")]
        secret_file: PathBuf,
    },
}

pub(crate) fn run(command: ClusterCommand) -> anyhow::Result<ExitCode> {
    let ClusterCommand::Init { secret_file } = command;
    let secret = shoal_transport::generate_secret()?;
    // What is printed goes into configuration files of other machines.
    let secret_file = std::path::absolute(&secret_file)?;
    let shown = secret_file.display();
    if let Some(folder) = secret_file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&secret_file)
        .with_context(|| format!("cannot make {shown} (an existing secret is never overwritten)"))?;
    writeln!(file, "{secret}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    crate::output::line(&format!(
        "Wrote {shown}, readable by its owner only.\n\
         Copy it to every node and scheduler over a safe channel, let the account that runs shoal own it there, and \
         name it:\n\n    [cluster]\n    secret_file = \"{shown}\"\n\n\
         Whoever has the secret is a member, and can read everything that the cluster has cached."
    ))?;
    Ok(ExitCode::SUCCESS)
}
