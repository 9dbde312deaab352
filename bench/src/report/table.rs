//! The report as text.

use std::fmt;

use bytesize::ByteSize;

use super::html::seconds;
use super::model::{Mode, Report};

const HEADINGS: [&str; 13] = [
    "MODE",
    "NODES",
    "LAST",
    "P50",
    "P99",
    "BOUND",
    "RATIO",
    "FIRST BYTE",
    "ORIGIN",
    "GETS",
    "BETWEEN ZONES",
    "CPU/GIB",
    "BUSY",
];
/// What stands where nothing was measured or may be claimed.
const NONE: &str = "–";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = HEADINGS.map(str::to_owned);
        let rows: Vec<_> = [headings].into_iter().chain(self.modes.iter().map(row)).collect();
        write_table(f, &[self.settings.as_slice(), &self.facts].concat(), &rows)?;
        for what in &self.broken {
            writeln!(f, "\nBROKEN: {what}")?;
        }
        for note in &self.notes {
            writeln!(f, "\nNOTE: {note}")?;
        }
        Ok(())
    }
}

/// Names and values, then columns that are as wide as what stands in them.
pub(crate) fn write_table<const COLUMNS: usize>(
    f: &mut fmt::Formatter<'_>,
    settings: &[(String, String)],
    rows: &[[String; COLUMNS]],
) -> fmt::Result {
    let widest = settings.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in settings {
        writeln!(f, "{name:<widest$}  {value}")?;
    }
    writeln!(f)?;
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or_default();
            line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn row(mode: &Mode) -> [String; 13] {
    // Who was given up may have needed any longer time.
    let time = |time: f64| {
        let more = if mode.unfinished > 0 && time >= mode.last_s { "> " } else { "" };
        format!("{more}{}", seconds(time))
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    [
        mode.name.clone(),
        match mode.unfinished {
            0 => mode.nodes.to_string(),
            unfinished => format!("{} ({unfinished} unfinished)", mode.nodes),
        },
        time(mode.last_s),
        time(mode.p50_s),
        time(mode.p99_s),
        seconds(mode.bound_s),
        or_none(mode.ratio.map(|ratio| format!("{ratio:.2} x"))),
        or_none(mode.first_byte_last_s.map(seconds)),
        ByteSize::b(mode.origin_bytes).to_string(),
        mode.origin_gets.to_string(),
        ByteSize::b(mode.cross_zone_bytes).to_string(),
        or_none(mode.cpu_s_per_gib.map(|cpu| format!("{cpu:.1} s"))),
        or_none(mode.busy.map(|busy| format!("{:.0} %", busy * 100.0))),
    ]
}
