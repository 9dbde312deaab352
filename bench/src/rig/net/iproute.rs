//! The programs `ip` and `tc`, which make the network.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `program arguments` and returns what it printed; `input` is its standard input. In a process group of its
/// own: a Ctrl-C on the terminal must not stop what cleans up.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}; is iproute2 installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(shown)?;
    }
    let output = child.wait_with_output().with_context(shown)?;
    if !output.status.success() {
        bail!("{}: {}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs many commands of `ip` or `tc` inside a namespace at once.
pub(super) fn batch(program: &str, namespace: &str, commands: &[String]) -> Result<()> {
    run(program, &["-n", namespace, "-batch", "-"], &(commands.join("\n") + "\n")).map(drop)
}
