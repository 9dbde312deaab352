//! The last node's time beside the bound, one bar per mode.

use std::fmt::Write as _;

use super::text::{colour, escape, seconds};
use crate::report::model::Mode;

const WIDTH: f64 = 960.0;
const ROW: f64 = 38.0;
const LEFT: f64 = 150.0;
/// For the words behind the longest bar.
const RIGHT: f64 = 230.0;

pub(super) fn figure(modes: &[Mode]) -> String {
    let longest = modes.iter().map(|mode| mode.last_s.max(mode.bound_s)).fold(0.001, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let mut svg = String::new();
    for (place, mode) in modes.iter().enumerate() {
        let (top, length) = (place as f64 * ROW + 6.0, (mode.last_s * scale).max(2.0));
        let (class, name) = (colour(&mode.name, place), escape(&mode.name));
        let middle = top + 18.0;
        let ratio = match mode.ratio {
            _ if mode.unfinished > 0 => format!("{} of {} unfinished", mode.unfinished, mode.nodes),
            Some(ratio) => format!("<tspan class=strong>{ratio:.2} ×</tspan> the bound"),
            None if mode.bound_s > 0.0 => "no ratio claimed".to_owned(),
            None => "nothing to fetch".to_owned(),
        };
        let _ = write!(
            svg,
            "<text class=name x={:.1} y={middle:.1} text-anchor=end>{name}</text>\
             <rect class=\"bar {class}\" x={LEFT} y={top:.1} width={length:.1} height=26 rx=3 />\
             <text class=value x={:.1} y={middle:.1}>{} · {ratio}</text>",
            LEFT - 12.0,
            LEFT + length + 10.0,
            seconds(mode.last_s)
        );
        if mode.bound_s > 0.0 {
            let x = LEFT + mode.bound_s * scale;
            let _ = write!(
                svg,
                "<line class=mark x1={x:.1} x2={x:.1} y1={:.1} y2={:.1}><title>bound: {}</title></line>",
                top - 4.0,
                top + 30.0,
                seconds(mode.bound_s)
            );
        }
    }
    let height = modes.len() as f64 * ROW + 6.0;
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=img aria-label=\"The last node's time in each mode, beside the \
         bound\">{svg}</svg>"
    )
}
