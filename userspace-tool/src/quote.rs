// SPDX-License-Identifier: GPL-2.0

//! Foreign text, made so that it shows what is in it and does nothing else.

/// Whether a character is shown as itself: it is no control character, nothing invisible, and has no other text written
/// the other way round.
pub fn is_plain(letter: char) -> bool {
    let hidden = matches!(
        letter,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !letter.is_control() && !hidden
}

/// Text that cannot write to a terminal, nor look like another one: what is not plain is there as its escape.
pub fn printable(text: &str) -> String {
    let escaped = |letter: char| match is_plain(letter) {
        true => letter.to_string(),
        false => letter.escape_default().to_string(),
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(printable("grün \"a\\b\""), "grün \"a\\b\"");
        assert_eq!(printable("a\x1b[2J\n\u{9b}31m"), "a\\u{1b}[2J\\n\\u{9b}31m");
        assert_eq!(printable("x\u{202e}gpj.exe"), "x\\u{202e}gpj.exe");
        assert_eq!(
            printable("\u{feff}a\u{200b}\u{2028}"),
            "\\u{feff}a\\u{200b}\\u{2028}"
        );
    }
}
