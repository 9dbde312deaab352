//! Through the kernel: layers on FUSE, under overlayfs, are what layers are that were unpacked one over the other.

use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_lazyfs::fs::EMPTY;
use shoal_lazyfs::span_cache::Patience;

use super::folder::{seen, short};
use super::image;
use super::samples;
use super::served::{Overlay, Served, can_mount};
use super::source::{Mood, Source};

fn same(got: &Path, want: &Path) {
    let (got, want) = (seen(got), seen(want));
    assert!(want.len() > 40);
    for (path, want) in &want {
        let got = got.get(path).unwrap_or_else(|| panic!("{path:?} is missing"));
        assert!(got == want, "{path:?}: {:?} instead of {:?}", short(got), short(want));
    }
    for path in got.keys() {
        assert!(want.contains_key(path), "{path:?} should not be there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_everything_that_is_hard_to_get_right() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let mut plain: Vec<PathBuf> = Vec::new();
    for (number, tar) in tars.iter().enumerate() {
        let root = folder.path().join(format!("plain{number}"));
        let below: Vec<_> = plain.iter().rev().cloned().collect();
        image::unpack(tar, &root, &below);
        plain.push(root);
    }
    let source = Arc::new(Source::new());
    let layers = [
        source.add(samples::gzip(&tars[0], 6), samples::SPAN),
        source.add(samples::zstd_frames(&tars[1], 100_000), samples::SPAN),
        source.add(tars[2].clone(), samples::SPAN),
    ];
    let served = Served::new(folder.path(), source.clone(), Patience::default()).await;
    // What is not there yet is not remembered as absent.
    assert!(!served.at.join("0").exists());
    let slots = served.images.add(&layers).await.unwrap();
    let lazy: Vec<PathBuf> = slots.iter().map(|slot| served.at.join(slot.0.to_string())).collect();

    for (lazy, plain) in lazy.iter().zip(&plain) {
        let (lazy, plain) = (seen(lazy), seen(plain));
        assert_eq!(lazy.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    }
    let (of_plain, of_lazy) = (folder.path().join("of-plain"), folder.path().join("of-lazy"));
    let want = Overlay::new(&plain, of_plain);
    let got = Overlay::new(&lazy, of_lazy);
    same(got.path(), want.path());
    same(got.path(), want.path());
    listings_agree_with_files(got.path());
    drop((got, want));

    // One layer needs a second folder for overlayfs, and whiteouts of nothing do not show.
    let empty = served.at.join(EMPTY);
    let got = Overlay::new(&[empty.clone(), lazy[1].clone()], folder.path().join("one-lazy"));
    fs::create_dir(folder.path().join("empty")).unwrap();
    let plain = [folder.path().join("empty"), plain[1].clone()];
    let want = Overlay::new(&plain, folder.path().join("one-plain"));
    assert!(!got.path().join("gone").exists());
    assert_eq!(seen(got.path()).keys().collect::<Vec<_>>(), seen(want.path()).keys().collect::<Vec<_>>());
}

fn listings_agree_with_files(root: &Path) {
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(entry.file_type().unwrap(), meta.file_type(), "{:?}", entry.path());
            if meta.is_dir() {
                todo.push(entry.path());
            } else {
                assert_eq!(entry.ino(), meta.ino(), "{:?}", entry.path());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_it_mounts_again_with_everybody_gone() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    let source = Arc::new(Source::new());
    let layers: Vec<_> = tars.iter().map(|tar| source.add(samples::gzip(tar, 6), samples::SPAN)).collect();
    let (before, inodes) = {
        let served = Served::new(folder.path(), source.clone(), Patience::default()).await;
        // Two images, one over the other's first layer.
        served.images.add(&layers[..1]).await.unwrap();
        served.images.add(&layers).await.unwrap();
        let all = seen(&served.at);
        served.images.cache().sync();
        (all, inodes(&served.at))
    };
    source.becomes(Mood::Gone);
    let served = Served::new(folder.path(), source.clone(), Patience::default()).await;
    assert_eq!(self::inodes(&served.at), inodes);
    assert!(seen(&served.at) == before);
}

fn inodes(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found: Vec<_> = seen(root)
        .into_keys()
        .map(|path| {
            let ino = fs::symlink_metadata(root.join(&path)).unwrap().ino();
            (path, ino)
        })
        .collect();
    found.sort();
    found
}
