//! The command line of `shoal bench cluster`.

use bytesize::ByteSize;
use clap::Args;

use super::scenario::ModeName;
use crate::UsageError;
use crate::layers::Layers;
use crate::rate::Rate;
use crate::rig::net::{MAX_NODES, MAX_ZONES, Plan};

#[derive(Clone, Debug, Args)]
pub struct ClusterArguments {
    /// How many nodes pull
    #[arg(long, default_value_t = 8)]
    nodes: usize,
    /// Rate of each node's link, up and down
    #[arg(long, value_name = "RATE", default_value = "50mbit", value_parser = Rate::shaped)]
    link: Rate,
    /// Rate of the origin's link; without it that of a node
    #[arg(long, value_name = "RATE", value_parser = Rate::shaped)]
    origin_link: Option<Rate>,
    /// How many zones the nodes stand in, each behind an uplink
    #[arg(long, default_value_t = 1)]
    zones: usize,
    /// Rate of each zone's uplink; without it that of a node
    #[arg(long, value_name = "RATE", value_parser = Rate::shaped)]
    zone_link: Option<Rate>,
    /// Size of the image
    #[arg(long, default_value = "128MiB")]
    size: ByteSize,
    /// How many layers share the size, or the size of each, as in `600MiB,300MiB,8KiB`, `8x16MiB` or, from small to
    /// large, `40x50KiB..4MiB` (`--size` is not read then)
    #[arg(long, value_name = "LAYERS", default_value_t = Layers::Equal(1))]
    layers: Layers,
    /// How much of the image could be compressed
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    compressible: u8,
    /// An image to distribute, in place of one made on the spot: registry/repository:tag, or any place that skopeo
    /// knows, as oci:FOLDER:TAG
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["size", "layers", "compressible"])]
    image: Option<String>,
    /// The registry to pull from, in place of one of this run: anybody must be allowed to read --image there, which
    /// is then repository:tag
    #[arg(long, value_name = "URL", requires = "image")]
    origin: Option<String>,
    /// What to measure, in this order; without it direct, cache, shoal, and with zones shoal-flat
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE")]
    modes: Vec<ModeName>,
}

impl ClusterArguments {
    pub(super) fn plan(&self) -> Result<Plan, UsageError> {
        let most = match self.nodes {
            2..=MAX_NODES => (self.nodes / 2).min(MAX_ZONES),
            _ => return Err(UsageError(format!("--nodes must lie between 2 and {MAX_NODES}"))),
        };
        if !(1..=most).contains(&self.zones) {
            return Err(UsageError(format!("--zones must lie between 1 and {most}: two nodes in each")));
        }
        if self.image.is_some() && self.modes.contains(&ModeName::ShoalRolling) {
            let why = "shoal-rolling needs two images that share bytes, which are made on the spot: leave out --image";
            return Err(UsageError(why.to_owned()));
        }
        Ok(Plan {
            nodes: self.nodes,
            zones: self.zones,
            link: self.link,
            origin_link: self.origin_link.unwrap_or(self.link),
            zone_link: self.zone_link.unwrap_or(self.link),
        })
    }

    /// The image that was given.
    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// URL of the registry that was given.
    pub(super) fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Size of each layer in bytes.
    pub(super) fn layer_sizes(&self) -> Vec<u64> {
        self.layers.sizes(self.size)
    }

    pub(super) fn compressible(&self) -> u8 {
        self.compressible
    }

    pub(super) fn modes(&self) -> Vec<ModeName> {
        if !self.modes.is_empty() {
            return self.modes.clone();
        }
        let mut modes = vec![ModeName::Direct, ModeName::Cache, ModeName::Shoal];
        if self.zones > 1 {
            modes.push(ModeName::ShoalFlat);
        }
        modes
    }
}
