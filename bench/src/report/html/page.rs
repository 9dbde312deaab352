//! The page around plots and tables.

use std::fmt::Write as _;

use super::text::{escape, seconds, size};
use super::{bars, completion, figures, traffic};
use crate::report::compare::{Change, Direction};
use crate::report::model::{Kind, Mode, Report};

const STYLE: &str = include_str!("style.css");
/// The mode that the page is about, if it was measured; else the first.
const MAIN: &str = "shoal";
/// What Shoal is compared with first.
const WITHOUT: &str = "direct";

pub(in crate::report) fn page(report: &Report, changes: &[Change]) -> String {
    let kind = match report.kind {
        Kind::Cluster => "Cluster benchmark",
        Kind::Sim => "Simulation",
    };
    let main = report.modes.iter().find(|mode| mode.name == MAIN).or(report.modes.first());
    let (headline, tiles) = main.map(|mode| (headline(mode), tiles(mode, &report.modes))).unwrap_or_default();
    let sections = [
        broken(&report.broken),
        notes(&report.notes),
        comparison(changes),
        section(
            "How long it takes",
            "Until the last node has the image. The upright mark is the bound: the least time that these links allow.",
            &bars::figure(&report.modes),
        ),
        section(
            "Who has it when",
            "The part of the nodes that have the whole image, by time since each was told to pull.",
            &completion::figures(&report.modes),
        ),
        section(
            "Where the bytes came from",
            "What all nodes together had received, counted on their links.",
            &traffic::figures(&report.modes),
        ),
        section("All figures", "", &figures::table(&report.modes)),
        section(
            "What was measured",
            "",
            &settings(&[report.settings.as_slice(), &report.facts].concat(), &report.command),
        ),
        READING.to_owned(),
    ];
    shell(kind, &headline, &tiles, &sections.concat())
}

/// A page around its sections.
pub(crate) fn shell(kind: &str, headline: &str, tiles: &str, sections: &str) -> String {
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><title>Shoal: {kind}</title><style>{STYLE}</style></head>\
         <body><main><header><p class=kind>Shoal · {kind}</p><h1>{headline}</h1>{tiles}</header>{sections}</main>\
         </body></html>\n"
    )
}

const READING: &str = include_str!("reading.html");

fn headline(mode: &Mode) -> String {
    let (nodes, bytes) = (mode.nodes, size(mode.image_bytes));
    match mode.unfinished {
        0 => format!("{nodes} nodes pull a {bytes} image in {}", seconds(mode.last_s)),
        unfinished => format!("{unfinished} of {nodes} nodes never get a {bytes} image"),
    }
}

/// The figures that matter most, large.
fn tiles(mode: &Mode, modes: &[Mode]) -> String {
    let mut tiles = Vec::new();
    if let Some(ratio) = mode.ratio {
        let bound = seconds(mode.bound_s);
        tiles.push((format!("{ratio:.2} ×"), format!("the {bound} that the links allow at best")));
    }
    let without = modes.iter().find(|other| other.name == WITHOUT && other.name != mode.name);
    let whole = |mode: &Mode| mode.last_s > 0.0 && mode.unfinished == 0;
    if let Some(without) = without.filter(|without| whole(without) && whole(mode)) {
        let times = without.last_s / mode.last_s;
        let last = seconds(without.last_s);
        tiles.push((format!("{times:.1} ×"), format!("faster than from the registry, which takes {last}")));
    }
    if mode.image_bytes > 0 {
        let copies = mode.origin_bytes as f64 / mode.image_bytes as f64;
        tiles.push((
            format!("{copies:.2} ×"),
            "the image left the registry, for all nodes together".to_owned(),
        ));
    }
    if let Some(first) = mode.first_byte_last_s {
        tiles.push((seconds(first), "until every client had its first byte of a layer".to_owned()));
    }
    if let Some(cpu) = mode.cpu_s_per_gib {
        tiles.push((format!("{cpu:.1} s"), "of CPU for each GiB delivered, all of Shoal".to_owned()));
    }
    let tile = |(figure, text)| format!("<li><strong>{figure}</strong><span>{text}</span></li>");
    format!("<ul class=tiles>{}</ul>", tiles.into_iter().map(tile).collect::<String>())
}

pub(crate) fn section(title: &str, text: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    let text = if text.is_empty() { String::new() } else { format!("<p>{text}</p>") };
    format!("<section><h2>{title}</h2>{text}{content}</section>")
}

fn broken(broken: &[String]) -> String {
    broken.iter().map(|what| format!("<p class=\"note broken\"><b>Broken</b> {}</p>", escape(what))).collect()
}

pub(crate) fn notes(notes: &[String]) -> String {
    notes.iter().map(|note| format!("<p class=note><b>Note</b> {}</p>", escape(note))).collect()
}

fn comparison(changes: &[Change]) -> String {
    let mut rows = String::new();
    for change in changes {
        let (class, word) = match change.direction {
            Direction::Better => ("better", "better"),
            Direction::Worse => ("worse", "worse"),
            Direction::Unlike => ("unlike", "unlike"),
        };
        let _ = write!(rows, "<li><b class={class}>{word}</b> {}</li>", escape(&change.text));
    }
    let list = if rows.is_empty() { rows } else { format!("<ul class=changes>{rows}</ul>") };
    section("Since the earlier run", "", &list)
}

pub(crate) fn settings(settings: &[(String, String)], command: &str) -> String {
    let mut html = "<dl>".to_owned();
    for (name, value) in settings {
        let _ = write!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    if !command.is_empty() {
        let _ = write!(html, "<dt>command</dt><dd><code>{}</code></dd>", escape(command));
    }
    html + "</dl>"
}
