//! Snapshots as containerd uses them. Here there is no node: nothing can be shown, so all are folders.

mod node;
mod shown;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tonic::{Code, Status};

use super::api::Mount;
use super::filter::Filters;
use super::lazy::TARGET;
use super::rows::Kind;
use super::{Fill, Places, Policy, SnapshotError, Snapshotter};
use crate::link::Link;

async fn open(folder: &TempDir) -> Arc<Snapshotter> {
    open_with(folder, Policy::default()).await
}

async fn open_with(folder: &TempDir, policy: Policy) -> Arc<Snapshotter> {
    let places = Places {
        state: folder.path().to_owned(),
        fuse: folder.path().join("mount"),
        erofs: folder.path().join("erofs"),
    };
    let link = Link::open(folder.path().join("no.sock"));
    Snapshotter::open(places, link, policy, None).await.unwrap()
}

fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, SnapshotError>) -> Code {
    Status::from(result.unwrap_err()).code()
}

fn option<'a>(mount: &'a Mount, name: &str) -> &'a str {
    mount.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')).unwrap()
}

async fn prepare(snapshots: &Arc<Snapshotter>, key: &str, parent: &str) -> Result<Vec<Mount>, SnapshotError> {
    snapshots.prepare(key.into(), parent.into(), BTreeMap::new()).await
}

/// A committed snapshot with one file of its name.
async fn layer(snapshots: &Arc<Snapshotter>, name: &str, parent: &str) {
    let mounts = prepare(snapshots, "extract", parent).await.unwrap();
    let upper = if parent.is_empty() { mounts[0].source.as_str() } else { option(&mounts[0], "upperdir") };
    std::fs::write(Path::new(upper).join(name), name).unwrap();
    snapshots.ledger().commit(name.into(), "extract".into(), BTreeMap::new()).await.unwrap();
}

