//! What `shoal bench sim` is asked for.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use crate::layers::{Layers, exact};
use crate::rate::Rate;

/// Simulates how an image reaches every node of a cluster, with the state machines that run in production.
///
/// The same arguments, seed included, give the same run.
#[derive(Args, Clone, Debug)]
pub struct SimArguments {
    /// Nodes that pull the image.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub nodes: u32,
    /// Size of the image's layers together.
    #[arg(long, default_value_t = ByteSize::gib(1))]
    pub size: ByteSize,
    /// How many layers of equal size, or the size of each, as in `600MiB,300MiB,8KiB`, `8x16MiB` or, from small to large,
    /// `40x50KiB..4MiB` (`--size` is not read then).
    #[arg(long, default_value_t = Layers::Equal(1))]
    pub layers: Layers,
    /// What happens meanwhile; several give one column each.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "flash-crowd")]
    pub scenario: Vec<Scenario>,
    /// Each node's link, up and down.
    #[arg(long, default_value = "10gbit")]
    pub link: Rate,
    /// The origin's link; that of a node unless given.
    #[arg(long)]
    pub origin_link: Option<Rate>,
    /// Zones that the nodes are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub zones: u32,
    /// The link of a zone to all else, up and down; unlimited unless given.
    #[arg(long)]
    pub zone_link: Option<Rate>,
    /// Racks in each zone.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub racks: u32,
    /// The link of a rack to all else, up and down; unlimited unless given.
    #[arg(long)]
    pub rack_link: Option<Rate>,
    /// One way between two nodes of one zone.
    #[arg(long, default_value = "100us", value_parser = humantime::parse_duration)]
    pub latency: Duration,
    /// One way between zones, and to the scheduler where there are zones.
    #[arg(long, default_value = "500us", value_parser = humantime::parse_duration)]
    pub zone_latency: Duration,
    /// From a GET to its first byte.
    #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration)]
    pub origin_latency: Duration,
    /// The time within which all nodes of a crowd are told to pull.
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    pub arrival: Duration,
    /// What a node needs to check and write one MiB, after its last byte arrived.
    #[arg(long, default_value = "250us", value_parser = humantime::parse_duration)]
    pub chunk_cost: Duration,
    /// What the scheduler needs for one message.
    #[arg(long, default_value = "5us", value_parser = humantime::parse_duration)]
    pub scheduler_cost: Duration,
    /// How long it takes neighbours to notice that a node is gone; its session with the scheduler breaks at once.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub silence: Duration,
    /// Layers that a client asks for at once; the others come as fast as they do.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub readers: u32,
    /// What all chance is drawn from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs without one of the rules, to see what it is for.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub without: Vec<Rule>,
}

/// What happens while the nodes pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// All pull at once.
    FlashCrowd,
    /// Nodes begin one after another, over four times the time that one alone needs.
    Staggered,
    /// A new tag that shares nine tenths of its bytes, on a tenth of the nodes at a time.
    RollingUpdate,
    /// 5 % of the nodes die on the way, and as many new ones come.
    Churn,
    /// A tenth of the nodes has a tenth of the link.
    SlowNodes,
    /// The scheduler is gone for 5 s, and comes back knowing nothing.
    SchedulerLoss,
    /// One node sends wrong bytes to whoever asks it.
    Liar,
    /// One node signs for wrong bytes under its leases, so that the whole blob turns out wrong.
    LyingLessee,
    /// The origin answers 429 for a while.
    OriginThrottled,
    /// The origin is gone for good once it has sent every byte once.
    OriginDown,
}

impl Scenario {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A rule that a run may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// Each chunk is leased to one node at a time.
    Leases,
    /// What arrives is compared with its entry.
    Verification,
    /// Each chunk crosses into a zone once.
    Zones,
    /// Leases are given in the order in which clients read: without it each begins at any chunk that nobody has.
    LeaseOrder,
}

impl SimArguments {
    /// The command line that repeats this run.
    pub fn command(&self) -> String {
        let mut command = format!("shoal bench sim --nodes {} ", self.nodes);
        match &self.layers {
            Layers::Equal(1) => command += &format!("--size {}", exact(self.size)),
            Layers::Equal(count) => command += &format!("--size {} --layers {count}", exact(self.size)),
            sizes @ Layers::Sizes(_) => command += &format!("--layers {sizes}"),
        }
        let scenarios: Vec<String> = self.scenario.iter().map(|scenario| scenario.name()).collect();
        command += &format!(" --scenario {} --link {}", scenarios.join(","), self.link);
        for (name, rate) in
            [("origin-link", self.origin_link), ("zone-link", self.zone_link), ("rack-link", self.rack_link)]
        {
            if let Some(rate) = rate {
                command += &format!(" --{name} {rate}");
            }
        }
        command += &format!(" --zones {} --racks {} --readers {}", self.zones, self.racks, self.readers);
        for (name, time) in [
            ("latency", self.latency),
            ("zone-latency", self.zone_latency),
            ("origin-latency", self.origin_latency),
            ("arrival", self.arrival),
            ("chunk-cost", self.chunk_cost),
            ("scheduler-cost", self.scheduler_cost),
            ("silence", self.silence),
        ] {
            let time = humantime::format_duration(time).to_string().replace(' ', "");
            command += &format!(" --{name} {time}");
        }
        if !self.without.is_empty() {
            command += &format!(" --without {}", self.rules());
        }
        command + &format!(" --seed {}", self.seed)
    }
}

