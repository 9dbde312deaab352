//! Runs the simulator without building the rest of Shoal: `cargo run --release -p shoal-bench --example sim -- --nodes 100`.

use clap::Parser;
use shoal_bench::sim::{SimArguments, run};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    sim: SimArguments,
}

fn main() -> anyhow::Result<()> {
    let report = run(&Cli::parse().sim)?;
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
    }
    report.notes.iter().for_each(|note| println!("  {note}"));
    Ok(())
}
