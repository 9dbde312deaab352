//! `shoal bench cluster`: it measures what it says, and leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use shoal_tests::{BenchRun, ImageBuilder, Needs, Registry, available, shoal_binary};
use tempfile::TempDir;

const NEEDS: Needs = Needs { root: true, fuse: false, programs: &["docker-registry", "ip", "tc"] };
/// What programs that read the JSON rely on.
const FIELDS: [&str; 14] = [
    "nodes",
    "bound_s",
    "last_s",
    "p50_s",
    "p99_s",
    "ratio",
    "origin_bytes",
    "image_bytes",
    "origin_gets",
    "cross_zone_bytes",
    "cpu_s_per_gib",
    "busy",
    "rss_anon_peak",
    "first_byte_last_s",
];
fn start(arguments: &[&str]) -> BenchRun {
    BenchRun::start("cluster", arguments)
}

/// Runs to the end and gives the report.
fn report(arguments: &[&str]) -> Value {
    let output = start(&[arguments, &["--json", "-"]].concat()).end();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn mode<'a>(report: &'a Value, name: &str) -> &'a Value {
    let modes = report["modes"].as_array().unwrap();
    modes.iter().find(|mode| mode["name"] == name).unwrap_or_else(|| panic!("no mode {name}: {report}"))
}

fn number(mode: &Value, field: &str) -> f64 {
    mode[field].as_f64().unwrap_or_else(|| panic!("no {field} in {mode}"))
}