async fn names(snapshots: &Snapshotter, filter: &str) -> Vec<String> {
    let filters: Vec<_> = (!filter.is_empty()).then(|| filter.to_owned()).into_iter().collect();
    snapshots
        .ledger()
        .list(&Filters::parse(&filters).unwrap())
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

#[tokio::test]
async fn each_kind_is_mounted_in_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    let lowest = prepare(&snapshots, "extract", "").await.unwrap();
    assert_eq!(
        (lowest[0].r#type.as_str(), &*lowest[0].options),
        ("bind", &["rw".into(), "rbind".into()][..])
    );
    snapshots.ledger().commit("low".into(), "extract".into(), BTreeMap::new()).await.unwrap();
    layer(&snapshots, "high", "low").await;

    let active = prepare(&snapshots, "container", "high").await.unwrap();
    let (lower, upper) = (option(&active[0], "lowerdir"), option(&active[0], "upperdir"));
    let [high, low] = lower.split(':').collect::<Vec<_>>()[..] else { panic!("{lower}") };
    assert_eq!(low, lowest[0].source);
    assert!(Path::new(high).join("high").exists() && Path::new(upper).is_dir());
    assert!(Path::new(option(&active[0], "workdir")).is_dir());
    assert_eq!(std::fs::metadata(upper).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(snapshots.mounts("container").await.unwrap(), active);

    let view =
        |key: &'static str, parent: &'static str| snapshots.view(key.into(), parent.into(), BTreeMap::new());
    let both = view("both", "high").await.unwrap();
    assert!(both[0].options.contains(&"ro".to_owned()) && option(&both[0], "lowerdir") == lower);
    let one = view("one", "low").await.unwrap();
    assert_eq!((one[0].r#type.as_str(), &*one[0].source), ("bind", low));
    assert_eq!(one[0].options[0], "ro");
    let none = view("none", "").await.unwrap();
    assert!(Path::new(&none[0].source).is_dir() && none[0].options[0] == "ro");
    assert_eq!(names(&snapshots, "kind==view").await, ["both", "none", "one"]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_as_containerd_expects() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    layer(&snapshots, "low", "").await;
    prepare(&snapshots, "container", "low").await.unwrap();
    assert_eq!(code(prepare(&snapshots, "container", "low").await), Code::AlreadyExists);
    assert_eq!(code(prepare(&snapshots, "other", "absent").await), Code::NotFound);
    assert_eq!(code(prepare(&snapshots, "other", "container").await), Code::InvalidArgument);
    assert_eq!(code(prepare(&snapshots, "", "low").await), Code::InvalidArgument);
    assert_eq!(code(snapshots.mounts("low").await), Code::FailedPrecondition);
    assert_eq!(code(snapshots.mounts("absent").await), Code::NotFound);
    assert_eq!(code(snapshots.ledger().stat("absent").await), Code::NotFound);
    assert_eq!(code(snapshots.ledger().remove("low".into()).await), Code::FailedPrecondition);
    assert_eq!(code(snapshots.ledger().remove("absent".into()).await), Code::NotFound);
    let commit = |name: &str, key: &str| snapshots.ledger().commit(name.into(), key.into(), BTreeMap::new());
    assert_eq!(code(commit("low", "container").await), Code::AlreadyExists);
    assert_eq!(code(commit("new", "absent").await), Code::NotFound);
    assert_eq!(code(commit("new", "low").await), Code::FailedPrecondition);
    let fields = vec!["parent".to_owned()];
    assert_eq!(
        code(snapshots.ledger().update("low".into(), BTreeMap::new(), fields).await),
        Code::InvalidArgument
    );
    // A refused one left no folder.
    assert_eq!(std::fs::read_dir(folder.path().join("s")).unwrap().count(), 2);
    snapshots.ledger().remove("container".into()).await.unwrap();
    snapshots.ledger().remove("low".into()).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("s")).unwrap().count(), 0);
}

#[tokio::test]
async fn labels_are_kept_and_changed() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    snapshots.prepare("key".into(), String::new(), labels(&[("a", "1"), ("b", "2")])).await.unwrap();
    let update = async |new: &[(&str, &str)], fields: &[&str]| {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        snapshots.ledger().update("key".into(), labels(new), fields).await.unwrap().labels
    };
    assert_eq!(update(&[("a", "3"), ("c.d", "4")], &["labels.a", "labels.c.d"]).await.len(), 3);
    assert_eq!(update(&[], &["labels.b"]).await, labels(&[("a", "3"), ("c.d", "4")]));
    assert_eq!(names(&snapshots, "labels.\"c.d\"==4").await, ["key"]);
    assert_eq!(update(&[("e", "5")], &[]).await, labels(&[("e", "5")]));
    snapshots.ledger().commit("name".into(), "key".into(), labels(&[("f", "6")])).await.unwrap();
    assert_eq!(snapshots.ledger().stat("name").await.unwrap().labels, labels(&[("f", "6")]));
    assert_eq!(names(&snapshots, "").await, ["name"]);
}

#[tokio::test]
async fn a_folder_is_counted_without_what_lies_below() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    layer(&snapshots, "low", "").await;
    let active = prepare(&snapshots, "container", "low").await.unwrap();
    let upper = Path::new(option(&active[0], "upperdir"));
    std::fs::write(upper.join("one"), [1; 10_000]).unwrap();
    std::fs::hard_link(upper.join("one"), upper.join("two")).unwrap();
    let used = snapshots.usage("container".into()).await.unwrap();
    assert!(used.files == 2 && (10_000..40_000).contains(&used.size), "{used:?}");
    snapshots.ledger().commit("high".into(), "container".into(), BTreeMap::new()).await.unwrap();
    assert_eq!(snapshots.usage("high".into()).await.unwrap(), used);
}

#[tokio::test]
async fn all_is_known_after_a_restart_and_what_a_crash_left_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    layer(&snapshots, "low", "").await;
    let mounts = prepare(&snapshots, "container", "low").await.unwrap();
    prepare(&snapshots, "gone", "low").await.unwrap();
    snapshots.ledger().remove("gone".into()).await.unwrap();
    let stat = snapshots.ledger().stat("low").await.unwrap();
    drop(snapshots);

    // A folder whose row was not written, or is removed already.
    let left = folder.path().join("s/2");
    std::fs::create_dir_all(left.join("fs/some")).unwrap();
    let snapshots = open(&folder).await;
    assert!(!left.exists());
    assert_eq!(snapshots.ledger().stat("low").await.unwrap(), stat);
    assert_eq!(snapshots.mounts("container").await.unwrap(), mounts);
    // Under a number that nothing had.
    let new = prepare(&snapshots, "new", "low").await.unwrap();
    assert!(option(&new[0], "upperdir").ends_with("s/3/fs"), "{new:?}");
}

