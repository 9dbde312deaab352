//! What the filesystem tells the daemon of itself, for people and for metrics: this process has no network.

use std::collections::BTreeMap;

use prost::Message as _;

use super::rows::{KnownLayer, ShownLayer};
use crate::images::Images;
use crate::link::MAX_REQUEST;
use crate::link::messages::{Report, ShownImage, ShownLayer as Layer};
use crate::span_cache::ReadCounts;

/// Bytes of the images in a report: with its numbers it stays below what one request may have.
const MOST: usize = MAX_REQUEST - (4 << 10);

/// All but where spans came from, which the link knows.
pub(super) fn report<'a>(images: &Images, shown: impl Iterator<Item = &'a ShownLayer>) -> Report {
    let ReadCounts {
        spans_on_demand,
        spans_prefetched,
        spans_filled,
        spans_from_disk,
        spans_wrong,
        spans_failed,
        bytes_fetched,
        bytes_read,
        waits,
        waited,
    } = images.cache().counts();
    let mut report = Report {
        spans_on_demand,
        spans_prefetched,
        spans_filled,
        spans_from_disk,
        spans_wrong,
        spans_failed,
        bytes_fetched,
        bytes_read,
        waits: waits.to_vec(),
        waited_us: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
        disk_used: images.cache().disk_used(),
        disk_limit: images.cache().disk_limit(),
        ..Report::default()
    };
    let mut len = 0;
    for (name, layers) in by_image(shown) {
        let layers = layers.iter().filter_map(|known| layer(images, known)).collect();
        let image = ShownImage { name: name.to_owned(), layers };
        len += image.encoded_len() + 8;
        if len > MOST {
            report.more_images += 1;
        } else {
            report.images.push(image);
        }
    }
    report
}

/// Of each image all of its layers that are shown: those of the topmost one.
fn by_image<'a>(shown: impl Iterator<Item = &'a ShownLayer>) -> BTreeMap<&'a str, &'a [KnownLayer]> {
    let mut images: BTreeMap<&str, &[KnownLayer]> = BTreeMap::new();
    for ShownLayer { layers } in shown {
        let Some(top) = layers.last() else { continue };
        let longest = images.entry(&top.image).or_default();
        if longest.len() < layers.len() {
            *longest = layers;
        }
    }
    images
}

fn layer(images: &Images, known: &KnownLayer) -> Option<Layer> {
    let placed = images.fs().slot(crate::fs::SlotNumber(known.slot))?;
    let layer = placed.layer();
    Some(Layer {
        digest: known.digest.clone(),
        tar: layer.index().spans.tar_size(),
        local: layer.local_bytes(),
        whole: layer.is_proved(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_once_with_all_its_layers() {
        let layer = |image: &str, slot| KnownLayer { image: image.into(), slot, ..KnownLayer::default() };
        let chain = |layers: &[KnownLayer]| ShownLayer { layers: layers.to_vec() };
        // The lower layer of the second image came with the first one.
        let rows = [
            chain(&[layer("a", 0)]),
            chain(&[layer("a", 0), layer("a", 1)]),
            chain(&[layer("a", 0), layer("b", 2)]),
        ];
        let images = by_image(rows.iter());
        let slots = |name| images[name].iter().map(|layer| layer.slot).collect::<Vec<_>>();
        assert_eq!((images.len(), slots("a"), slots("b")), (2, vec![0, 1], vec![0, 2]));
    }
}
