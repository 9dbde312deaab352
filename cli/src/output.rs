//! What commands print.

use std::io::{ErrorKind, Write};

/// Prints a text and a newline. A reader that went away (`shoal status | head`) wants no more, which is no failure.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// An error and its reasons, each said once: many errors repeat their source in their own words.
pub(crate) fn reasons(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for reason in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = reason;
        } else if !text.contains(reason.trim_end()) {
            text = format!("{text}: {reason}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once() {
        let error =
            anyhow::anyhow!("no such file").context("cannot read a.toml: no such file").context("a start");
        assert_eq!(reasons(&error), "a start: cannot read a.toml: no such file");
    }
}
