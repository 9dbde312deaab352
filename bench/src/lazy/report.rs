//! What a run found: its JSON, and the same as text.

use std::fmt;

use anyhow::Result;
use bytesize::ByteSize;
use serde::Serialize;

use super::page;
use crate::rate::Rate;
use crate::report::{Files, write_table};

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
        files.write(self, || page::page(self), "")
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
    /// Of all layers' indexes.
    pub index_bytes: u64,
    pub readiness_s: Readiness,
    /// What (c) may take: 1.5 times (d), half a second, and what it takes to move and to decode the touched spans.
    pub readiness_limit_s: f64,
    /// Of layers and their indexes, that reached `shoal fs` before the container was useful; nothing else was fetched.
    pub bytes_before_ready: u64,
    /// What the node's link had carried by then, by the kernel's count.
    pub link_bytes_before_ready: u64,
    /// Compressed length of the spans that hold the pages which the container touched where nothing of Shoal's was.
    pub bytes_touched: u64,
    /// To decode and check those, on one processor.
    pub inflate_touched_s: f64,
    pub full_read_s: FullRead,
    /// How the image that was shown lazily differs from the one that containerd unpacked: the first few.
    pub differences: Vec<String>,
    pub aims: Vec<Aim>,
}

/// Something that should hold.
#[derive(Clone, Debug, Serialize)]
pub struct Aim {
    pub name: &'static str,
    pub met: bool,
    pub figure: f64,
    /// The figure is to be no more than this; no less where the name says so.
    pub bound: f64,
}

/// (c) is to be so much sooner than (a), over this link, for images above this size.
const SOONER: (f64, u64, u64) = (1.8, 100_000_000, 60 << 20);
const FULL_READ: f64 = 1.10;
const BYTES: f64 = 1.3;

/// What should hold of a result.
pub(super) fn aims(result: &LazyResult, link: Rate) -> Vec<Aim> {
    let (ready, read) = (&result.readiness_s, &result.full_read_s);
    let at_most = |name, figure: f64, bound: f64| Aim { name, met: figure <= bound, figure, bound };
    let mut aims = vec![
        at_most("readiness of c within its limit", ready.c, result.readiness_limit_s),
        at_most("c is never later than b", ready.c, ready.b),
        at_most("full read of c, in those of b", read.c / read.b, FULL_READ),
        at_most(
            "bytes before readiness, in those touched",
            result.bytes_before_ready as f64 / result.bytes_touched as f64,
            BYTES,
        ),
        at_most("names that differ from what containerd unpacks", result.differences.len() as f64, 0.0),
    ];
    let (bound, rate, size) = SOONER;
    if link.bits_per_second() == rate && result.layer_bytes > size {
        let figure = ready.a / ready.c;
        aims.push(Aim { name: "c is sooner than a, at least", met: figure >= bound, figure, bound });
    }
    aims
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

const COLUMNS: usize = 15;
const HEADINGS: [&str; COLUMNS] = [
    "IMAGE",
    "LINK",
    "LAYERS",
    "A",
    "B",
    "C",
    "LIMIT",
    "D",
    "A/C",
    "BEFORE READY",
    "TOUCHED",
    "LINK",
    "READ A",
    "READ B",
    "READ C",
];

impl fmt::Display for LazyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = HEADINGS.map(str::to_owned);
        let rows: Vec<_> = [headings].into_iter().chain(self.results.iter().map(row)).collect();
        write_table(f, &self.settings, &rows)?;
        writeln!(f)?;
        for result in &self.results {
            let at = format!("{}, {}", result.image, result.link);
            for Aim { name, met, figure, bound } in &result.aims {
                let verdict = if *met { "met   " } else { "MISSED" };
                writeln!(f, "{verdict}  {at}: {name}: {figure:.2} ({bound:.2})")?;
            }
            for difference in &result.differences {
                writeln!(f, "        {at}: {difference}")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "\nNOTE: {note}")?;
        }
        Ok(())
    }
}

fn row(result: &LazyResult) -> [String; COLUMNS] {
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
        seconds(result.readiness_limit_s),
        seconds(ready.d),
        format!("{:.2} x", ready.a / ready.c),
        size(result.bytes_before_ready),
        size(result.bytes_touched),
        size(result.link_bytes_before_ready),
        seconds(read.a),
        seconds(read.b),
        seconds(read.c),
    ]
}
