//! Rates of links, written with their unit.

use std::fmt;
use std::str::FromStr;

/// Bits per second, as network people count: `10gbit`, `50mbit`, `512kbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

/// Why a text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rate: write a number above zero with kbit, mbit or gbit, as in 50mbit")]
pub struct RateError(String);

impl Rate {
    pub fn bytes_per_second(self) -> f64 {
        to_f64(self.0) / 8.0
    }
}

/// Rates, sizes and times here lie far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn to_f64(number: u64) -> f64 {
    number as f64
}

const UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let error = || RateError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find_map(|(name, bits)| Some((lower.strip_suffix(name)?, *bits)));
        let (number, bits) = unit.ok_or_else(error)?;
        let number: f64 = number.trim().parse().map_err(|_| error())?;
        let rate = number * to_f64(bits);
        // A petabit is beyond any link, and within what an integer holds.
        if !(1.0..=1e15).contains(&rate) {
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
    fn rates_have_units_and_are_shown_as_they_were_written() {
        for text in ["10gbit", "50mbit", "512kbit"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!("0.5gbit".parse::<Rate>().unwrap().to_string(), "500mbit");
        assert_eq!("8mbit".parse::<Rate>().unwrap().bytes_per_second(), 1e6);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "10", "gbit", "-1mbit", "0mbit", "1mib", "nangbit", "1e9gbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
