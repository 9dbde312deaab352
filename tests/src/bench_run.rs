use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::shoal_binary;

/// A machine under load has measured its links, and started what is waited for, within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run of `shoal bench`, with a folder for its temporary files.
#[derive(Debug)]
pub struct BenchRun {
    temporary: TempDir,
    child: Child,
}

impl BenchRun {
    /// Which benchmark, and its arguments.
    pub fn start(bench: &str, arguments: &[&str]) -> Self {
        Self::start_in(TempDir::with_prefix("bench-test-").unwrap(), bench, arguments)
    }

    fn start_in(temporary: TempDir, bench: &str, arguments: &[&str]) -> Self {
        let child = Command::new(shoal_binary())
            .args(["bench", bench])
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { temporary, child }
    }

    /// Waits for a process in its folder whose command line contains this.
    pub fn wait_for(&mut self, process: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().iter().any(|command| command.contains(process)) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no {process}: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Kills it, and starts another one that shares its folder; gives the names of the namespaces that it left as well.
    pub fn kill_and_start(mut self, bench: &str, arguments: &[&str]) -> (Self, Vec<PathBuf>) {
        // Any other run may remove them from when it is dead.
        let namespaces = self.namespaces();
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
        (Self::start_in(self.temporary, bench, arguments), namespaces)
    }

    /// Command lines of all processes that work in its folder.
    fn processes(&self) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
        commands.filter(|command| command.contains(self.folder())).collect()
    }

    fn namespaces(&self) -> Vec<PathBuf> {
        let prefix = format!("shoal-bench-{}-", self.child.id());
        let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        ours.map(|entry| entry.path()).collect()
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|mount| mount.contains(self.folder())).map(str::to_owned).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn folder(&self) -> &str {
        Path::to_str(self.temporary.path()).unwrap()
    }

    /// Waits for its end, and checks that nothing is left of it: no namespace, process, mount or file.
    pub fn end(mut self) -> Output {
        let (mut out, mut err) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let read = |from: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let (stdout, stderr) = (read(&mut out), read(&mut err));
        let status = self.child.wait().unwrap();
        let left = (self.namespaces(), self.processes(), self.mounts(), self.files());
        assert_eq!(left, (vec![], vec![], vec![], vec![]), "{}", String::from_utf8_lossy(&stderr));
        Output { status, stdout, stderr }
    }
}
