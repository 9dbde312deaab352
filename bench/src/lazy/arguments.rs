//! The command line of `shoal bench lazy`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::recipe::ImageName;
use crate::rate::Rate;

#[derive(Clone, Debug, Args)]
pub struct LazyArguments {
    /// Which images; without any all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "IMAGE")]
    pub(super) images: Vec<ImageName>,
    /// An image of your own, in place of these: an OCI layout folder. What its container runs says with the first
    /// line on its standard output that it is useful; repeatable
    #[arg(long, value_name = "LAYOUT", conflicts_with = "images")]
    pub(super) image: Vec<PathBuf>,
    /// Rates of the links of nodes and registry, one after the other
    #[arg(long, value_delimiter = ',', value_name = "RATE", default_value = "100mbit,1gbit", value_parser = Rate::shaped)]
    pub(super) links: Vec<Rate>,
    /// How often each start is measured; middle values are shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) rounds: u16,
    /// Where images are kept between runs: making them takes minutes and a mirror of Debian
    #[arg(long, value_name = "DIR", default_value = "/var/cache/shoal-bench")]
    pub(super) prepared: PathBuf,
}

impl LazyArguments {
    pub(super) fn names(&self) -> Vec<ImageName> {
        if self.images.is_empty() { ImageName::value_variants().to_vec() } else { self.images.clone() }
    }
}
