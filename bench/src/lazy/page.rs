//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use super::report::{LazyReport, LazyResult};
use crate::report::html::{escape, notes, seconds, section, settings, shell, size};

const WIDTH: f64 = 960.0;
const ROW: f64 = 30.0;
const LEFT: f64 = 190.0;
/// For the words behind the longest bar.
const RIGHT: f64 = 90.0;

/// A bar: its name, its colour's class, and its length.
type Bar = (&'static str, &'static str, f64);

pub(super) fn page(report: &LazyReport) -> String {
    let ready = |result: &LazyResult| {
        let ready = &result.readiness_s;
        let bars = [
            ("from the registry", "c-direct", ready.a),
            ("through Shoal, whole", "c-cache", ready.b),
            ("lazily", "c0", ready.c),
            ("it was there", "c1", ready.d),
        ];
        figure(result, &bars, Some(result.readiness_limit_s))
    };
    let read = |result: &LazyResult| {
        let read = &result.full_read_s;
        let bars = [
            ("from the registry", "c-direct", read.a),
            ("through Shoal, whole", "c-cache", read.b),
            ("lazily", "c0", read.c),
        ];
        figure(result, &bars, None)
    };
    let all = |figure: &dyn Fn(&LazyResult) -> String| report.results.iter().map(figure).collect::<String>();
    let sections = [
        notes(&report.notes),
        section(
            "Until a container is useful",
            "From the pull to the container's first line. The upright mark is the limit for a lazy start: one and a \
             half times the start of an image that is there, half a second, and what it takes to move and decode the \
             parts that the container touches.",
            &all(&ready),
        ),
        section("Until every file of the image was read", "From the pull, by one reader.", &all(&read)),
        section("All figures", "", &table(&report.results)),
        section("What should hold", "", &aims(&report.results)),
        section("What was measured", "", &settings(&report.settings, &report.command)),
    ];
    shell("Lazy start benchmark", &headline(&report.results), "", &sections.concat())
}

fn headline(results: &[LazyResult]) -> String {
    let sooner = |result: &&LazyResult| result.readiness_s.a / result.readiness_s.c;
    let best = results.iter().max_by(|a, b| sooner(a).total_cmp(&sooner(b)));
    best.map_or_else(String::new, |best| {
        let (c, a) = (seconds(best.readiness_s.c), seconds(best.readiness_s.a));
        format!("{} is useful after {c} instead of {a}", escape(&best.image))
    })
}

fn figure(result: &LazyResult, bars: &[Bar], limit: Option<f64>) -> String {
    let longest = bars.iter().map(|(_, _, length)| *length).chain(limit).fold(0.001, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let mut svg = String::new();
    for (place, (name, class, length)) in bars.iter().enumerate() {
        let top = place as f64 * ROW + 4.0;
        let (middle, drawn) = (top + 15.0, (length * scale).max(2.0));
        let limit = limit.map(|limit| (limit, LEFT + limit * scale)).filter(|_| *name == "lazily");
        let ends = limit.map_or(0.0, |(_, mark)| mark).max(LEFT + drawn);
        let _ = write!(
            svg,
            "<text class=name x={:.1} y={middle:.1} text-anchor=end>{name}</text>\
             <rect class=\"bar {class}\" x={LEFT} y={top:.1} width={drawn:.1} height=20 rx=3 />\
             <text class=value x={:.1} y={middle:.1}>{}</text>",
            LEFT - 12.0,
            ends + 10.0,
            seconds(*length)
        );
        if let Some((limit, x)) = limit {
            let _ = write!(
                svg,
                "<line class=mark x1={x:.1} x2={x:.1} y1={:.1} y2={:.1}><title>limit: {}</title></line>",
                top - 3.0,
                top + 23.0,
                seconds(limit)
            );
        }
    }
    let (height, image, link) = (bars.len() as f64 * ROW + 6.0, escape(&result.image), escape(&result.link));
    format!(
        "<h3>{image}, {}, over {link}</h3><svg viewBox=\"0 0 {WIDTH} {height}\" role=img \
         aria-label=\"Seconds of each way: {image} over {link}\">{svg}</svg>",
        size(result.layer_bytes)
    )
}

fn table(results: &[LazyResult]) -> String {
    type Column = (&'static str, fn(&LazyResult) -> String);
    const COLUMNS: [Column; 13] = [
        ("layers", |result| size(result.layer_bytes)),
        ("their indexes", |result| size(result.index_bytes)),
        ("from the registry", |result| seconds(result.readiness_s.a)),
        ("through Shoal, whole", |result| seconds(result.readiness_s.b)),
        ("lazily", |result| seconds(result.readiness_s.c)),
        ("limit for that", |result| seconds(result.readiness_limit_s)),
        ("it was there", |result| seconds(result.readiness_s.d)),
        ("bytes before ready", |result| size(result.bytes_before_ready)),
        ("on the link", |result| size(result.link_bytes_before_ready)),
        ("touched natively", |result| size(result.bytes_touched)),
        ("all read, from the registry", |result| seconds(result.full_read_s.a)),
        ("all read, through Shoal", |result| seconds(result.full_read_s.b)),
        ("all read, lazily", |result| seconds(result.full_read_s.c)),
    ];
    let mut html = "<div class=scroll><table><thead><tr><th></th>".to_owned();
    for result in results {
        let _ = write!(html, "<th>{}, {}</th>", escape(&result.image), escape(&result.link));
    }
    html += "</tr></thead><tbody>";
    for (heading, cell) in COLUMNS {
        let _ = write!(html, "<tr><th>{heading}</th>");
        for result in results {
            let _ = write!(html, "<td>{}</td>", cell(result));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

fn aims(results: &[LazyResult]) -> String {
    let mut html = "<ul class=changes>".to_owned();
    for result in results {
        for aim in &result.aims {
            let (class, word) = if aim.met { ("better", "met") } else { ("worse", "missed") };
            let _ = write!(
                html,
                "<li><b class={class}>{word}</b> {}, {}: {}: {:.2} ({:.2})</li>",
                escape(&result.image),
                escape(&result.link),
                aim.name,
                aim.figure,
                aim.bound
            );
        }
    }
    html + "</ul>"
}
