//! Rates of links, written as `tc` writes them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

/// Below this the shaper's burst alone would be seconds of traffic, above it one machine cannot follow.
const BOUNDS: std::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

/// Bits per second on the wire, Ethernet framing included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(u64);

const UNITS: [(&str, f64); 3] = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)];

impl Rate {
    pub(crate) fn bits_per_second(self) -> u64 {
        self.0
    }

    pub(crate) fn bytes_per_second(self) -> f64 {
        self.0 as f64 / 8.0
    }

    /// The rate of so many links together.
    pub(crate) fn times(self, links: usize) -> Self {
        Self(self.0.saturating_mul(links as u64))
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let found = UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor)));
        let (number, factor) = found.context("a rate is a number with kbit, mbit or gbit, such as 50mbit")?;
        let number: f64 = number.trim().parse().context("a rate begins with a number, as in 50mbit")?;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "what does not fit saturates, and is out of bounds"
        )]
        let bits = (number * factor).round() as u64;
        ensure!(BOUNDS.contains(&bits), "a rate lies between 1mbit and 100gbit");
        Ok(Self(bits))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            UNITS.iter().find(|(_, factor)| self.0 as f64 >= *factor).unwrap_or(&("bit", 1.0));
        write!(f, "{}{unit}", self.0 as f64 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_as_tc_does() {
        for (text, bits) in [("50mbit", 50_000_000), ("1.5Gbit", 1_500_000_000), ("2500 kbit", 2_500_000)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits_per_second(), bits, "{text}");
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate, "{text}");
        }
        for text in ["", "50", "mbit", "-5mbit", "1kbit", "900gbit", "50MB", "nanmbit", "infgbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
