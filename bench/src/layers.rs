//! Which layers an image is made of.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

/// Clients and registries take images of far fewer layers; more would measure nothing else.
const MOST: usize = 1000;

/// `COUNT`, `COUNTxSIZE`, `COUNTxSIZE..SIZE` or `SIZE,SIZE,…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// So many that share the image's size.
    Equal(u32),
    /// Of these sizes, whatever the image's.
    Sizes(Vec<ByteSize>),
}

/// Why a text does not tell the layers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} are no layers: write how many (1 to {MOST}), or their sizes, none of them 0, as in 600MiB,8KiB, 8x16MiB \
     or, the smaller one first, 40x50KiB..4MiB"
)]
pub struct LayersError(String);

impl Layers {
    /// The bytes of each layer of an image of this size, one at least.
    pub fn sizes(&self, image: ByteSize) -> Vec<u64> {
        match self {
            Self::Equal(count) => {
                let count = u64::from(*count).max(1);
                let cut = |part: u64| image.0 / count * part + image.0 % count * part / count;
                (0..count).map(|part| (cut(part + 1) - cut(part)).max(1)).collect()
            }
            Self::Sizes(sizes) => sizes.iter().map(|size| size.0).collect(),
        }
    }
}

impl Layers {
    /// The image that they make, in words.
    pub(crate) fn described(&self, image: ByteSize) -> String {
        let sizes = self.sizes(image);
        let total = exact(ByteSize(sizes.iter().sum()));
        let ends = sizes.iter().min().zip(sizes.iter().max());
        match (self, ends) {
            (Self::Sizes(_), Some((least, most))) if sizes.len() > 1 => {
                let (least, most) = (ByteSize(*least), ByteSize(*most));
                format!("{total} in {} layers of {} to {}", sizes.len(), exact(least), exact(most))
            }
            _ if sizes.len() == 1 => format!("{total} in 1 layer"),
            _ => format!("{total} in {} layers", sizes.len()),
        }
    }
}

impl FromStr for Layers {
    type Err = LayersError;

    fn from_str(text: &str) -> Result<Self, LayersError> {
        let error = || LayersError(text.to_owned());
        if let Ok(count) = text.parse::<usize>() {
            let count = u32::try_from(count).ok().filter(|_| (1..=MOST).contains(&count));
            return count.map(Self::Equal).ok_or_else(error);
        }
        let size = |text: &str| text.parse::<ByteSize>().ok().filter(|size| size.0 > 0);
        let sizes: Option<Vec<ByteSize>> = match text.split_once('x') {
            Some((count, sizes)) => {
                let count = count.parse().ok().filter(|count| (1..=MOST).contains(count));
                let (smallest, largest) = sizes.split_once("..").unwrap_or((sizes, sizes));
                count.zip(size(smallest).zip(size(largest))).and_then(|(count, ends)| growing(count, ends))
            }
            None => text.split(',').map(size).collect(),
        };
        sizes.filter(|sizes| sizes.len() <= MOST).map(Self::Sizes).ok_or_else(error)
    }
}

/// From the smallest to the largest in equal ratios, as small layers are the common ones.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a byte is none")]
#[allow(clippy::cast_precision_loss, reason = "sizes of layers are below 2^53 bytes")]
fn growing(count: usize, (smallest, largest): (ByteSize, ByteSize)) -> Option<Vec<ByteSize>> {
    let steps = count.saturating_sub(1).max(1) as f64;
    let growth = largest.0 as f64 / smallest.0 as f64;
    let size = |n: usize| ByteSize((smallest.0 as f64 * growth.powf(n as f64 / steps)) as u64);
    (smallest <= largest).then(|| (0..count).map(size).collect())
}

/// As it is read back.
impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal(count) => count.fmt(f),
            Self::Sizes(sizes) => {
                let sizes: Vec<String> = sizes.iter().map(|size| exact(*size)).collect();
                f.write_str(&sizes.join(","))
            }
        }
    }
}

/// A size that is read back as the same number of bytes.
pub(crate) fn exact(size: ByteSize) -> String {
    let units = [
        (1u64 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1000, "kB"),
    ];
    let unit = units.iter().find(|(bytes, _)| size.0 >= *bytes && size.0.is_multiple_of(*bytes));
    unit.map_or_else(|| format!("{}B", size.0), |(bytes, name)| format!("{}{name}", size.0 / bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_the_sizes_that_were_asked_for() {
        let sizes = |text: &str| {
            let layers: Layers = text.parse().unwrap();
            assert_eq!(layers.to_string().parse::<Layers>().unwrap(), layers);
            layers.sizes(ByteSize(1000))
        };
        assert_eq!(sizes("1"), [1000]);
        assert_eq!(sizes("4"), [250; 4]);
        assert_eq!((sizes("7").len(), sizes("7").iter().sum::<u64>()), (7, 1000));
        assert_eq!(sizes("2x300KiB"), [300 << 10; 2]);
        assert_eq!(sizes("1GiB,3KiB"), [1 << 30, 3 << 10]);
        assert_eq!(sizes("3x1KiB..4KiB"), [1024, 2048, 4096]);
        let exactly = |text: &str| exact(text.parse().unwrap());
        assert_eq!(
            ["16MB", "16MiB", "1.5GiB", "2GB", "999B"].map(exactly),
            ["16MB", "16MiB", "1536MiB", "2GB", "999B"]
        );
        let range = sizes("40x50KiB..4MiB");
        assert_eq!((range.len(), range[0], range[39]), (40, 50 << 10, 4 << 20));
        assert!(range.is_sorted());
        let wrong = [
            "",
            "0",
            "x",
            "40x",
            "0x5KiB",
            "2x4MiB..50KiB",
            "2x0B",
            "5KiB,0",
            "1001",
            "100000x1B",
            "2x1MiB..z",
        ];
        for text in wrong {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
    }
}
