//! What a run found: its JSON, and the same as text.

use std::fmt;

use anyhow::Result;
use bytesize::ByteSize;
use serde::Serialize;

use crate::report::Files;

/// A whole run. Its JSON is what programs read: fields are added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct LazyReport {
    /// What was asked, as on the command line.
    pub command: String,
    /// Settings worth reading beside the figures: name and value with its unit.
    pub settings: Vec<(String, String)>,
    /// What a reader must know to trust the figures.
    pub notes: Vec<String>,
    pub results: Vec<LazyResult>,
}

impl LazyReport {
    /// Writes and prints it.
    pub fn write(&self, files: &Files) -> Result<()> {
        files.write(self, String::new, "")
    }
}

/// One image over one link. Times are seconds from the call of PullImage, middle values of all rounds; bytes likewise.
#[derive(Clone, Debug, Serialize)]
pub struct LazyResult {
    pub image: String,
    pub link: String,
    /// Bytes of content per second that the link carries over plain TCP.
    pub goodput: f64,
    /// Of all layers, as the registry has them.
    pub layer_bytes: u64,
    pub readiness_s: Readiness,
    /// Of layers and their indexes, that reached `shoal fs` before the container was useful; nothing else was fetched.
    pub bytes_before_ready: u64,
    /// What the node's link had carried by then, by the kernel's count.
    pub link_bytes_before_ready: u64,
    pub full_read_s: FullRead,
}

/// Until the container's first line.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Readiness {
    /// containerd pulls from the registry.
    pub a: f64,
    /// containerd pulls through Shoal.
    pub b: f64,
    /// containerd starts from what Shoal shows.
    pub c: f64,
    /// The image is there, and in the page cache: from the container's start.
    pub d: f64,
}

/// Until all files of the image were read.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FullRead {
    pub a: f64,
    pub b: f64,
    pub c: f64,
}

const HEADINGS: [&str; 13] = [
    "IMAGE",
    "LINK",
    "LAYERS",
    "A",
    "B",
    "C",
    "D",
    "A/C",
    "BEFORE READY",
    "LINK",
    "READ A",
    "READ B",
    "READ C",
];

impl fmt::Display for LazyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.settings {
            writeln!(f, "{name:<20} {value}")?;
        }
        writeln!(f)?;
        let headings = HEADINGS.map(str::to_owned);
        let rows: Vec<[String; 13]> = [headings].into_iter().chain(self.results.iter().map(row)).collect();
        let width =
            |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
        for row in &rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = width(column).unwrap_or_default();
                line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            writeln!(f, "\nNOTE: {note}")?;
        }
        Ok(())
    }
}

fn row(result: &LazyResult) -> [String; 13] {
    let seconds = |seconds: f64| format!("{seconds:.2} s");
    let size = |bytes: u64| ByteSize::b(bytes).to_string();
    let (ready, read) = (&result.readiness_s, &result.full_read_s);
    [
        result.image.clone(),
        result.link.clone(),
        size(result.layer_bytes),
        seconds(ready.a),
        seconds(ready.b),
        seconds(ready.c),
        seconds(ready.d),
        format!("{:.2} x", ready.a / ready.c),
        size(result.bytes_before_ready),
        size(result.link_bytes_before_ready),
        seconds(read.a),
        seconds(read.b),
        seconds(read.c),
    ]
}
