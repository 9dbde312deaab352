//! What is shown no more frees what it took of the disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Arc;

use shoal_lazyfs::fs::{Ino, SlotNumber};
use shoal_lazyfs::images::Images;
use shoal_lazyfs::span_cache::Patience;
use shoal_proto::Digest;

use super::samples::{self, SPAN};
use super::source::{Mood, Source};

struct Case {
    source: Arc<Source>,
    folder: tempfile::TempDir,
    layers: Vec<Digest>,
}

fn case() -> Case {
    let source = Arc::new(Source::new());
    let layers =
        (81..84).map(|seed| source.add(samples::gzip(&samples::tar(seed, 300_000), 6), SPAN)).collect();
    Case { source, folder: tempfile::tempdir().unwrap(), layers }
}

impl Case {
    async fn open(&self) -> Images {
        Images::open(self.folder.path(), self.source.clone(), Patience::default()).await.unwrap()
    }

    fn folders(&self) -> usize {
        fs::read_dir(self.folder.path().join("layers")).unwrap().count()
    }
}

fn is_shown(images: &Images, slot: SlotNumber) -> bool {
    images.fs().lookup(Ino::ROOT, slot.0.to_string().as_bytes()).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_goes_first_and_its_files_with_it() {
    let case = case();
    let images = case.open().await;
    let slots = images.add(&case.layers).await.unwrap();
    assert!(!images.remove(slots[1]).await.unwrap(), "one is over it");
    assert!(is_shown(&images, slots[1]));
    for (left, &slot) in slots.iter().enumerate().rev() {
        assert!(images.remove(slot).await.unwrap());
        assert!(!is_shown(&images, slot));
        assert_eq!(case.folders(), left);
    }
    drop(images);
    let images = case.open().await;
    assert!(slots.iter().all(|&slot| !is_shown(&images, slot)));
    // It may come again, in the same place under the same number.
    assert_eq!(images.add(&case.layers).await.unwrap(), slots);
    drop(images);
    case.source.becomes(Mood::Gone);
    let images = case.open().await;
    assert!(slots.iter().all(|&slot| is_shown(&images, slot)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_shown_elsewhere_or_still_read_keeps_its_files() {
    let case = case();
    let images = case.open().await;
    let [a, b, _] = *case.layers else { unreachable!() };
    let (first, second) = (images.add(&[a, b]).await.unwrap(), images.add(&[b]).await.unwrap());
    let read = images.layers(&second).remove(0);
    assert!(images.remove(first[1]).await.unwrap());
    assert!(images.cache().holds(&b), "shown elsewhere");
    assert!(images.remove(second[0]).await.unwrap());
    assert!(images.cache().holds(&b), "still read");
    drop(read);
    while images.cache().holds(&b) {
        tokio::task::yield_now().await;
    }
    assert!(images.cache().holds(&a) && is_shown(&images, first[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_short_is_finished_at_the_next_start() {
    let case = case();
    let images = case.open().await;
    images.add(&case.layers).await.unwrap();
    drop(images);
    let mut table = File::options().append(true).open(case.folder.path().join("slots")).unwrap();
    // A line that is not whole counts nothing.
    table.write_all(b"hide 2\nhide 1").unwrap();
    let images = case.open().await;
    assert!(is_shown(&images, SlotNumber(1)) && !is_shown(&images, SlotNumber(2)));
    assert_eq!(case.folders(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_places_does_not_grow_by_what_comes_and_goes() {
    let case = case();
    let mut lengths = Vec::new();
    for _ in 0..20 {
        let images = case.open().await;
        let slots = images.add(&case.layers[..1]).await.unwrap();
        assert!(images.remove(slots[0]).await.unwrap());
        drop(images);
        lengths.push(fs::metadata(case.folder.path().join("slots")).unwrap().len());
    }
    assert!(lengths.iter().all(|&length| length < 220), "{lengths:?}");
    let images = case.open().await;
    assert_eq!(images.add(&case.layers[..1]).await.unwrap(), [SlotNumber(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_stood_for_something_are_not_given_out_when_the_table_is_lost() {
    let case = case();
    let images = case.open().await;
    let slots = images.add(&case.layers).await.unwrap();
    drop(images);
    fs::remove_file(case.folder.path().join("slots")).unwrap();
    // Twice, as after another restart.
    for _ in 0..2 {
        let images = case.open().await;
        images.keep_free(SlotNumber(3)).await.unwrap();
        assert!(slots.iter().all(|&slot| !is_shown(&images, slot)));
        let [_, b, c] = *case.layers else { unreachable!() };
        assert_eq!(images.add(&[c, b]).await.unwrap(), [SlotNumber(3), SlotNumber(4)]);
    }
    assert!(is_shown(&case.open().await, SlotNumber(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_index_of_a_layer_has_another_number() {
    let case = case();
    let images = case.open().await;
    let slots = images.add(&case.layers[..1]).await.unwrap();
    let read = images.layers(&slots).remove(0);
    let old = read.index().clone();
    drop(read);
    assert!(images.remove(slots[0]).await.unwrap());
    case.source.add(samples::gzip(&samples::tar(81, 300_000), 6), 2 * SPAN);
    let new = images.add(&case.layers[..1]).await.unwrap();
    assert_ne!(*images.layers(&new).remove(0).index(), old);
    assert_ne!(new, slots);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_start_nobody_is_asked_for_a_damaged_index() {
    let case = case();
    let images = case.open().await;
    let slots = images.add(&case.layers).await.unwrap();
    drop(images);
    // The highest of them.
    let folder = case.folder.path().join("layers").join(case.layers[2].to_string().replace(':', "-"));
    fs::write(folder.join("head"), b"damaged").unwrap();
    case.source.becomes(Mood::Waits);
    let opened = tokio::time::timeout(Patience::default().deadline / 2, case.open()).await;
    let images = opened.expect("it waits for nobody");
    let shown: Vec<_> = slots.iter().map(|&slot| is_shown(&images, slot)).collect();
    assert_eq!(shown, [true, true, false]);
}