/// As a container with privileges can make it.
#[tokio::test]
async fn a_folder_that_cannot_be_removed_stops_nothing() {
    use rustix::fs::{IFlags, ioctl_setflags};
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    let upper = prepare(&snapshots, "container", "").await.unwrap()[0].source.clone();
    let stays = std::fs::File::create(Path::new(&upper).join("stays")).unwrap();
    if let Err(error) = ioctl_setflags(&stays, IFlags::IMMUTABLE) {
        // Needs root, and a filesystem that has such files.
        assert!(std::env::var_os("CI").is_none(), "cannot make a file immutable: {error}");
        eprintln!("skipped: cannot make a file immutable: {error}");
        return;
    }
    snapshots.ledger().remove("container".into()).await.unwrap();
    snapshots.cleanup().await.unwrap();
    drop(snapshots);
    let snapshots = open(&folder).await;
    assert!(Path::new(&upper).exists());
    ioctl_setflags(&stays, IFlags::empty()).unwrap();
    snapshots.cleanup().await.unwrap();
    assert!(!Path::new(&upper).exists());
}

#[tokio::test]
async fn a_process_waits_until_the_one_before_it_has_left_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    layer(&snapshots, "low", "").await;
    let next = open(&folder);
    tokio::pin!(next);
    assert!(futures_util::poll!(&mut next).is_pending());
    drop(snapshots);
    assert_eq!(names(&*next.await, "").await, ["low"]);
}

/// It came by another pull, of another image perhaps.
#[tokio::test]
async fn a_layer_that_is_there_is_not_given_to_an_image_that_is_not_to_be_shown() {
    let folder = tempfile::tempdir().unwrap();
    let policy = Policy { deny: vec!["registry.test/*".parse().unwrap()], ..Policy::default() };
    let snapshots = open_with(&folder, policy).await;
    let chain = format!("sha256:{}", "01".repeat(32));
    layer(&snapshots, &chain, "").await;
    let wanted =
        labels(&[(TARGET, &chain), ("containerd.io/snapshot/cri.image-ref", "registry.test/library/app:v1")]);
    let mounts = snapshots.prepare("other/1/extract".into(), String::new(), wanted).await;
    assert_eq!(mounts.unwrap()[0].r#type, "bind", "containerd fetches and unpacks it");
}

/// Time passes as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_layer_is_left_to_containerd_if_no_node_answers_and_so_are_those_that_follow() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = open(&folder).await;
    let chain = |byte: &str| format!("sha256:{}", byte.repeat(32));
    let wanted = |target: &str| {
        labels(&[(TARGET, target), ("containerd.io/snapshot/cri.image-ref", "registry.test/library/app:v1")])
    };
    let begun = tokio::time::Instant::now();
    let mounts = snapshots.prepare("k8s.io/1/extract".into(), String::new(), wanted(&chain("01"))).await;
    assert_eq!(mounts.unwrap()[0].r#type, "bind");
    let first = begun.elapsed();
    let name = format!("k8s.io/2/{}", chain("01"));
    snapshots.ledger().commit(name.clone(), "k8s.io/1/extract".into(), BTreeMap::new()).await.unwrap();
    let mounts = snapshots.prepare("k8s.io/3/extract".into(), name, wanted(&chain("02"))).await;
    assert_eq!(mounts.unwrap()[0].r#type, "overlay");
    assert!(begun.elapsed() - first < std::time::Duration::from_secs(1), "it was asked again");
    let active = snapshots.ledger().stat("k8s.io/3/extract").await.unwrap();
    assert_eq!((active.kind(), active.chain()), (Kind::Active, None));
}
