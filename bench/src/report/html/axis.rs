//! Axes of the plots.

use std::fmt::Write as _;

/// Where a plot's lines are drawn within its picture, in the units of its viewBox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    /// The largest value at the right and at the top.
    pub max_x: f64,
    pub max_y: f64,
}

/// What is so many times smaller than something else would be squeezed beside it, and has a scale of its own.
pub(super) const TOO_WIDE: f64 = 4.0;

/// About so many lines help to read a value.
const TICKS: f64 = 5.0;

/// Round values from 0 to `max`.
pub(super) fn ticks(max: f64) -> Vec<f64> {
    if max <= 0.0 || !max.is_finite() {
        return vec![0.0];
    }
    let rough = max / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    // Rounding must not cost the last one.
    (0..=10).map(|n| f64::from(n) * step).take_while(|value| *value <= max * (1.0 + 1e-9)).collect()
}

impl Frame {
    pub(super) fn x(&self, value: f64) -> f64 {
        self.left + (value / self.max_x.max(f64::MIN_POSITIVE)).min(1.0) * self.width
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.top + self.height - (value / self.max_y.max(f64::MIN_POSITIVE)).min(1.0) * self.height
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }

    /// Lines and labels; values of the vertical axis are `unit_y` each.
    pub(super) fn axes(&self, unit_x: &str, unit_y: f64, label_y: &str) -> String {
        let mut svg = String::new();
        for value in ticks(self.max_y / unit_y) {
            let y = self.y(value * unit_y);
            let (left, right) = (self.left, self.right());
            let _ = write!(
                svg,
                "<line class=grid x1={left:.1} x2={right:.1} y1={y:.1} y2={y:.1} />\
                 <text class=tick x={:.1} y={:.1} text-anchor=end>{}{label_y}</text>",
                left - 8.0,
                y + 4.0,
                plain(value)
            );
        }
        for value in ticks(self.max_x) {
            let x = self.x(value);
            let _ = write!(
                svg,
                "<text class=tick x={x:.1} y={:.1} text-anchor=middle>{}{unit_x}</text>",
                self.bottom() + 20.0,
                plain(value)
            );
        }
        let bottom = self.bottom();
        let _ = write!(
            svg,
            "<line class=base x1={:.1} x2={:.1} y1={bottom:.1} y2={bottom:.1} />",
            self.left,
            self.right()
        );
        svg
    }

    /// A dashed line, with its label above the plot.
    pub(super) fn bound(&self, at: f64, label: &str) -> String {
        let x = self.x(at);
        let anchor = if x > self.left + self.width / 2.0 { "end" } else { "start" };
        format!(
            "<line class=bound x1={x:.1} x2={x:.1} y1={:.1} y2={:.1} />\
             <text class=bound-label x={x:.1} y={:.1} text-anchor={anchor}>{label}</text>",
            self.top - 4.0,
            self.bottom(),
            self.top - 9.0
        )
    }
}

/// A number without zeros that say nothing.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The largest binary unit that keeps `bytes` at 1 or more: its length and name.
pub(super) fn byte_unit(bytes: f64) -> (f64, &'static str) {
    let units = [(30, " GiB"), (20, " MiB"), (10, " KiB")];
    let found = units.into_iter().map(|(bits, name)| (f64::from(1u32 << bits), name));
    found.into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1.0, " B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(28.0), [0.0, 10.0, 20.0]);
        assert_eq!(ticks(1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(0.0), [0.0]);
        assert_eq!(ticks(f64::NAN), [0.0]);
        assert_eq!([0.6000000000000001, 20.0, 2.5].map(plain), ["0.6", "20", "2.5"]);
    }
}
