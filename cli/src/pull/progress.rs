//! A progress bar per blob, on a terminal; nothing elsewhere.

use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bars of one pull.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bars: MultiProgress,
}

impl Progress {
    pub(crate) fn hidden() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()) }
    }

    /// Visible if standard error is a terminal.
    pub(crate) fn on_terminal() -> Self {
        if std::io::stderr().is_terminal() { Self { bars: MultiProgress::new() } } else { Self::hidden() }
    }

    /// A bar for a blob of so many bytes.
    pub(crate) fn bar(&self, name: String, bytes: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{prefix:<20} {bar:30} {bytes:>10} / {total_bytes:<10} {bytes_per_sec:>12} {msg}",
        );
        let bar = ProgressBar::new(bytes).with_prefix(name);
        // The template is fixed; were it wrong, the default style would show.
        let bar = match style {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        };
        self.bars.add(bar)
    }
}
