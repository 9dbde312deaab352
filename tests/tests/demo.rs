//! `shoal demo` shows a cluster that pulls, from its own registry or from any other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::Value;
use shoal_tests::{ImageBuilder, Needs, Registry, available, shoal_binary};

async fn demo(arguments: &[&str]) -> Value {
    let output =
        tokio::process::Command::new(shoal_binary()).arg("demo").arg("--json").args(arguments).output().await;
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

fn assert_sent_once(report: &Value, nodes: usize) {
    assert_eq!(report["nodes"].as_array().unwrap().len(), nodes);
    assert_eq!(report["all_match"], true);
    assert!(report["ratio"].as_f64().unwrap() <= 1.02, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_embedded_image() {
    assert_sent_once(&demo(&["--nodes", "3", "--size", "8MiB"]).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_image_on_a_registry() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = ImageBuilder::new(7).layer(6 << 20).layer(300).multi_platform().build();
    registry.push(&image, "team/app", "v1").await;
    let name = format!("{}/team/app:v1", registry.address());
    let report = demo(&["--nodes", "3", "--image", &name]).await;
    assert_sent_once(&report, 3);
    assert_eq!(report["image_bytes"].as_u64().unwrap(), image.total_bytes());
}
