//! `shoal bench lazy`: it measures what it says, and leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shoal_tests::{ImageBuilder, Needs, available, programs, shoal_binary};
use tempfile::TempDir;

const NEEDS: Needs = Needs {
    root: true,
    programs: &["docker-registry", "ip", "tc", "containerd", "ctr", "runc", "mkfs.ext4", "nsenter"],
};
/// A machine under load is so far within this.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn can_run() -> bool {
    available(NEEDS) && std::fs::File::open("/dev/fuse").is_ok()
}

/// An image in a layout folder: programs, and a layer of which its container reads the beginning of a file.
fn layout(folder: &Path) {
    let image = ImageBuilder::new(21)
        .tar(programs(&["sh", "cat", "head", "sleep", "sha256sum"]))
        .layer(24 * MIB)
        .build();
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let write = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        (format!("sha256:{hex}"), bytes.len())
    };
    let platform = image.here();
    for layer in &platform.layers {
        write(&layer.bytes);
    }
    let mut config: Value = serde_json::from_slice(&platform.config.bytes).unwrap();
    let script = "head -c 5 /layer1/file7 | sha256sum; sleep 1000";
    config["config"] = json!({"Cmd": ["/bin/sh", "-c", script], "Env": ["PATH=/bin"]});
    let (digest, size) = write(config.to_string().as_bytes());
    let mut manifest: Value = serde_json::from_slice(&image.manifests_here()[0].bytes).unwrap();
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = write(manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
    }]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A run with a folder for its temporary files.
struct Run {
    temporary: TempDir,
    child: Child,
}

impl Run {
    fn start(image: &Path, arguments: &[&str]) -> Self {
        let temporary = TempDir::with_prefix("lazy-").unwrap();
        let child = Command::new(shoal_binary())
            .args(["bench", "lazy", "--rounds", "1", "--links", "200mbit", "--image"])
            .arg(image)
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { temporary, child }
    }

    /// Command lines of all processes that work in its folder.
    fn processes(&self) -> Vec<String> {
        let folder = self.temporary.path().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
        commands.filter(|command| command.contains(folder)).collect()
    }

    fn namespaces(&self) -> Vec<PathBuf> {
        let prefix = format!("shoal-bench-{}-", self.child.id());
        let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        ours.map(|entry| entry.path()).collect()
    }

    fn mounts(&self) -> Vec<String> {
        let folder = self.temporary.path().to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|mount| mount.contains(folder)).map(str::to_owned).collect()
    }

    fn wait_for(&mut self, process: &str) {
        let started = Instant::now();
        while !self.processes().iter().any(|command| command.contains(process)) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < PATIENCE, "no {process}: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end, and checks that nothing is left of it.
    fn end(mut self) -> Output {
        let (mut out, mut err) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let read = |from: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let (stdout, stderr) = (read(&mut out), read(&mut err));
        let status = self.child.wait().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(self.namespaces().is_empty(), "{:?}: {said}", self.namespaces());
        assert_eq!(self.processes(), [""; 0], "{said}");
        assert_eq!(self.mounts(), [""; 0], "{said}");
        assert_eq!(std::fs::read_dir(self.temporary.path()).unwrap().count(), 0, "{said}");
        Output { status, stdout, stderr }
    }
}

#[test]
fn a_lazy_start_is_measured_beside_others_and_its_files_are_the_same() {
    if !can_run() {
        return;
    }
    let folder = TempDir::with_prefix("lazy-image-").unwrap();
    layout(&folder.path().join("image"));
    let html = folder.path().join("report.html");
    let arguments = ["--json", "-", "--html", html.to_str().unwrap()];
    let output = Run::start(&folder.path().join("image"), &arguments).end();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let result = &report["results"][0];
    let number = |pointer: &str| {
        result.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer}: {result}"))
    };
    for way in ["a", "b", "c", "d"] {
        assert!(number(&format!("/readiness_s/{way}")) > 0.0);
    }
    for way in ["a", "b", "c"] {
        assert!(number(&format!("/full_read_s/{way}")) >= number(&format!("/readiness_s/{way}")));
    }
    assert!(number("/layer_bytes") > 24e6);
    assert!((100.0..1e6).contains(&number("/index_bytes")));
    // One span of the large layer, and the programs.
    let touched = number("/bytes_touched");
    assert!((1e6..8e6).contains(&touched), "{result}");
    let got = number("/bytes_before_ready");
    assert!((touched * 0.5..touched * 2.0).contains(&got), "{result}");
    assert_eq!(result["differences"], json!([]));

    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark"));
    for outside in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let folder = TempDir::with_prefix("lazy-image-").unwrap();
    layout(folder.path());
    let mut run = Run::start(folder.path(), &[]);
    run.wait_for(" fs --node ");
    kill_process(Pid::from_raw(i32::try_from(run.child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let output = run.end();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
}

#[test]
fn mistakes_are_told_before_anything_is_made() {
    for arguments in [
        &["--images", "fast"][..],
        &["--links", "50MB"],
        &["--rounds", "0"],
        &["--json", "/nonexistent/report.json"],
        &["--images", "nginx", "--image", "/tmp"],
    ] {
        let output = Command::new(shoal_binary()).args(["bench", "lazy"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}
