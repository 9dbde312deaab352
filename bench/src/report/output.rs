//! Where a report goes.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::compare::{Change, compare};
use super::html;
use super::model::Report;
use crate::UsageError;

/// Where a report goes beside, or in place of, the terminal.
#[derive(Clone, Debug, Args)]
pub struct Files {
    /// Write JSON to this file; - for standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one self-contained HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct OutputArguments {
    #[command(flatten)]
    files: Files,
    /// Compare with the JSON of an earlier run of the same settings; the exit code is 1 if something became worse
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
}

/// The same, checked before a long run rather than after it.
#[derive(Debug)]
pub struct Output {
    files: Files,
    earlier: Option<Report>,
}

impl Files {
    /// To be called before a long run rather than after it.
    pub fn check(&self) -> Result<(), UsageError> {
        for file in self.json.iter().chain(&self.html).filter(|file| !is_stdout(file)) {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            if !folder.is_dir() {
                return Err(UsageError(format!("{}: {} is no folder", file.display(), folder.display())));
            }
        }
        Ok(())
    }

    /// Writes and prints a report; `remarks` follow its table.
    pub(crate) fn write<R: Serialize + Display>(
        &self,
        report: &R,
        page: impl FnOnce() -> String,
        remarks: &str,
    ) -> Result<()> {
        let json = || serde_json::to_string_pretty(report).context("cannot write JSON");
        match &self.json {
            Some(file) if is_stdout(file) => println!("{}", json()?),
            Some(file) => write(file, &(json()? + "\n"))?,
            None => {}
        }
        if let Some(file) = &self.html {
            write(file, &page())?;
        }
        if self.json.as_deref().is_some_and(is_stdout) {
            eprint!("{remarks}");
        } else {
            print!("{report}");
            if !remarks.is_empty() {
                print!("\n{remarks}");
            }
        }
        Ok(())
    }
}

impl OutputArguments {
    pub fn check(self) -> Result<Output, UsageError> {
        self.files.check()?;
        let earlier = self.compare.as_deref().map(read).transpose();
        let earlier = earlier.map_err(|error| UsageError(format!("{error:#}")))?;
        Ok(Output { files: self.files, earlier })
    }
}

impl Output {
    /// Writes and prints the report; whether the run is sound and nothing became worse.
    pub fn write(&self, report: &Report) -> Result<bool> {
        let changes = self.earlier.as_ref().map(|earlier| compare(earlier, report));
        let nothing_new = changes.as_ref().is_some_and(Vec::is_empty);
        let changes = changes.unwrap_or_default();
        let mut remarks = changes.iter().map(|change| format!("{change}\n")).collect::<String>();
        if nothing_new {
            remarks += "nothing differs from the earlier run by more than noise\n";
        }
        self.files.write(report, || html::page(report, &changes), &remarks)?;
        if self.files.json.as_deref().is_some_and(is_stdout) {
            // Without the table, which tells it too.
            report.broken.iter().for_each(|what| eprintln!("BROKEN: {what}"));
        }
        Ok(report.is_sound() && !changes.iter().any(Change::is_worse))
    }
}

fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}

fn read(file: &Path) -> Result<Report> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a report", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
