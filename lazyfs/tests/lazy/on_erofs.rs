//! Layers on EROFS, whose files' bytes are in their tars on FUSE, are what they are on FUSE alone.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shoal_lazyfs::erofs::{ErofsMount, Mounter, mount};
use shoal_lazyfs::fs::SlotNumber;
use shoal_lazyfs::layer_folders::LayerFolders;
use shoal_lazyfs::span_cache::Patience;

use super::folder::{seen, short};
use super::image;
use super::samples;
use super::served::{Served, can_mount};
use super::served_again;
use super::source::{Mood, Source};

/// In this process, which nobody kills; or not at all.
#[derive(Debug, Default)]
struct Here {
    refuses: bool,
    asked: AtomicUsize,
}

impl Mounter for Here {
    fn mount(&self, what: ErofsMount) -> BoxFuture<'static, io::Result<()>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.refuses {
            return async { Err(io::ErrorKind::Unsupported.into()) }.boxed();
        }
        tokio::task::spawn_blocking(move || mount(&what)).map(|mounted| mounted.unwrap()).boxed()
    }
}

fn open(served: &Served, folder: &Path, mounter: &Arc<Here>) -> LayerFolders {
    let (fs, at, images) = (served.images.fs().clone(), folder.join("x"), folder.join("images"));
    LayerFolders::open(fs, served.at.clone(), at, images, Some(mounter.clone())).unwrap()
}

async fn with(folder: &Path, tars: &[Vec<u8>]) -> (Served, Vec<SlotNumber>) {
    let source = Arc::new(Source::new());
    let layers: Vec<_> = tars.iter().map(|tar| source.add(samples::gzip(tar, 6), samples::SPAN)).collect();
    let served = Served::new(folder, source, Patience::default()).await;
    let slots = served.images.add(&layers).await.unwrap();
    (served, slots)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_everything_that_is_hard_to_get_right() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let (served, slots) = with(folder.path(), &tars).await;
    let folders = open(&served, folder.path(), &Arc::default());
    folders.mount(slots.iter().copied()).await;
    for slot in slots {
        same_as_on_fuse(&folders, &served, slot);
    }
    folders.retain(&HashSet::new()).await;
}

fn same_as_on_fuse(folders: &LayerFolders, served: &Served, slot: SlotNumber) {
    let (at, fuse) = (folders.folder(slot), served.at.join(slot.0.to_string()));
    assert_ne!(at, fuse);
    let (got, want) = (seen(&at), seen(&fuse));
    for (path, want) in &want {
        let got = got.get(path).unwrap_or_else(|| panic!("{path:?} is missing"));
        assert!(got == want, "{path:?}: {:?} instead of {:?}", short(got), short(want));
    }
    assert_eq!(got.len(), want.len());
}

/// The root lies where the image says, however much is in it.
#[tokio::test(flavor = "multi_thread")]
async fn roots_of_all_lengths() {
    if !can_mount() {
        return;
    }
    let with_names = |len: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        for name in ["a".repeat(200), "b".repeat(len)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &b""[..]).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let tars: Vec<_> = (190..240).map(with_names).collect();
    let folder = tempfile::tempdir().unwrap();
    let (served, slots) = with(folder.path(), &tars).await;
    let folders = open(&served, folder.path(), &Arc::default());
    folders.mount(slots.iter().copied()).await;
    for slot in slots {
        same_as_on_fuse(&folders, &served, slot);
    }
    folders.retain(&HashSet::new()).await;
}