#[test]
fn a_small_cluster_is_measured() {
    if !available(NEEDS) {
        return;
    }
    let report = report(&["--nodes", "3", "--size", "4MiB", "--modes", "direct,cache,shoal,shoal-rolling"]);
    for mode in report["modes"].as_array().unwrap() {
        for field in FIELDS {
            assert!(mode.get(field).is_some(), "{field} is missing in {mode}");
        }
        assert_eq!((number(mode, "nodes"), mode["finish_s"].as_array().unwrap().len()), (3.0, 3));
        // A burst passes faster than a link's rate; nothing else does.
        assert!(number(mode, "last_s") > number(mode, "bound_s") * 0.9, "{mode}");
        assert!(number(mode, "p50_s") <= number(mode, "last_s"), "{mode}");
        assert_eq!(number(mode, "cross_zone_bytes"), 0.0);
    }
    let direct = mode(&report, "direct");
    let image = number(direct, "image_bytes");
    assert_eq!(number(direct, "origin_bytes"), 3.0 * image, "each node reads all from the origin");
    assert_eq!(number(direct, "origin_gets"), 9.0, "manifest, configuration and layer, for each node");
    assert!(direct["cpu_s_per_gib"].is_null(), "nothing of Shoal runs");

    let shoal = mode(&report, "shoal");
    assert!((image..image * 2.0).contains(&number(shoal, "origin_bytes")), "{shoal}");
    assert!(number(shoal, "cpu_s_per_gib") > 0.0 && number(shoal, "rss_anon_peak") > 1e6, "{shoal}");

    let rolling = mode(&report, "shoal-rolling");
    let new = number(rolling, "new_bytes");
    assert!((0.09..0.11).contains(&(new / number(rolling, "image_bytes"))), "{rolling}");
    assert!((new..new * 2.0).contains(&number(rolling, "origin_bytes")), "only new bytes move: {rolling}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_and_a_registry_that_exist_are_measured() {
    if !available(Needs { root: true, fuse: false, programs: &["docker-registry", "ip", "tc", "skopeo"] }) {
        return;
    }
    let image = ImageBuilder::new(7).layer(3 << 20).layer(100_000).multi_platform().build();
    let layout = TempDir::new().unwrap();
    image.write_layout(layout.path(), "v1");
    let mut registry = Registry::start().await;
    registry.push(&image, "team/app", "v1").await;
    registry.stop().await;
    registry.start_again().await;

    let (url, copied) = (registry.url(), format!("oci:{}:v1", layout.path().display()));
    let common = ["--nodes", "3", "--modes", "shoal"];
    let upstream = report(&[&common[..], &["--origin", &url, "--image", "team/app:v1"]].concat());
    let copied = report(&[&common[..], &["--image", &copied]].concat());
    for report in [&upstream, &copied] {
        let shoal = mode(report, "shoal");
        // Its other platform's layers are nobody's.
        assert!((3.1e6..3.4e6).contains(&number(shoal, "image_bytes")), "{shoal}");
        assert!(number(shoal, "origin_bytes") >= number(shoal, "image_bytes"), "{shoal}");
    }
    // The manifest was read once more, before: to know what there is.
    let by_its_log = registry.content_bytes().await as f64;
    let told = number(mode(&upstream, "shoal"), "origin_bytes");
    assert!(
        (told..told + 1e5).contains(&by_its_log),
        "the registry sent {by_its_log}, the report tells {told}"
    );
}

#[test]
fn zones_are_behind_uplinks_whose_bytes_are_counted() {
    if !available(NEEDS) {
        return;
    }
    let report = report(&["--nodes", "4", "--zones", "2", "--size", "4MiB", "--modes", "direct,shoal"]);
    let image = number(mode(&report, "direct"), "image_bytes");
    // From the origin to a zone does not count, save for what acknowledges it.
    assert!(number(mode(&report, "direct"), "cross_zone_bytes") < image * 0.1, "{report}");
    assert!(number(mode(&report, "shoal"), "cross_zone_bytes") > image * 0.9, "{report}");
}

#[test]
fn the_page_needs_nothing_else_and_an_earlier_run_is_compared_with() {
    if !available(NEEDS) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let arguments = ["--nodes", "2", "--size", "1MiB", "--modes", "direct", "--link", "100mbit"];
    let (json, html) = (file("old.json"), file("report.html"));
    let first = [&arguments[..], &["--json", &json, "--html", &html]].concat();
    assert!(start(&first).end().status.success());
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark"));
    for outside in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }

    // As if the origin had sent far less before.
    let mut old: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    old["modes"][0]["origin_bytes"] = 1000.into();
    std::fs::write(&json, old.to_string()).unwrap();
    let second = start(&[&arguments[..], &["--compare", &json]].concat()).end();
    let text = String::from_utf8_lossy(&second.stdout);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("WORSE   direct: origin bytes"), "{text}");
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    if !available(NEEDS) {
        return;
    }
    let mut run = start(&["--nodes", "3", "--size", "64MiB", "--modes", "shoal"]);
    run.wait_for("node2.toml");
    run.signal(Signal::INT);
    let output = run.end();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    if !available(NEEDS) {
        return;
    }
    let mut killed = start(&["--nodes", "2", "--size", "64MiB", "--modes", "shoal"]);
    killed.wait_for("node1.toml");
    let next = ["--nodes", "2", "--size", "1MiB", "--modes", "direct"];
    let (next, left) = killed.kill_and_start("cluster", &next);
    assert!(!left.is_empty());
    // It checks that of its folder, which is that of the killed run too, nothing is left.
    let next = next.end();
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    assert!(left.iter().all(|namespace| !namespace.exists()), "the killed run's network is still there");
}

#[test]
fn mistakes_are_told_before_anything_is_made() {
    let output = |arguments: &[&str]| {
        Command::new(shoal_binary()).args(["bench", "cluster"]).args(arguments).output().unwrap()
    };
    for arguments in [
        &["--link", "50MB"][..],
        &["--layers", "0"],
        &["--modes", "fast"],
        &["--nodes", "1"],
        &["--nodes", "6", "--zones", "4"],
        &["--origin", "http://127.0.0.1:1"],
        &["--image", "a:b", "--origin", "127.0.0.1:1"],
        &["--image", "a:b", "--modes", "shoal-rolling"],
        &["--json", "/nonexistent/report.json"],
        &["--compare", "/nonexistent/old.json"],
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}
