//! What is shown while it runs; nothing where standard error is no terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const REDRAW: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bars: MultiProgress,
}

impl Progress {
    pub(crate) fn on_terminal() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target) }
    }

    /// A step whose length nobody knows; it is gone once finished.
    pub(crate) fn step(&self, text: String) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner()).with_message(text);
        bar.enable_steady_tick(REDRAW);
        bar
    }

    /// A mode in which all nodes together will receive so many bytes.
    pub(crate) fn mode(&self, name: &str, bytes: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{prefix:<16} {bar:32} {bytes:>11} / {total_bytes:<11} {elapsed:>4} {msg}",
        );
        let bar = ProgressBar::new(bytes).with_prefix(name.to_owned());
        // The template is fixed; were it wrong, the default style would show.
        let bar = match style {
            Ok(style) => bar.with_style(style.progress_chars("━╸ ")),
            Err(_) => bar,
        };
        self.bars.add(bar)
    }
}