/// Blocks have 512 bytes: what ends at, before and behind such an end.
#[tokio::test(flavor = "multi_thread")]
async fn folders_links_and_attributes_of_all_lengths() {
    if !can_mount() {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    for len in (1..40).chain(400..560) {
        let target = "t".repeat(len);
        tar.append_link(&mut header(tar::EntryType::Symlink, 0), format!("links/{len}"), target).unwrap();
        // Folders of any length: with one name, which has one of 1 to 200 bytes, or many.
        let name = format!("folders/{len}/{}", "n".repeat(len % 200 + 1));
        tar.append_data(&mut header(tar::EntryType::Regular, 0), name, &b""[..]).unwrap();
    }
    for (number, first) in ["!", "-", "+", "a", "~"].into_iter().cycle().take(3000).enumerate() {
        let name = format!("many/{first}{}{number}", "m".repeat(number % 240));
        tar.append_data(&mut header(tar::EntryType::Regular, 4), name, &b"file"[..]).unwrap();
    }
    for len in (0..600).step_by(7).chain([60_000]) {
        tar.append_pax_extensions([
            ("SCHILY.xattr.user.one", &*vec![b'v'; len]),
            ("SCHILY.xattr.user.two", b"2"),
        ])
        .unwrap();
        let name = format!("attributes/{len}");
        tar.append_data(&mut header(tar::EntryType::Regular, 1), name, &b"1"[..]).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let (served, slots) = with(folder.path(), &[tar.into_inner().unwrap()]).await;
    let folders = open(&served, folder.path(), &Arc::default());
    folders.mount(slots.iter().copied()).await;
    same_as_on_fuse(&folders, &served, slots[0]);
    let at = folders.folder(slots[0]);
    for name in ["many/!0", "many/-m1", "folders/1/nn"] {
        assert!(at.join(name).exists(), "{name} is found by its name");
    }
    assert!(!at.join("many/a").exists());
    folders.retain(&HashSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_finds_what_the_one_before_it_mounted_and_unmounts_what_nobody_needs() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let (served, slots) = with(folder.path(), &tars[..2]).await;
    let mounter = Arc::default();
    open(&served, folder.path(), &mounter).mount(slots.iter().copied()).await;
    assert_eq!(mounter.asked.load(Ordering::Relaxed), 2);

    let folders = open(&served, folder.path(), &mounter);
    folders.mount(slots.iter().copied()).await;
    assert_eq!(mounter.asked.load(Ordering::Relaxed), 2, "they are there");
    folders.retain(&HashSet::from([slots[1].0])).await;
    assert_eq!(folders.folder(slots[0]), served.at.join("0"));
    assert!(!folder.path().join("x/0").exists());
    assert!(folders.folder(slots[1]).join("large").exists());
    folders.mount([slots[0]]).await;
    assert!(folders.folder(slots[0]).starts_with(folder.path().join("x")), "again");
    folders.retain(&HashSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_mounted_is_on_fuse_and_so_are_all_where_nobody_mounts() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let (served, slots) = with(folder.path(), &tars[..2]).await;
    let on_fuse = served.at.join("0");
    {
        let folders = open(&served, folder.path(), &Arc::new(Here { refuses: true, ..Here::default() }));
        folders.mount([slots[0]]).await;
        assert_eq!(folders.folder(slots[0]), on_fuse);
    }
    open(&served, folder.path(), &Arc::default()).mount([slots[0]]).await;
    let (fs, at, images) =
        (served.images.fs().clone(), folder.path().join("x"), folder.path().join("images"));
    let folders = LayerFolders::open(fs, served.at.clone(), at, images, None).unwrap();
    folders.mount(slots.iter().copied()).await;
    assert_eq!(folders.folder(slots[0]), on_fuse, "though another process mounted it");
    folders.retain(&HashSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_erofs_on_files_all_is_on_fuse() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let (served, slots) = with(folder.path(), &tars[..1]).await;
    let (fs, at) = (served.images.fs().clone(), folder.path().join("x"));
    let (mounter, images) = (Arc::new(Here::default()), Path::new("/dev/shm").join("shoal-test-images"));
    // No files of a tmpfs.
    let folders =
        LayerFolders::open(fs, served.at.clone(), at, images.clone(), Some(mounter.clone())).unwrap();
    std::fs::remove_dir(images).unwrap();
    folders.mount(slots.iter().copied()).await;
    assert_eq!(mounter.asked.load(Ordering::Relaxed), 0);
    assert_eq!(folders.folder(slots[0]), served.at.join("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_left_that_was_killed_while_it_tried_erofs_out_is_no_reason_against_it() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let (served, slots) = with(folder.path(), &tars[..1]).await;
    let left = folder.path().join("x/try");
    std::fs::create_dir_all(&left).unwrap();
    let tmpfs = Command::new("mount").args(["-t", "tmpfs", "left"]).arg(&left).status().unwrap();
    assert!(tmpfs.success());
    let folders = open(&served, folder.path(), &Arc::default());
    assert!(!left.exists());
    folders.mount([slots[0]]).await;
    assert_eq!(folders.folder(slots[0]), folder.path().join("x/0"));
    folders.retain(&HashSet::new()).await;
}

/// Bytes from one read to the next of who looks for failures.
const STEP: usize = 128 << 10;

/// The kernel takes what comes of a read, if anything does, and shows zeros in place of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_after_a_part_of_it_leaves_no_zeros() {
    if !can_mount() {
        return;
    }
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(1..)).take(4 << 20).collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "file", &*content).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = Arc::new(Source::new());
    let layer = source.add(tar.into_inner().unwrap(), samples::SPAN);
    let patience = Patience { deadline: Duration::from_millis(50) };
    let served = Served::new(folder.path(), source.clone(), patience).await;
    let slots = served.images.add(&[layer]).await.unwrap();
    let folders = open(&served, folder.path(), &Arc::default());
    folders.mount(slots.iter().copied()).await;
    let file = File::open(folders.folder(slots[0]).join("file")).unwrap();
    // Each second MiB is here.
    let opened = served.images.layers(&slots).remove(0);
    for span in opened.index().spans.indexes() {
        let range = opened.index().spans.tar_range(span).unwrap();
        if (range.start >> 20) % 2 == 0 {
            opened.fill(span).await.unwrap();
        }
    }
    source.becomes(Mood::Gone);
    let read: Vec<_> = tokio::task::block_in_place(|| {
        let byte = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).ok().map(|()| byte[0])
        };
        (0..content.len() as u64).step_by(STEP).map(byte).collect()
    });
    let got: Vec<_> = read.iter().flatten().collect();
    assert!(!got.is_empty() && got.len() < read.len(), "{} of {}", got.len(), read.len());
    for (step, byte) in read.iter().enumerate() {
        assert!(byte.is_none_or(|byte| byte == content[step * STEP]), "step {step}");
    }
    source.becomes(Mood::Serves);
    let whole = served_again(async || {
        tokio::task::block_in_place(|| {
            let mut bytes = vec![0; content.len()];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        })
    });
    assert!(whole.await == content);
    folders.retain(&HashSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_erofs_cannot_tell_is_on_fuse() {
    if !can_mount() {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("SCHILY.xattr.system.posix_acl_other", &b"1"[..])]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b"1"[..]).unwrap();
    let odd = tar.into_inner().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plain = image::adversarial(&folder.path().join("made")).swap_remove(0);
    let (served, slots) = with(folder.path(), &[odd, plain]).await;
    let mounter = Arc::default();
    let folders = open(&served, folder.path(), &mounter);
    folders.mount(slots.iter().copied()).await;
    assert_eq!(folders.folder(slots[0]), served.at.join("0"));
    assert!(folders.folder(slots[1]).starts_with(folder.path().join("x")), "the other one is not concerned");
    folders.retain(&HashSet::new()).await;
}
