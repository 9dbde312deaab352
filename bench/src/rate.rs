//! Rates of links, written as `tc` writes them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Bits per second, as network people count: `10gbit`, `50mbit`, `512kbit`. On links of the kernel with Ethernet's
/// framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

/// Why a text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("{0:?} is not a rate: write a number above zero with kbit, mbit or gbit, as in 50mbit")]
    Unknown(String),
    #[error("{0} cannot be had on one machine: a rate lies between 1mbit and 100gbit here")]
    NotShaped(Rate),
}

const UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
/// A petabit is beyond any link, and within what an integer holds.
const BOUNDS: RangeInclusive<f64> = 1.0..=1e15;
/// Below this the shaper's burst alone would be seconds of traffic, above it one machine cannot follow.
const SHAPED: RangeInclusive<u64> = 1_000_000..=100_000_000_000;

impl Rate {
    /// The rate of a link that the kernel shapes.
    pub(crate) fn shaped(text: &str) -> Result<Self, RateError> {
        let rate: Self = text.parse()?;
        if SHAPED.contains(&rate.0) { Ok(rate) } else { Err(RateError::NotShaped(rate)) }
    }

    pub(crate) fn bits_per_second(self) -> u64 {
        self.0
    }

    pub fn bytes_per_second(self) -> f64 {
        to_f64(self.0) / 8.0
    }

    /// The rate of so many links together.
    pub(crate) fn times(self, links: usize) -> Self {
        Self(self.0.saturating_mul(links as u64))
    }
}

/// Rates, sizes and times here lie far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn to_f64(number: u64) -> f64 {
    number as f64
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let error = || RateError::Unknown(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find_map(|(name, bits)| Some((lower.strip_suffix(name)?, *bits)));
        let (number, bits) = unit.ok_or_else(error)?;
        let number: f64 = number.trim().parse().map_err(|_| error())?;
        let rate = number * to_f64(bits);
        if !BOUNDS.contains(&rate) {
            return Err(error());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above")]
        Ok(Self(rate.round() as u64))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().rev().find(|(_, bits)| self.0.is_multiple_of(*bits));
        match unit {
            Some((name, bits)) => write!(f, "{}{name}", self.0 / bits),
            None => write!(f, "{}kbit", to_f64(self.0) / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units_and_are_read_as_they_are_shown() {
        for text in ["10gbit", "50mbit", "512kbit"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for (text, bits) in [("0.5gbit", 500_000_000), ("1.5Gbit", 1_500_000_000), ("2500.5 kbit", 2_500_500)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.bits_per_second(), bits, "{text}");
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate, "{text}");
        }
        assert_eq!("8mbit".parse::<Rate>().unwrap().bytes_per_second(), 1e6);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "10", "gbit", "-1mbit", "0mbit", "1mib", "nangbit", "infgbit", "1e9gbit", "50MB"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for text in ["1kbit", "900gbit"] {
            assert!(Rate::shaped(text).is_err() && text.parse::<Rate>().is_ok(), "{text}");
        }
        assert!(Rate::shaped("1mbit").is_ok());
    }
}
