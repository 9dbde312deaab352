use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::requirement::find;

/// Longer than any pull in these tests takes, shorter than a hanging CI job.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What a program that ended well printed.
#[derive(Clone, Debug)]
pub struct Finished {
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("start {program}: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("{program} did not end within {PATIENCE:?}")]
    Hangs { program: String },
    #[error("{program}: {status}\n{stdout}{stderr}")]
    Failed { program: String, status: ExitStatus, stdout: String, stderr: String },
    #[error("{program} delivered {subject} wrongly: {problem}")]
    Wrong { program: String, subject: String, problem: String },
}

/// A command without input, and without the proxy settings of whoever runs the tests: everything is on loopback.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    command.stdin(Stdio::null());
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command
}

/// Runs to the end and returns what was printed, or the error with it.
pub(crate) async fn run(
    mut command: Command,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Finished, ProgramError> {
    command.args(arguments).kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(ProgramError::Hangs { program }),
        Ok(Err(source)) => return Err(ProgramError::Start { program, source }),
        Ok(Ok(output)) => output,
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Finished { stdout: output.stdout, stderr });
    }
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Err(ProgramError::Failed { program, status: output.status, stdout, stderr })
}
