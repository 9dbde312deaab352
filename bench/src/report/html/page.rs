//! The page around plots and tables.

use std::fmt::Write as _;

use shoal_swarm::hold::HOLD;

use super::text::{escape, seconds, size};
use super::{bars, completion, figures, traffic};
use crate::report::compare::{Change, Direction};
use crate::report::model::{Kind, Mode, Report};

const STYLE: &str = include_str!("style.css");
/// The mode that the page is about, if it was measured; else the first.
const MAIN: &str = "shoal";
/// What Shoal is compared with first.
const WITHOUT: &str = "direct";
/// The other mode without Shoal.
const CACHE: &str = "cache";

pub(in crate::report) fn page(report: &Report, changes: &[Change]) -> String {
    let (kind, reading) = match report.kind {
        Kind::Cluster => ("Cluster benchmark", READING),
        Kind::Sim => ("Simulation", READING_SIMULATED),
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
            "What the origin had sent, and what all nodes together had from each other, or from the cache. Plots whose \
             modes took about as long have the same scales.",
            &traffic::figures(&report.modes),
        ),
        section("All figures", "", &figures::table(&report.modes)),
        section(
            "What was measured",
            "",
            &settings(&[report.settings.as_slice(), &report.facts].concat(), &report.command),
        ),
        reading.to_owned(),
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
const READING_SIMULATED: &str = include_str!("reading_simulated.html");

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
    // A time that measured the processors is no measure of how much faster.
    let claimed = |mode: &Mode| mode.last_s > 0.0 && mode.ratio.is_some();
    if let Some(without) = without.filter(|without| claimed(without) && claimed(mode)) {
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
        let is_shoal = ![WITHOUT, CACHE].contains(&mode.name.as_str());
        let held = is_shoal && mode.last_s < HOLD.as_secs_f64();
        let short =
            if held { ": a layer this short comes when it is whole and its digest matched" } else { "" };
        tiles.push((seconds(first), format!("until every client had its first byte of a layer{short}")));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(shoal: Mode) -> Report {
        let direct = Mode { name: WITHOUT.to_owned(), ..Mode::timed(10.0, vec![40.0], 0, 60.0) };
        Report {
            kind: Kind::Cluster,
            command: String::new(),
            settings: Vec::new(),
            facts: Vec::new(),
            notes: Vec::new(),
            broken: Vec::new(),
            modes: vec![direct, Mode { name: MAIN.to_owned(), image_bytes: 1 << 20, ..shoal }],
        }
    }

    #[test]
    fn no_ratio_is_claimed_of_a_mode_that_has_none() {
        let shoal = Mode::timed(10.0, vec![20.0], 0, 60.0);
        let html = page(&report(shoal.clone()), &[]);
        assert!(html.contains("2.0 ×") && html.contains("faster than from the registry"));
        let html = page(&report(Mode { ratio: None, ..shoal }), &[]);
        assert!(html.contains("no ratio claimed") && !html.contains("faster than from the registry"));
    }

    #[test]
    fn nodes_that_never_finish_are_the_headline() {
        let unfinished = report(Mode::timed(10.0, vec![20.0], 2, 60.0));
        let html = page(&Report { broken: vec!["<why>".to_owned()], ..unfinished }, &[]);
        assert!(html.contains("<h1>2 of 3 nodes never get a 1.0 MiB image</h1>"), "{html}");
        assert!(html.contains("2 of 3 unfinished") && html.contains("&lt;why&gt;"), "{html}");
    }
}
