//! `shoal bench lazy`: it measures what it says, and leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shoal_tests::{BenchRun, ImageBuilder, Needs, available, programs, shoal_binary};
use tempfile::TempDir;

const NEEDS: Needs = Needs {
    root: true,
    fuse: true,
    programs: &["docker-registry", "ip", "tc", "containerd", "ctr", "runc", "mkfs.ext4", "nsenter"],
};
const MIB: u64 = 1 << 20;

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

fn start(image: &Path, arguments: &[&str]) -> BenchRun {
    let common = ["--rounds", "1", "--links", "200mbit", "--image", image.to_str().unwrap()];
    BenchRun::start("lazy", &[&common, arguments].concat())
}

#[test]
fn a_lazy_start_is_measured_beside_others_and_its_files_are_the_same() {
    if !available(NEEDS) {
        return;
    }
    let folder = TempDir::with_prefix("lazy-image-").unwrap();
    layout(&folder.path().join("image"));
    let html = folder.path().join("report.html");
    let arguments = ["--json", "-", "--html", html.to_str().unwrap()];
    let output = start(&folder.path().join("image"), &arguments).end();
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
    if !available(NEEDS) {
        return;
    }
    let folder = TempDir::with_prefix("lazy-image-").unwrap();
    layout(folder.path());
    let mut run = start(folder.path(), &[]);
    run.wait_for(" fs --node ");
    run.signal(Signal::INT);
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
