//! Which layers an image is made of.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;

/// Clients and registries take images of far fewer layers; more would measure nothing else.
const MAX_LAYERS: u32 = 1000;

/// `COUNT`, `COUNTxSIZE` or `COUNTxSIZE..SIZE`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layers {
    count: u32,
    /// Size of the smallest and of the largest in bytes; without it the image's size is shared out evenly.
    sizes: Option<(u64, u64)>,
}

impl Layers {
    /// Size of each layer in bytes. A range is covered in equal ratios, as small layers are the common ones.
    #[allow(clippy::cast_possible_truncation, reason = "a part of a byte is none")]
    pub(crate) fn sizes(&self, image: u64) -> Vec<u64> {
        let (smallest, largest) = self.sizes.unwrap_or_else(|| {
            let share = image / u64::from(self.count);
            (share.max(1), share.max(1))
        });
        let steps = f64::from(self.count.saturating_sub(1).max(1));
        let growth = largest as f64 / smallest as f64;
        (0..self.count).map(|n| (smallest as f64 * growth.powf(f64::from(n) / steps)) as u64).collect()
    }
}

impl FromStr for Layers {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (count, sizes) = match text.split_once('x') {
            None => (text, None),
            Some((count, sizes)) => {
                let (smallest, largest) = sizes.split_once("..").unwrap_or((sizes, sizes));
                (count, Some((size(smallest)?, size(largest)?)))
            }
        };
        let count = count.parse().context("layers begin with their number, as in 40x50KiB..4MiB")?;
        ensure!((1..=MAX_LAYERS).contains(&count), "an image has 1 to {MAX_LAYERS} layers here");
        if let Some((smallest, largest)) = sizes {
            ensure!(smallest > 0 && smallest <= largest, "the smaller size comes first, and is not 0");
        }
        Ok(Self { count, sizes })
    }
}

fn size(text: &str) -> Result<u64> {
    let size: ByteSize = text.parse().map_err(anyhow::Error::msg).with_context(|| format!("{text:?}"))?;
    Ok(size.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_the_sizes_that_were_asked_for() {
        let sizes = |text: &str| text.parse::<Layers>().unwrap().sizes(1000);
        assert_eq!(sizes("1"), [1000]);
        assert_eq!(sizes("4"), [250; 4]);
        assert_eq!(sizes("2x300KiB"), [300 << 10; 2]);
        let range = sizes("40x50KiB..4MiB");
        assert_eq!((range.len(), range[0], range[39]), (40, 50 << 10, 4 << 20));
        assert!(range.is_sorted());
        for text in ["", "0", "x", "40x", "2x4MiB..50KiB", "2x0B", "100000", "2x1MiB..z"] {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
    }
}
