//! How many nodes have the image, over time.

use std::fmt::Write as _;

use super::axis::Frame;
use super::text::{colour, escape, seconds};
use crate::report::model::Mode;

/// A curve of thousands of nodes is drawn with so many points.
const POINTS: usize = 300;
/// With one mode so many times as slow as another, the fast ones get a plot of their own.
const TOO_WIDE: f64 = 4.0;
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 330.0;

/// The curves of all modes, and where slow modes squeeze the others, of the fast ones again.
pub(super) fn figures(modes: &[Mode]) -> String {
    let slowest = modes.iter().map(|mode| mode.last_s).fold(0.0, f64::max);
    let mut html = plot(modes, slowest);
    let fast = modes.iter().map(|mode| mode.last_s).filter(|last| *last * TOO_WIDE < slowest);
    let fast = fast.fold(0.0, f64::max);
    if fast > 0.0 {
        let _ = write!(html, "<h3>The first {}</h3>{}", seconds(fast * 1.1), plot(modes, fast * 1.1));
    }
    html
}

fn plot(modes: &[Mode], end: f64) -> String {
    let frame = Frame {
        left: 56.0,
        top: 14.0,
        width: WIDTH - 56.0 - 20.0,
        height: HEIGHT - 14.0 - 34.0,
        max_x: end.max(0.001) * 1.02,
        max_y: 100.0,
    };
    let mut svg = frame.axes(" s", 1.0, " %");
    let mut legend = String::new();
    let bound = modes.iter().find(|mode| mode.bound_s > 0.0);
    if let Some(mode) = bound {
        svg += &frame.bound(mode.bound_s, "what the links allow");
    }
    for (place, mode) in modes.iter().enumerate() {
        let (class, name) = (colour(&mode.name, place), escape(&mode.name));
        let _ = write!(
            svg,
            "<path class=\"curve {class}\" d=\"{}\"><title>{name}: half of the nodes after {}, the last after {}\
             </title></path>",
            curve(&frame, &mode.finish_s),
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

/// A step at each node's time.
fn curve(frame: &Frame, ascending: &[f64]) -> String {
    let mut path = format!("M{:.1} {:.1}", frame.left, frame.bottom());
    let every = ascending.len().div_ceil(POINTS).max(1);
    let last = ascending.len().saturating_sub(1);
    for (place, at) in ascending.iter().enumerate() {
        if (place + 1) % every != 0 && place != last {
            continue;
        }
        let percent = (place + 1) as f64 / ascending.len() as f64 * 100.0;
        if *at > frame.max_x {
            break;
        }
        let _ = write!(path, "H{:.1}V{:.1}", frame.x(*at), frame.y(percent));
    }
    // The last value stays; a curve that goes on beyond this plot stays where it is at its end.
    let _ = write!(path, "H{:.1}", frame.right());
    path
}
