use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long a process may take to start or to end; generous, since two cores may run everything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to connect: a refusal on loopback comes at once, so something has to pause.
const RETRY: Duration = Duration::from_millis(10);
/// How much of the log a failing test shows.
const TAIL_LINES: usize = 60;

/// A background process that this test started. Its output goes to a file; the end of that file is
/// shown when the test fails. It is killed, by its own pid, when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, appending what it prints to the file `log` (standard output) and the same
    /// name with `.err` (standard error).
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let out = append_to(log);
        let err = append_to(&error_log(log));
        command.stdout(out).stderr(err).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|e| panic!("start {name}: {e}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until something accepts connections at `address`.
    pub async fn accepts(&mut self, address: SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            self.may_still_become_ready(deadline, &format!("accept at {address}"));
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Fails the test when the process has ended or `deadline` has passed.
    pub fn may_still_become_ready(&mut self, deadline: Instant, what: &str) {
        if !self.is_alive() {
            panic!("{} ended before it could {what}", self.name);
        }
        assert!(Instant::now() < deadline, "{} did not {what} within {PATIENCE:?}", self.name);
    }

    /// When a process that starts now must be ready.
    pub fn readiness_deadline() -> Instant {
        Instant::now() + PATIENCE
    }

    /// Asks it to end (SIGTERM) and waits; fails the test when it does not.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} did not end within {PATIENCE:?} of SIGTERM", self.name),
        }
    }

    /// SIGKILL: no chance to write anything.
    pub async fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.unwrap();
    }

    /// All that it printed so far: standard output, then standard error.
    pub fn output(&self) -> String {
        let read =
            |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        read(&self.log) + &read(&error_log(&self.log))
    }

    fn signal(&self, signal: Signal) {
        // `id` is None once the process was reaped, so no other process can be hit.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            kill_process(pid, signal).unwrap_or_else(|e| panic!("signal {}: {e}", self.name));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        // Its folder is removed next: wait until it can no longer write there.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("---- end of the output of {} ----\n{}", self.name, tail.join("\n"));
        }
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap_or_else(|e| panic!("open {path:?}: {e}"))
}

fn error_log(log: &Path) -> PathBuf {
    log.with_extension("err")
}
