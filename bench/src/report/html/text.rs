//! Small pieces of HTML and how figures are written.

use bytesize::ByteSize;

/// Text as HTML shows it unchanged; a mode's or a setting's name may come from a file.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

/// Seconds with as many places as one wants to read.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1000.0),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}

/// The class of a mode's colour: what Shoal is compared with is grey and brown, all else has its own.
pub(super) fn colour(name: &str, place: usize) -> String {
    match name {
        "direct" | "cache" => format!("c-{name}"),
        "shoal" => "c0".to_owned(),
        _ => format!("c{}", 1 + place % 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_files_cannot_become_markup() {
        assert_eq!(escape("<script>\"a\"&'b'"), "&lt;script&gt;&quot;a&quot;&amp;&#39;b&#39;");
    }

    #[test]
    fn seconds_are_readable() {
        assert_eq!([0.0312, 2.345, 25.31, 359.4].map(seconds), ["31 ms", "2.35 s", "25.3 s", "359 s"]);
    }
}
