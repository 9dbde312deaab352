//! The command line of `shoal bench cluster`.

use bytesize::ByteSize;
use clap::Args;

use super::scenario::ModeName;
use crate::UsageError;
use crate::layers::Layers;
use crate::rate::Rate;
use crate::rig::image::Image;
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

    /// All that moves the figures, for the report.
    pub(super) fn settings(&self, plan: &Plan, image: &Image) -> Vec<(String, String)> {
        let mut settings = vec![
            ("nodes", plan.nodes.to_string()),
            ("each node's link", plan.link.to_string()),
            ("origin's link", plan.origin_link.to_string()),
        ];
        if plan.zones > 1 {
            settings.push(("zones", plan.zones.to_string()));
            settings.push(("each zone's uplink", plan.zone_link.to_string()));
        }
        settings.push(match &self.image {
            None => ("image", self.layers.described(self.size)),
            Some(name) => {
                ("image", format!("{name}, {} in {} layers", ByteSize(image.bytes()), image.layers.len()))
            }
        });
        if self.image.is_none() && self.compressible > 0 {
            settings.push(("compressible", format!("{} %", self.compressible)));
        }
        settings.extend(self.origin.clone().map(|url| ("origin", url)));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        settings.push(("processors", processors.to_string()));
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        cluster: ClusterArguments,
    }

    #[test]
    fn every_argument_that_moves_the_figures_is_a_setting() {
        let settings = |line: &str| {
            let arguments = Cli::try_parse_from(line.split(' ')).unwrap().cluster;
            arguments.settings(&arguments.plan().unwrap(), &Image::new("image", Vec::new()))
        };
        let plain = "cluster --zones 2 --nodes 8";
        for option in [
            "nodes 9",
            "zones 3",
            "link 1gbit",
            "origin-link 1gbit",
            "zone-link 1gbit",
            "size 3000000B",
            "layers 7",
            "layers 2x3MiB",
            "compressible 50",
            "image a:b",
            "image a:b --origin http://registry.test",
        ] {
            let (name, value) = option.split_once(' ').unwrap();
            let line = match name {
                "nodes" => format!("cluster --zones 2 --nodes {value}"),
                "zones" => format!("cluster --zones {value} --nodes 8"),
                _ => format!("{plain} --{option}"),
            };
            assert_ne!(settings(plain), settings(&line), "{option}");
        }
        assert_ne!(
            settings("cluster --image a:b --origin http://one.test"),
            settings("cluster --image a:b --origin http://two.test")
        );
        assert_eq!(settings(plain), settings(&format!("{plain} --modes direct,shoal")));
    }
}
