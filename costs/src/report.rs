//! What was measured, beside what is aimed at.

use std::fmt;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    Below(f64),
    AtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    section: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// All figures of a run, in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    section: &'static str,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(bound) => write!(f, "< {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

impl Aim {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::Below(bound) => value < bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl Report {
    /// What follows belongs to this section.
    pub(crate) fn section(&mut self, section: &'static str) {
        self.section = section;
        progress(section);
    }

    pub(crate) fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.push(what.into(), value, unit, None);
    }

    pub(crate) fn add_aimed(&mut self, what: impl Into<String>, value: f64, unit: &'static str, aim: Aim) {
        self.push(what.into(), value, unit, Some(aim));
    }

    fn push(&mut self, what: String, value: f64, unit: &'static str, aim: Option<Aim>) {
        progress(&format!("  {what}: {value:.3} {unit}"));
        let met = aim.map(|aim| aim.is_met(value));
        self.figures.push(Figure { section: self.section, what, value, unit, aim, met });
    }

    pub(crate) fn print_json(&self) -> Result<()> {
        println!("{}", serde_json::to_string_pretty(&self.figures)?);
        Ok(())
    }

    pub(crate) fn print_table(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        let mut section = "";
        for figure in &self.figures {
            if figure.section != section {
                section = figure.section;
                writeln!(out, "\n{section}")?;
            }
            let aim = figure.aim.map(|aim| aim.to_string()).unwrap_or_default();
            let verdict = match figure.met {
                Some(true) => "ok",
                Some(false) => "MISSED",
                None => "",
            };
            let Figure { what, value, unit, .. } = figure;
            writeln!(out, "  {what:width$}  {value:>10.3} {unit:<12} {aim:<8} {verdict}")?;
        }
        Ok(())
    }
}

/// Says on a terminal how far the run is.
pub(crate) fn progress(text: &str) {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("{text}");
    }
}
