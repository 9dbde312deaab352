//! How many nodes have the image, over time.

use std::fmt::Write as _;

use super::axis::{Frame, TOO_WIDE};
use super::text::{colour, escape, seconds};
use crate::report::model::Mode;

/// A curve of thousands of nodes is drawn with so many points.
const POINTS: usize = 300;
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 330.0;

/// The curves of all modes, and of the fast ones again where slow ones squeeze them.
pub(super) fn figures(modes: &[Mode]) -> String {
    let all: Vec<(usize, &Mode)> = modes.iter().enumerate().collect();
    let slowest = modes.iter().map(|mode| mode.last_s).fold(0.0, f64::max);
    let fast: Vec<_> = all.iter().copied().filter(|(_, mode)| mode.last_s * TOO_WIDE < slowest).collect();
    let again =
        if fast.is_empty() { String::new() } else { format!("<h3>The fast ones</h3>{}", plot(&fast)) };
    plot(&all) + &again
}

fn plot(modes: &[(usize, &Mode)]) -> String {
    let end = modes.iter().map(|(_, mode)| mode.last_s.max(mode.bound_s)).fold(0.001, f64::max);
    let frame = Frame {
        left: 56.0,
        top: 24.0,
        width: WIDTH - 56.0 - 20.0,
        height: HEIGHT - 24.0 - 34.0,
        max_x: end * 1.02,
        max_y: 100.0,
    };
    let mut svg = frame.axes(" s", 1.0, " %");
    let mut legend = String::new();
    let bound = modes.iter().map(|(_, mode)| mode.bound_s).fold(0.0, f64::max);
    if bound > 0.0 {
        svg += &frame.bound(bound, "what the links allow");
    }
    for (place, mode) in modes {
        let (class, name) = (colour(&mode.name, *place), escape(&mode.name));
        let _ = write!(
            svg,
            "<path class=\"curve {class}\" d=\"{}\"><title>{name}: half of the nodes after {}, the last after {}\
             </title></path>",
            curve(&frame, &mode.finish_s, mode.nodes),
            seconds(mode.p50_s),
            seconds(mode.last_s)
        );
        let _ = write!(legend, "<li class={class}>{name}</li>");
    }
    format!(
        "<ul class=legend>{legend}</ul>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"Nodes that have the image, over time\">{svg}</svg>"
    )
}

/// A step at each node's time, of so many nodes.
fn curve(frame: &Frame, ascending: &[f64], nodes: usize) -> String {
    let mut path = format!("M{:.1} {:.1}", frame.left, frame.bottom());
    let every = ascending.len().div_ceil(POINTS).max(1);
    let last = ascending.len().saturating_sub(1);
    for (place, at) in ascending.iter().enumerate() {
        if (place + 1) % every != 0 && place != last {
            continue;
        }
        let percent = (place + 1) as f64 / nodes as f64 * 100.0;
        let _ = write!(path, "H{:.1}V{:.1}", frame.x(*at), frame.y(percent));
    }
    // All nodes keep it.
    let _ = write!(path, "H{:.1}", frame.right());
    path
}
