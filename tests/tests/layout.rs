//! Rules about the repository itself: which crate may know which, which must stay pure, what may be
//! depended upon, and what must not stand in a source file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each may depend on, directly or not. A crate that is not listed fails the test.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("shoal-proto", &[]),
    ("shoal-swarm", &["proto"]),
    ("shoal-store", &["proto"]),
    ("shoal-origin", &["proto"]),
    ("shoal-transport", &["proto"]),
    ("shoal-scheduler", &["proto", "swarm", "transport"]),
    ("shoal-registry-proxy", &["proto"]),
    (
        "shoal-daemon",
        &["proto", "swarm", "store", "origin", "transport", "scheduler", "registry-proxy", "lazyfs"],
    ),
    (
        "shoal-cli",
        &[
            "proto",
            "swarm",
            "store",
            "origin",
            "transport",
            "scheduler",
            "registry-proxy",
            "daemon",
            "bench",
            "lazyfs",
            "cri",
        ],
    ),
    ("shoal-cri", &[]),
    ("shoal-tests", &["proto", "transport", "lazyfs", "cri"]),
    ("shoal-bench", &["proto", "swarm", "lazyfs", "cri"]),
    ("shoal-costs", &["proto", "swarm", "store", "transport", "tests", "lazyfs", "bench", "cri"]),
    ("shoal-lazyfs", &["proto"]),
];

/// No runtime, no sockets, no files, no clock, no randomness of their own.
const PURE: &[&str] = &["shoal-proto", "shoal-swarm"];

/// What gives a crate one of those things.
const IMPURE: &[&str] = &[
    "async-std",
    "axum",
    "getrandom",
    "h2",
    "hyper",
    "libp2p",
    "mio",
    "nix",
    "quinn",
    "quinn-proto",
    "redb",
    "reqwest",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-util",
    "tonic",
];

/// Licences that Apache-2.0 software may be shipped with. The same list stands in deny.toml.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that are built in two versions because our dependencies disagree. The same list stands in
/// deny.toml; the test fails when one is no longer needed.
const TWICE: &[&str] = &["base64", "getrandom", "syn", "synstructure"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a normal build on Linux of this machine's kind consists of, procedural macros included.
struct Packages {
    /// By id.
    packages: BTreeMap<String, Value>,
    /// Normal dependencies by id.
    edges: BTreeMap<String, Vec<String>>,
    ours: BTreeMap<String, String>,
}

impl Packages {
    fn load() -> Self {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let metadata = cargo(&[
            "metadata",
            "--offline",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &host,
        ]);
        let metadata: Value = serde_json::from_str(&metadata).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let array = |value: &Value| value.as_array().unwrap().clone();
        let packages: BTreeMap<_, _> =
            array(&metadata["packages"]).into_iter().map(|p| (text(&p["id"]), p)).collect();
        let ours = array(&metadata["workspace_members"])
            .iter()
            .map(|id| (text(&packages[id.as_str().unwrap()]["name"]), text(id)))
            .collect();
        let is_normal = |dep: &Value| array(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        let edges = array(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| {
                let normal = array(&node["deps"]).into_iter().filter(is_normal).map(|dep| text(&dep["pkg"]));
                (text(&node["id"]), normal.collect())
            })
            .collect();
        Self { packages, edges, ours }
    }

    fn name(&self, id: &str) -> &str {
        self.packages[id]["name"].as_str().unwrap()
    }

    /// All that is linked into a crate, itself included.
    fn tree(&self, id: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut next = vec![self.edges.get_key_value(id).unwrap().0.as_str()];
        while let Some(id) = next.pop() {
            if seen.insert(id) {
                next.extend(self.edges[id].iter().map(String::as_str));
            }
        }
        seen
    }
}

#[test]
fn crates_know_only_those_below_them() {
    let packages = Packages::load();
    for (name, id) in &packages.ours {
        let rule = MAY_KNOW.iter().find(|(krate, _)| krate == name);
        let (_, may) = rule.unwrap_or_else(|| panic!("{name} has no rule here"));
        for known in packages.tree(id).into_iter().map(|id| packages.name(id)) {
            let Some(short) = known.strip_prefix("shoal-") else { continue };
            assert!(known == name || may.contains(&short), "{name} must not know {known}");
        }
    }
}

#[test]
fn pure_crates_have_no_impure_dependency() {
    for krate in PURE {
        // cargo tree, not metadata: it resolves features for this crate alone.
        let tree = cargo(&["tree", "--offline", "--locked", "-p", krate, "-e", "normal", "--prefix", "none"]);
        let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        let impure: Vec<_> = names.iter().filter(|name| IMPURE.contains(name)).collect();
        assert!(impure.is_empty(), "{krate} must stay pure but depends on {impure:?}");
    }
}

#[test]
fn dependencies_come_from_one_place_under_known_licences() {
    let packages = Packages::load();
    let mut problems = Vec::new();
    for (id, package) in &packages.packages {
        let name = packages.name(id);
        match package["source"].as_str() {
            None if packages.ours.contains_key(name) => {}
            Some("registry+https://github.com/rust-lang/crates.io-index") => {}
            other => problems.push(format!("{name} comes from {other:?}")),
        }
        let licence = package["license"].as_str().unwrap_or("no licence");
        if !allowed(licence) {
            problems.push(format!("{name} is under {licence}"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Whether a licence expression (SPDX, or the older form with a slash) can be met with the list. A
/// parenthesis is only ever followed by AND or OR, so dropping them and reading AND last is stricter
/// than the expression, never laxer.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

#[test]
fn versions_are_not_doubled_unnoticed() {
    let packages = Packages::load();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let linked: BTreeSet<_> = packages.ours.values().flat_map(|id| packages.tree(id)).collect();
    for id in linked {
        versions
            .entry(packages.name(id))
            .or_default()
            .insert(packages.packages[id]["version"].as_str().unwrap());
    }
    versions.retain(|_, versions| versions.len() > 1);
    let doubled: Vec<_> = versions.keys().copied().collect();
    assert_eq!(doubled, TWICE, "{versions:#?}");
}

#[test]
fn deny_toml_says_the_same() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    for licence in LICENCES {
        assert!(text.contains(&format!("\"{licence}\"")), "deny.toml lacks {licence}");
    }
    for name in TWICE {
        assert!(text.contains(&format!("\"{name}\"")), "deny.toml lacks {name}");
    }
}

#[test]
fn sources_hold_nothing_unfinished_and_no_machine() {
    // Put together here, so that this file does not find itself.
    let forbidden = [
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["/ho", "me/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/wo", "rk/"].concat(),
    ];
    let mut problems = Vec::new();
    for file in cargo_sources() {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in forbidden.iter().filter(|word| line.contains(word.as_str())) {
                problems.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Every file that is ours to write: no build output, nothing hidden but `.ci`, no licence text.
fn cargo_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if name == "target" || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if name != "LICENSE" && name != "Cargo.lock" {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}
