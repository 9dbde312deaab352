//! Runs the simulator without building the rest of Shoal: `cargo run --release -p shoal-bench --example sim -- --nodes 100`.
// For people at a terminal: may fail loudly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use clap::Parser;
use shoal_bench::sim::{SimArguments, run};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    sim: SimArguments,
    #[arg(long)]
    set: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if !cli.set.is_empty() {
        let mut t = shoal_bench::sim::Tuning::default();
        for set in &cli.set {
            let (name, value) = set.split_once('=').unwrap();
            let n: u64 = value.parse().unwrap();
            let u = n as usize;
            match name {
                "downloads" => t.peer.downloads = u,
                "uploads" => t.peer.uploads = u,
                "fast" => t.peer.when_fast = u,
                "lbf" => t.tracker.leases_when_fast = u,
                "l1" => t.tracker.leases_at_first = u,
                "have" => t.peer.have_delay = std::time::Duration::from_micros(n),
                "window" => t.peer.window = u,
                "ahead" => t.peer.reader_ahead = u,
                "pern" => t.peer.per_neighbour = u,
                "maxn" => t.peer.max_neighbours = u,
                "n" => t.tracker.neighbours = u,
                "lc" => t.tracker.lease_chunks = u as u32,
                "lcf" => t.tracker.lease_chunks_when_fast = u as u32,
                "lb" => t.tracker.leases_per_blob = u,
                "lz" => t.tracker.leases_per_zone = u,
                "ln" => t.tracker.leases_per_node = u,
                _ => panic!("{name}"),
            }
        }
        let o = shoal_bench::sim::simulate(&cli.sim, cli.sim.scenario[0], t)?;
        let m = o.mode;
        let at = |f: f64| {
            m.traffic
                .iter()
                .find(|s| s.origin_bytes as f64 >= f * m.image_bytes as f64)
                .map_or(0.0, |s| s.at_s)
        };
        println!(
            "{:50} ratio {:.3} p50 {:.3} origin {:.3}x done {:.3} wasted {:.4} first {:.3} {}",
            cli.set.join(" "),
            m.ratio.unwrap(),
            m.p50_s / m.bound_s,
            m.origin_bytes as f64 / m.image_bytes as f64,
            at(0.999),
            o.wasted,
            m.first_byte_last_s.unwrap(),
            o.notes[0]
        );
        return Ok(());
    }
    let report = run(&cli.sim)?;
    println!("{}", report.command);
    for (name, value) in &report.settings {
        println!("  {name}: {value}");
    }
    for mode in &report.modes {
        let origin = mode.origin_bytes as f64 / mode.image_bytes as f64;
        let crossed = mode.cross_zone_bytes as f64 / mode.image_bytes as f64;
        println!(
            "{}: bound {:.3} s, last {:.3} s, p50 {:.3} s, ratio {:.3}, origin {origin:.3} x in {} GETs, between zones {crossed:.2} x, first byte {:.3} s",
            mode.name,
            mode.bound_s,
            mode.last_s,
            mode.p50_s,
            mode.ratio.unwrap_or(f64::NAN),
            mode.origin_gets,
            mode.first_byte_last_s.unwrap_or(f64::NAN),
        );
        for share in [0.1, 0.25, 0.5, 0.75, 0.9, 1.0] {
            let at = |bytes: fn(&shoal_bench::report::Sample) -> u64, all: f64| {
                mode.traffic
                    .iter()
                    .find(|s| bytes(s) as f64 >= all * share * 0.999)
                    .map_or(f64::NAN, |s| s.at_s)
            };
            let image = mode.image_bytes as f64;
            println!(
                "  {share}: origin {:.3} s, peers {:.3} s",
                at(|s| s.origin_bytes, image),
                at(|s| s.peer_bytes, image * (mode.nodes as f64 - 1.0))
            );
        }
    }
    report.notes.iter().for_each(|note| println!("  {note}"));
    Ok(())
}
