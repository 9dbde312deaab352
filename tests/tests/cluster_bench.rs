//! `shoal bench cluster`: it measures what it says, and leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use shoal_tests::{BenchRun, Fault, FaultyRegistry, ImageBuilder, Needs, Registry, available, shoal_binary};
use tempfile::TempDir;

const NEEDS: Needs = Needs { root: true, fuse: false, programs: &["docker-registry", "ip", "tc"] };
/// What programs that read the JSON rely on.
const FIELDS: [&str; 17] = [
    "nodes",
    "unfinished",
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
    "busy_most",
    "saturated",
    "rss_anon_peak",
    "first_byte_last_s",
];
/// How often an image's bytes may leave the origin. It was exactly once in all modes, also with the processors full; of
/// the four chunks of a small image one is a quarter, which an origin that was held up may have to send again.
const ONCE: f64 = 1.26;

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
    assert!((image..image * ONCE).contains(&number(shoal, "origin_bytes")), "{shoal}");
    assert!(number(shoal, "cpu_s_per_gib") > 0.0 && number(shoal, "rss_anon_peak") > 1e6, "{shoal}");

    let rolling = mode(&report, "shoal-rolling");
    let new = number(rolling, "new_bytes");
    assert!((0.09..0.11).contains(&(new / number(rolling, "image_bytes"))), "{rolling}");
    assert!((new..new * ONCE).contains(&number(rolling, "origin_bytes")), "only new bytes move: {rolling}");
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

/// One run of all modes that are not in the run above, for its links are checked once then.
#[test]
fn every_mode_measures_what_it_is_for() {
    if !available(NEEDS) {
        return;
    }
    let modes = "direct,shoal,shoal-flat,shoal-warm,shoal-staggered,shoal-late,shoal-preheated";
    let run = ["--nodes", "4", "--zones", "2", "--size", "4MiB", "--link", "100mbit", "--modes", modes];
    let report = report(&run);
    for name in modes.split(',') {
        let mode = mode(&report, name);
        assert_eq!(mode["unfinished"], 0, "{mode}");
        // Of each zone one node has it already, and does not pull.
        let pulling = if name == "shoal-preheated" { 2u32 } else { 4 };
        assert_eq!(
            (number(mode, "nodes"), mode["finish_s"].as_array().unwrap().len()),
            (f64::from(pulling), pulling as usize)
        );
    }
    let image = number(mode(&report, "direct"), "image_bytes");
    let of_image = |name: &str, field: &str| number(mode(&report, name), field) / image;

    // From the origin to a zone does not count, save for what acknowledges it.
    assert!(of_image("direct", "cross_zone_bytes") < 0.1, "{report}");
    let once = 1.0..ONCE;
    for name in ["shoal", "shoal-flat", "shoal-staggered", "shoal-late"] {
        assert!(once.contains(&of_image(name, "origin_bytes")), "{name}: {report}");
    }
    for name in ["shoal", "shoal-late"] {
        let crossed = of_image(name, "cross_zone_bytes");
        // 1.06 to 1.15 with packet headers and what nodes say to each other; a chunk more would be a quarter.
        assert!((0.9..1.25).contains(&crossed), "{name} crossed {crossed}: {report}");
    }
    assert!(of_image("shoal-flat", "cross_zone_bytes") > 0.9, "{report}");

    let warm = mode(&report, "shoal-warm");
    assert_eq!((number(warm, "origin_bytes"), number(warm, "origin_gets")), (0.0, 0.0), "{warm}");
    assert_eq!((number(warm, "new_bytes"), number(warm, "bound_s")), (0.0, 0.0), "{warm}");
    assert!(warm["ratio"].is_null() && of_image("shoal-warm", "cross_zone_bytes") < 0.1, "{warm}");
    assert!(moved(warm) < image * 0.1, "nothing moves between nodes: {warm}");

    let preheated = mode(&report, "shoal-preheated");
    assert_eq!(
        (number(preheated, "origin_bytes"), number(preheated, "new_bytes")),
        (0.0, image),
        "{preheated}"
    );
    assert!(of_image("shoal-preheated", "cross_zone_bytes") < 0.1, "each zone has it: {preheated}");
    assert!(moved(preheated) > 2.0 * image * 0.9, "from node to node: {preheated}");
}

/// Bytes that nodes received, from anybody, packet headers included.
fn moved(mode: &Value) -> f64 {
    let last = mode["traffic"].as_array().unwrap().last().unwrap().clone();
    number(&last, "origin_bytes") + number(&last, "peer_bytes")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_finishes_is_told_and_fails_the_run() {
    if !available(NEEDS) {
        return;
    }
    let image = ImageBuilder::new(7).layer(100_000).build();
    let registry = FaultyRegistry::start().await;
    registry.serve(&image, "team/app", "v1");
    registry.fault_times(&image.here().layers[0].digest.to_string(), Fault::CutAfter(1000), 1);
    let url = registry.url();
    let run =
        ["--nodes", "2", "--modes", "direct", "--origin", &url, "--image", "team/app:v1", "--json", "-"];
    let output = start(&run).end();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("BROKEN: direct: 1 of 2 nodes never finished: node "), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let direct = mode(&report, "direct");
    assert_eq!((number(direct, "nodes"), number(direct, "unfinished")), (2.0, 1.0), "{direct}");
    assert_eq!(direct["finish_s"].as_array().unwrap().len(), 1, "{direct}");
    assert!(direct["ratio"].is_null() && number(direct, "last_s") > 0.0, "{direct}");
    assert!(report["broken"][0].as_str().unwrap().contains("never finished"), "{report}");
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
