//! Where bytes came from, over time: one small plot per mode.

use std::fmt::Write as _;

use super::axis::{Frame, TOO_WIDE, byte_unit};
use super::text::{escape, size};
use crate::report::model::{Mode, Sample};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 220.0;
const POINTS: usize = 200;
/// The part of all bytes below which they are what any network says to itself.
const WORTH_TELLING: f64 = 0.001;

pub(super) fn figures(modes: &[Mode]) -> String {
    let measured: Vec<&Mode> = modes.iter().filter(|mode| mode.traffic.len() > 1).collect();
    if measured.is_empty() {
        return String::new();
    }
    let ends: Vec<Sample> = measured.iter().map(|mode| end(mode)).collect();
    let (times, totals): (Vec<f64>, Vec<f64>) = ends.iter().map(|end| (end.at_s, total(end))).unzip();
    let scales = |end: &Sample| (shared_scale(&times, end.at_s), shared_scale(&totals, total(end)));
    let plots: String = measured.iter().zip(&ends).map(|(mode, end)| plot(mode, scales(end))).collect();
    let zones = modes.iter().any(|mode| mode.cross_zone_bytes > 0);
    let zones = if zones { "<li class=zones>of these, crossing zones</li>" } else { "" };
    format!(
        "<ul class=legend><li class=origin>from the origin</li><li class=peers>from nodes, or the cache</li>{zones}\
         </ul><div class=grid2>{plots}</div>"
    )
}

fn end(mode: &Mode) -> Sample {
    mode.traffic.last().copied().unwrap_or_default()
}

fn total(sample: &Sample) -> f64 {
    (sample.origin_bytes + sample.peer_bytes) as f64
}

/// How far an axis reaches on which `own` ends, so that plots side by side can be compared: as far as the largest of
/// all, or of the small ones if `own` is one of them.
fn shared_scale(all: &[f64], own: f64) -> f64 {
    let most = all.iter().copied().fold(0.0, f64::max);
    let is_small = |value: f64| value * TOO_WIDE < most;
    all.iter().copied().filter(|value| is_small(*value) == is_small(own)).fold(0.0, f64::max)
}

/// `to_s` and `to_bytes` are where its axes end.
fn plot(mode: &Mode, (to_s, to_bytes): (f64, f64)) -> String {
    let end = end(mode);
    let (unit, name) = byte_unit(to_bytes);
    let frame = Frame {
        left: 70.0,
        top: 10.0,
        width: WIDTH - 70.0 - 14.0,
        height: HEIGHT - 10.0 - 32.0,
        max_x: to_s.max(0.001),
        max_y: to_bytes.max(1.0) * 1.05,
    };
    let mut svg = frame.axes(" s", unit, name);
    let samples = thinned(&mode.traffic);
    let origin = |sample: &Sample| sample.origin_bytes as f64;
    let nothing = |_: &Sample| 0.0;
    let _ = write!(
        svg,
        "<path class=\"area origin\" d=\"{}\" /><path class=\"area peers\" d=\"{}\" />",
        area(&frame, &samples, nothing, origin),
        area(&frame, &samples, origin, total)
    );
    if mode.cross_zone_bytes > 0 {
        let crossed = samples.iter().map(|s| (s.at_s, s.cross_zone_bytes as f64));
        let points: Vec<String> =
            crossed.map(|(x, y)| format!("{:.1} {:.1}", frame.x(x), frame.y(y))).collect();
        let _ = write!(svg, "<path class=\"curve zones\" d=\"M{}\" />", points.join("L"));
    }
    let title = escape(&mode.name);
    let mut sources = format!("{} from the origin", size(end.origin_bytes));
    if end.peer_bytes as f64 > total(&end) * WORTH_TELLING {
        let _ = write!(sources, ", {} from elsewhere", size(end.peer_bytes));
    }
    format!(
        "<figure><figcaption><b>{title}</b> {sources}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"Bytes by source over time: {title}\">{svg}</svg>\
         </figure>"
    )
}

fn thinned(samples: &[Sample]) -> Vec<Sample> {
    let every = samples.len().div_ceil(POINTS).max(1);
    let last = samples.len().saturating_sub(1);
    let kept = samples.iter().enumerate().filter(|(place, _)| place % every == 0 || *place == last);
    kept.map(|(_, sample)| *sample).collect()
}

/// The area between two curves.
fn area(
    frame: &Frame,
    samples: &[Sample],
    low: impl Fn(&Sample) -> f64,
    high: impl Fn(&Sample) -> f64,
) -> String {
    let point = |sample: &Sample, value: f64| format!("{:.1} {:.1}", frame.x(sample.at_s), frame.y(value));
    let there = samples.iter().map(|sample| point(sample, high(sample)));
    let back = samples.iter().rev().map(|sample| point(sample, low(sample)));
    format!("M{}Z", there.chain(back).collect::<Vec<_>>().join("L"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_share_a_scale_unless_one_would_be_squeezed() {
        let times = [31.0, 3.1, 2.0, 12.0];
        assert_eq!(times.map(|own| shared_scale(&times, own)), [31.0, 3.1, 3.1, 31.0]);
        assert_eq!(shared_scale(&[0.0], 0.0), 0.0);
    }
}