impl SimArguments {
    /// All that moves the figures, for the report. The seed does: in a small cluster chance moves them more than what
    /// counts as noise.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let rate = |rate: Option<Rate>| rate.map_or("unlimited".to_owned(), |rate| rate.to_string());
        let mut settings = vec![
            ("nodes", self.nodes.to_string()),
            ("image", self.layers.described(self.size)),
            ("link of a node", self.link.to_string()),
            ("link of the origin", self.origin_link.unwrap_or(self.link).to_string()),
            ("zones", self.zones.to_string()),
        ];
        if self.zones > 1 {
            settings.push(("link of a zone", rate(self.zone_link)));
            settings.push(("latency between zones", time(self.zone_latency)));
        }
        if self.racks > 1 || self.rack_link.is_some() {
            settings.push(("racks in a zone", self.racks.to_string()));
            settings.push(("link of a rack", rate(self.rack_link)));
        }
        settings.extend([
            ("latency in a zone", time(self.latency)),
            ("origin's time to first byte", time(self.origin_latency)),
            ("nodes arrive within", time(self.arrival)),
            ("check and write, per MiB", time(self.chunk_cost)),
            ("a message to the scheduler", time(self.scheduler_cost)),
            ("a node's death is noticed after", time(self.silence)),
            ("layers that a client asks for at once", self.readers.to_string()),
        ]);
        if !self.without.is_empty() {
            settings.push(("without", self.rules()));
        }
        settings.push(("seed", self.seed.to_string()));
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Rules that the run does without, as on the command line.
    fn rules(&self) -> String {
        let names = self.without.iter().filter_map(ValueEnum::to_possible_value);
        names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(",")
    }
}

/// Only for parsing, where there is no whole command line.
#[cfg(test)]
#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    sim: SimArguments,
}

/// The arguments in a line like `sim --nodes 3`.
#[cfg(test)]
pub(super) fn parsed(line: &str) -> SimArguments {
    <Cli as clap::Parser>::try_parse_from(line.split(' ')).unwrap().sim
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> SimArguments {
        parsed(line.strip_prefix("shoal bench ").unwrap())
    }

    #[test]
    fn the_command_of_a_run_says_all_that_was_asked() {
        for line in [
            "shoal bench sim",
            "shoal bench sim --nodes 20 --size 3000000B --layers 7 --zones 4 --zone-link 50mbit --seed 9",
            "shoal bench sim --layers 40x50KiB..4MiB",
            "shoal bench sim --layers 1GiB,3KiB --scenario churn,liar --without leases,zones --arrival 1s500ms",
        ] {
            let first = parse(line);
            let second = parse(&first.command());
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
        }
    }

    #[test]
    fn every_argument_that_moves_the_figures_is_a_setting() {
        let plain = "shoal bench sim --zones 2 --racks 2 --rack-link 5gbit";
        let settings = |line: &str| parse(line).settings();
        for (option, value) in [
            ("nodes", "20"),
            ("size", "3000000B"),
            ("layers", "7"),
            ("layers", "1GiB,3KiB"),
            ("link", "1gbit"),
            ("origin-link", "1gbit"),
            ("zone-link", "1gbit"),
            ("latency", "1ms"),
            ("zone-latency", "1ms"),
            ("origin-latency", "1ms"),
            ("arrival", "1ms"),
            ("chunk-cost", "1ms"),
            ("scheduler-cost", "1ms"),
            ("silence", "1ms"),
            ("readers", "4"),
            ("without", "leases"),
            ("seed", "9"),
        ] {
            assert_ne!(settings(plain), settings(&format!("{plain} --{option} {value}")), "{option}");
        }
        for other in [
            "--zones 4 --racks 2 --rack-link 5gbit",
            "--zones 2 --racks 4 --rack-link 5gbit",
            "--zones 2 --racks 2",
        ] {
            assert_ne!(settings(plain), settings(&format!("shoal bench sim {other}")), "{other}");
        }
        // All options are named here, but for the scenario, of which each is a mode.
        let command = <Cli as clap::CommandFactory>::command();
        assert_eq!(command.get_arguments().filter(|option| option.get_id() != "help").count(), 20);
        assert_eq!(settings(plain), settings(&format!("{plain} --scenario churn")));
    }
}
